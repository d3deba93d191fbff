//! Conversion between the columns of `requests` and the models.

use std::{error::Error, str::FromStr};

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params, types::Type};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::value::{RawValue, to_raw_value};

use super::{Scope, attempts, events};
use crate::models::{Failure, Request, RequestId, Traceparent};

/// SQL that sets a row's `work`: of the redelivery if one is in progress, otherwise the status.
macro_rules! set_work {
    ($work:literal) => {
        // SQLite evaluates all right-hand sides before it assigns, so both see the old
        // `redelivery`.
        concat!(
            "status = iif(redelivery IS NULL, '",
            $work,
            "', status), redelivery = iif(redelivery IS NULL, NULL, '",
            $work,
            "')"
        )
    };
}
pub(super) use set_work;

/// SQL for the origin of a row's callback, the same expression as in the index `waiting_by_origin`:
/// `SQLite` uses the index only if they match.
macro_rules! origin {
    () => {
        "substr(coalesce(callback_target, callback_url), 1,
           7 + instr(substr(coalesce(callback_target, callback_url), 9), '/'))"
    };
}
pub(super) use origin;

/// A time as stored: RFC 3339, UTC, milliseconds. Text order is time order.
pub(super) fn time(at: Timestamp) -> String {
    format!("{at:.3}")
}

/// The JSON of a model.
#[expect(
    clippy::expect_used,
    reason = "serialising fails only for maps with non-string keys and failing Serialize impls; no \
              model has either"
)]
pub(super) fn to_json<T: Serialize>(model: &T) -> String {
    serde_json::to_string(model).expect("a model serialises to JSON")
}

/// Parses the JSON in a column as a `T`. SQL null is read as JSON `null`.
pub(super) fn from_json<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    let text = row.get_ref(column)?.as_str_or_null()?.unwrap_or("null");
    serde_json::from_str(text).map_err(|error| unreadable(column, error))
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
    parse(row.get_ref(column)?.as_str()?, column)
}

/// The trace context in a column, or one derived from the id. Text that can't be parsed counts as
/// none: no job may fail because of its trace.
pub(super) fn traceparent(
    row: &Row<'_>,
    column: usize,
    id: RequestId,
) -> rusqlite::Result<Traceparent> {
    let text = row.get_ref(column)?.as_str_or_null().unwrap_or_default();
    let sent = text.and_then(|text| text.parse().ok());
    Ok(sent.unwrap_or_else(|| Traceparent::of(id)))
}

/// Finds a request within `scope`, in the form that clients see.
pub(super) fn find(
    connection: &Connection,
    scope: &Scope,
    id: RequestId,
) -> rusqlite::Result<Option<Request>> {
    connection
        .prepare_cached(
            "SELECT mode, status, input_payload, result_payload, callback_url, created_at,
                    completed_at, failure_reason, failure_detail, claim, lost_claims,
                    next_attempt_at, parked_since, redelivery, parks, traceparent
             FROM requests WHERE id = ?1 AND (?2 IS NULL OR created_by = ?2)",
        )?
        .query_row(params![id.to_string(), scope.name()], |row| {
            request(id, row)
        })
        .optional()?
        .map(|request| {
            Ok(Request {
                attempts: attempts::of(connection, id)?,
                events: events::of(connection, id)?,
                ..request
            })
        })
        .transpose()
}

fn request(id: RequestId, row: &Row<'_>) -> rusqlite::Result<Request> {
    let reason: Option<String> = row.get(7)?;
    let detail: Option<String> = row.get(8)?;
    let redelivery: Option<String> = row.get(13)?;
    let failure = reason
        .map(|reason| {
            Ok::<_, rusqlite::Error>(Failure::new(parse(&reason, 7)?, detail.unwrap_or_default()))
        })
        .transpose()?;
    Ok(Request {
        id,
        mode: parsed(row, 0)?,
        status: parsed(row, 1)?,
        // NOT NULL in the table, so the default is never used.
        input_payload: json(row, 2)?.unwrap_or_default(),
        result_payload: json(row, 3)?,
        callback_url: row.get(4)?,
        created_at: row.get(5)?,
        completed_at: row.get(6)?,
        failure,
        claims: row.get(9)?,
        lost_claims: row.get(10)?,
        attempts: Vec::new(),
        next_attempt_at: row.get(11)?,
        parked_since: row.get(12)?,
        parks: row.get(14)?,
        redelivery: redelivery.map(|work| parse(&work, 13)).transpose()?,
        traceparent: traceparent(row, 15, id)?,
        events: Vec::new(),
    })
}

fn parse<T>(text: &str, column: usize) -> rusqlite::Result<T>
where
    T: FromStr<Err: Into<Box<dyn Error + Send + Sync>>>,
{
    text.parse()
        .map_err(|error: T::Err| unreadable(column, error))
}

/// The JSON in a column, unchanged. Invalid JSON, from an edit by hand, is shown as a string.
fn json(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Box<RawValue>>> {
    let Some(bytes) = row.get_ref(column)?.as_bytes_or_null()? else {
        return Ok(None);
    };
    // SQLite does not check that a TEXT is valid UTF-8.
    let text = String::from_utf8_lossy(bytes).into_owned();
    RawValue::from_string(text)
        .or_else(|_| to_raw_value(&String::from_utf8_lossy(bytes)))
        .map(Some)
        .map_err(|error| unreadable(column, error))
}

fn unreadable(column: usize, error: impl Into<Box<dyn Error + Send + Sync>>) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Text, error.into())
}
