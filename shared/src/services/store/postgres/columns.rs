//! How values are stored, and read back.

use std::{
    str::FromStr,
    time::{Duration, SystemTime},
};

use jiff::Timestamp;
use serde_json::value::{RawValue, to_raw_value};
use tokio_postgres::Row;
use uuid::Uuid;

use super::error::Error;
use crate::{
    models::{
        CallbackUrl, ClientName, Failure, FailureReason, HandlerName, Origin, RequestId, Status,
        Traceparent,
    },
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

/// A time as it is stored: in whole milliseconds, as it is shown. One that the server has no room
/// for is the epoch.
pub(super) fn stored(at: Timestamp) -> SystemTime {
    // The server's times begin in 4713 BC.
    let millis = u64::try_from(at.as_millisecond()).unwrap_or(0);
    SystemTime::UNIX_EPOCH + Duration::from_millis(millis)
}

/// The time in a column. One out of range was edited by hand: it is the nearest time.
pub(super) fn time(row: &Row, column: &str) -> Result<Timestamp, Error> {
    let stored: SystemTime = row.try_get(column)?;
    let nearest = if stored < SystemTime::UNIX_EPOCH {
        Timestamp::MIN
    } else {
        Timestamp::MAX
    };
    Ok(stored.try_into().unwrap_or(nearest))
}

/// The same; SQL null is `None`.
pub(super) fn time_or_null(row: &Row, column: &str) -> Result<Option<Timestamp>, Error> {
    match row.try_get::<_, Option<SystemTime>>(column)? {
        Some(_) => time(row, column).map(Some),
        None => Ok(None),
    }
}

/// More than lies between reading a request's `created_at` and generating its id.
const ID_SLACK: Duration = Duration::from_secs(1);

/// No id of a request that was created at `since` or later is smaller.
pub(super) fn first_id_since(since: Timestamp) -> Uuid {
    // The id is generated when `created_at` is read, and its time never goes back when the wall
    // clock does. So this bound leaves out no such id.
    let earlier = since.saturating_sub(ID_SLACK).unwrap_or(Timestamp::MIN);
    RequestId::floor(earlier).uuid()
}

/// The first column of each row.
pub(super) fn ids(rows: &[Row]) -> Result<Vec<Uuid>, Error> {
    let ids = rows.iter().map(|row| row.try_get(0));
    Ok(ids.collect::<Result<_, _>>()?)
}

/// Puts `value` where the column `place` says, which counts from 1.
pub(super) fn set<T>(values: &mut [T], row: &Row, value: T) -> Result<(), Error> {
    let place: i64 = row.try_get("place")?;
    let at = usize::try_from(place - 1).unwrap_or(usize::MAX);
    match values.get_mut(at) {
        Some(slot) => {
            *slot = value;
            Ok(())
        }
        None => Err(Error::Row(format!("no item has the place {place}"))),
    }
}

/// SQL for the time in `column` as [`shown`] has it.
pub(super) fn shown_by_sql(column: &str) -> String {
    format!("to_char({column} AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"')")
}

/// SQL for whether a row with this `due` may be claimed. No wait is as long as 60 days: the
/// server's clock was set back since.
pub(super) fn is_due(due: &str) -> String {
    format!(
        "(coalesce({due}, now()) NOT BETWEEN now() + interval '1 microsecond'
        AND now() + interval '60 days')"
    )
}

/// SQL for whether a row with this `due` may be claimed in as many milliseconds as the `n`th
/// parameter has.
pub(super) fn is_due_within(due: &str, n: usize) -> String {
    format!("({due} <= {} OR {})", after(n), is_due(due))
}

/// The name of a handler as the column has it: null for the report.
pub(super) fn handler(handler: &HandlerName) -> Option<&str> {
    Some(handler)
        .filter(|handler| **handler != HandlerName::REPORT)
        .map(HandlerName::as_str)
}

/// The name of the handler in such a column, as clients see it.
pub(super) fn handler_name(row: &Row) -> Result<String, Error> {
    let name: Option<String> = row.try_get("handler")?;
    Ok(name.unwrap_or_else(|| HandlerName::REPORT.as_str().to_owned()))
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

/// The same; SQL null is `None`.
pub(super) fn parsed_or_null<T: FromStr>(row: &Row, column: &str) -> Result<Option<T>, Error> {
    match row.try_get::<_, Option<&str>>(column)? {
        Some(_) => parsed(row, column).map(Some),
        None => Ok(None),
    }
}

/// The JSON in a column, unchanged. What the server takes for JSON and this program does not is
/// shown as a string.
pub(super) fn json(row: &Row, column: &str) -> Result<Option<Box<RawValue>>, Error> {
    let Some(text): Option<&str> = row.try_get(column)? else {
        return Ok(None);
    };
    serde_json::from_str(text)
        .or_else(|_| to_raw_value(text))
        .map(Some)
        .map_err(|error| Error::Row(format!("the column {column}: {error}")))
}

/// The trace context in a text, or one derived from the id. Text that can't be parsed counts as
/// none: no job may fail because of its trace.
pub(super) fn traceparent(text: Option<&str>, id: RequestId) -> Traceparent {
    let sent = text.and_then(|text| text.parse().ok());
    sent.unwrap_or_else(|| Traceparent::of(id))
}

/// The origin of a callback: as stored, or of the URL in the column `target`, in a row that was
/// made by hand.
pub(super) fn origin(row: &Row) -> Result<Option<Origin>, Error> {
    if let Some(stored) = row.try_get("origin")? {
        return Ok(Some(Origin::stored(stored)));
    }
    let url: Option<&str> = row.try_get("target")?;
    let url = url.and_then(|url| CallbackUrl::from_target(url).ok());
    Ok(url.map(|url| url.origin().clone()))
}

/// The failure that a request of `status` has. That of its work is stored before its client is
/// told, and shows once the request has failed.
pub(super) fn failure_of(status: Status, row: &Row) -> Result<Option<Failure>, Error> {
    if status == Status::Failed {
        failure(row)
    } else {
        Ok(None)
    }
}

/// Why a request has failed, if it has, from the columns of the reason and the detail.
pub(super) fn failure(row: &Row) -> Result<Option<Failure>, Error> {
    let (reason, detail): (Option<&str>, Option<&str>) = (
        row.try_get("failure_reason")?,
        row.try_get("failure_detail")?,
    );
    // A reason of a later release, or of an edit by hand: the rest of the row is to be read.
    let reason = reason.map(|it| it.parse().unwrap_or(FailureReason::InvalidRow));
    Ok(reason.map(|reason| Failure::new(reason, detail.unwrap_or_default())))
}

/// The count in an integer column. One out of range was edited by hand: it is the nearest count.
pub(super) fn count(stored: impl Into<i64>) -> u32 {
    u32::try_from(stored.into().max(0)).unwrap_or(u32::MAX)
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
