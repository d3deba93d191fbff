//! How values are stored, and read back.

use std::{
    str::FromStr,
    time::{Duration, SystemTime},
};

use jiff::Timestamp;
use tokio_postgres::Row;

use super::error::Error;
use crate::{
    models::{ClientName, HandlerName},
    services::store::Scope,
};

/// A text as the server can store it: it has no character U+0000.
pub(super) fn text(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// As a request shows it: RFC 3339, UTC, whole milliseconds.
pub(super) fn shown(at: Timestamp) -> String {
    format!("{at:.3}")
}

/// A time as it is stored. One that the server has no room for is the epoch.
pub(super) fn stored(at: Timestamp) -> SystemTime {
    // The server's times begin in 4713 BC.
    at.max(Timestamp::UNIX_EPOCH)
        .try_into()
        .unwrap_or(SystemTime::UNIX_EPOCH)
}

/// The time in a column.
pub(super) fn time(row: &Row, column: &str) -> Result<Timestamp, Error> {
    let stored: SystemTime = row.try_get(column)?;
    stored
        .try_into()
        .map_err(|_| Error::Row(format!("the column {column} holds a time out of range")))
}

/// The name of a handler as the column has it: null for the report.
pub(super) fn handler(handler: &HandlerName) -> Option<&str> {
    Some(handler)
        .filter(|handler| **handler != HandlerName::REPORT)
        .map(HandlerName::as_str)
}

/// The tenant of a scope; `None`: all tenants.
pub(super) fn tenant(scope: &Scope) -> Option<&str> {
    match scope {
        Scope::All => None,
        Scope::Of(name) => Some(name.as_str()),
    }
}

/// A name that can't be parsed was edited by hand, and counts as none.
pub(super) fn client(stored: Option<&str>) -> Option<ClientName> {
    stored?.parse().ok()
}

/// The value of a column that holds the text of `T`.
pub(super) fn parsed<T: FromStr>(row: &Row, column: &str) -> Result<T, Error> {
    let stored: &str = row.try_get(column)?;
    stored
        .parse()
        .map_err(|_| Error::Row(format!("the column {column} holds {stored:?}")))
}

/// The count in an integer column. One below zero was edited by hand: it counts as none.
pub(super) fn count(stored: i32) -> u32 {
    u32::try_from(stored).unwrap_or(0)
}

/// A number as the column has it.
pub(super) fn number(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// A number of rows as the server says it.
pub(super) fn size(rows: u64) -> usize {
    usize::try_from(rows).unwrap_or(usize::MAX)
}

/// A count as an SQL integer.
pub(super) fn integer(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// A wait in milliseconds: SQL makes an interval of it. None is longer than a century.
pub(super) fn millis(wait: Duration) -> i64 {
    const CENTURY: i64 = 100 * 365 * 86_400_000;
    i64::try_from(wait.as_millis())
        .unwrap_or(CENTURY)
        .min(CENTURY)
}

/// SQL for the moment that is the `n`th parameter, in milliseconds, from now.
pub(super) fn after(n: usize) -> String {
    format!("now() + ${n} * interval '1 millisecond'")
}
