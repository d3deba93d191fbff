//! Conversion between columns and the models.

use std::{
    error::Error,
    str::{FromStr, from_utf8},
    time::Duration,
};

use jiff::Timestamp;
use rusqlite::{
    Row,
    types::{Type, ValueRef},
};
use serde_json::value::{RawValue, to_raw_value};

use crate::{
    models::{
        CallbackUrl, ClientName, Failure, FailureReason, HandlerName, Origin, RequestId, Status,
        Traceparent,
    },
    services::store::Scope,
};

/// More than lies between reading a request's `created_at` and generating its id.
const ID_SLACK: Duration = Duration::from_secs(1);

/// A time as stored: RFC 3339, UTC, milliseconds. Text order is time order.
pub(super) fn time(at: Timestamp) -> String {
    format!("{at:.3}")
}

/// A text below the ids of all requests that were created at `since` or later.
pub(super) fn below_ids_since(since: Timestamp) -> String {
    // The id is generated when `created_at` is read, and its time never goes back when the wall
    // clock does. So this bound leaves out no such id.
    let earlier = since.saturating_sub(ID_SLACK).unwrap_or(Timestamp::MIN);
    // Ids from this one on are greater than the text before its last character.
    RequestId::floor(earlier).to_string()[..35].to_owned()
}

/// SQL for the JSON array of the handlers in a row of `workers`: empty if an edit by hand has made
/// it no JSON.
pub(super) const SERVED: &str = "iif(json_valid(handlers), handlers, '[]')";

/// SQL for whether the work of a request has failed.
pub(super) const WORK_FAILED: &str =
    "coalesce(failure_reason IN ('work_failed', 'work_timed_out'), 0)";

/// SQL for the reason and detail that a request is `FAILED` with, if it fails for those in the
/// parameters `reason` and `detail`: why its work failed stays the reason.
pub(super) fn failure_set(reason: &str, detail: &str) -> String {
    format!(
        "failure_reason = iif({WORK_FAILED}, failure_reason, {reason}),
         failure_detail = iif({WORK_FAILED}, failure_detail, {detail})"
    )
}

/// The handler as the column has it: null for the built-in report.
pub(super) fn handler(handler: &HandlerName) -> Option<&str> {
    Some(handler)
        .filter(|handler| **handler != HandlerName::REPORT)
        .map(HandlerName::as_str)
}

/// The name of the handler in such a column, as clients see it.
pub(super) fn handler_name(row: &Row<'_>, column: usize) -> rusqlite::Result<String> {
    let name = text(row, column)?;
    Ok(name.unwrap_or_else(|| HandlerName::REPORT.as_str().to_owned()))
}

/// The count in an integer column. One out of range was edited by hand: it is the nearest count.
pub(super) fn count(stored: i64) -> u32 {
    u32::try_from(stored.max(0)).unwrap_or(u32::MAX)
}

/// A count as an SQL integer.
pub(super) fn integer(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Parses the text in a column as a `T`.
pub(super) fn parsed<T>(row: &Row<'_>, column: usize) -> rusqlite::Result<T>
where
    T: FromStr<Err: Into<Box<dyn Error + Send + Sync>>>,
{
    let text = row.get_ref(column)?.as_str()?;
    text.parse()
        .map_err(|error: T::Err| unreadable(column, error))
}

/// The same; SQL null is `None`.
pub(super) fn parsed_or_null<T>(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<T>>
where
    T: FromStr<Err: Into<Box<dyn Error + Send + Sync>>>,
{
    match row.get_ref(column)? {
        ValueRef::Null => Ok(None),
        _ => parsed(row, column).map(Some),
    }
}

/// The trace context in a text, or one derived from the id. Text that can't be parsed counts as
/// none: no job may fail because of its trace.
pub(super) fn traceparent(text: Option<&str>, id: RequestId) -> Traceparent {
    let sent = text.and_then(|text| text.parse().ok());
    sent.unwrap_or_else(|| Traceparent::of(id))
}

/// The client name in a `created_by`. Text that is no name was edited by hand, and counts as none:
/// no job may fail because of it.
pub(super) fn client_name(stored: Option<&[u8]>) -> Option<ClientName> {
    from_utf8(stored?).ok()?.parse().ok()
}

/// The value to compare with `created_by`; null matches every row.
pub(super) fn tenant(scope: &Scope) -> Option<&str> {
    match scope {
        Scope::All => None,
        Scope::Of(name) => Some(name.as_str()),
    }
}

/// The origin of a callback: as stored in the column, or of the URL in the column after it, in a
/// row of the previous release.
pub(super) fn origin(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Origin>> {
    if let Some(stored) = text(row, column)? {
        return Ok(Some(Origin::stored(&stored)));
    }
    let url = text(row, column + 1)?;
    let url = url.and_then(|url| CallbackUrl::from_target(&url).ok());
    Ok(url.map(|url| url.origin().clone()))
}

/// The text in a column. `SQLite` does not check that it is valid UTF-8, which an edit by hand can
/// break: such bytes are shown as U+FFFD.
pub(super) fn text(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<String>> {
    let bytes = row.get_ref(column)?.as_bytes_or_null()?;
    Ok(bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned()))
}

/// The bytes of the text in a column, whatever they are.
pub(super) fn bytes(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Vec<u8>>> {
    Ok(row.get_ref(column)?.as_bytes_or_null()?.map(<[u8]>::to_vec))
}

/// The JSON in a column, unchanged. Invalid JSON, from an edit by hand, is shown as a string.
pub(super) fn json(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Box<RawValue>>> {
    let Some(text) = text(row, column)? else {
        return Ok(None);
    };
    serde_json::from_str(&text)
        .or_else(|_| to_raw_value(&text))
        .map(Some)
        .map_err(|error| unreadable(column, error))
}

fn unreadable(column: usize, error: impl Into<Box<dyn Error + Send + Sync>>) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Text, error.into())
}

/// The failure that a request of `status` has. That of its work is stored before its client is
/// told, and shows once the request has failed.
pub(super) fn failure_of(
    status: Status,
    row: &Row<'_>,
    reason: usize,
    detail: usize,
) -> rusqlite::Result<Option<Failure>> {
    if status == Status::Failed {
        failure(row, reason, detail)
    } else {
        Ok(None)
    }
}

/// Why a request has failed, if it has, from the columns of the reason and the detail.
pub(super) fn failure(
    row: &Row<'_>,
    reason: usize,
    detail: usize,
) -> rusqlite::Result<Option<Failure>> {
    // A reason of a later release, or of an edit by hand: the rest of the row is to be read.
    let reason = parsed_or_null(row, reason).unwrap_or(Some(FailureReason::InvalidRow));
    let detail = text(row, detail)?.unwrap_or_default();
    Ok(reason.map(|reason| Failure::new(reason, detail)))
}
