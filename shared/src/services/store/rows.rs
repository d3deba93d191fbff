//! Between the columns of `requests` and the models.

use std::{error::Error, str::FromStr};

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, types::Type};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::models::{Failure, Request, RequestId};

/// A time as the table holds it: RFC 3339, UTC, milliseconds; the order of texts is that of times.
pub(super) fn time(at: Timestamp) -> String {
    format!("{at:.3}")
}

/// The JSON of a model that has no way to fail: no map with keys that are no strings, no floats.
pub(super) fn to_json<T: Serialize>(model: &T) -> String {
    serde_json::to_string(model).unwrap_or_else(|error| unreachable!("a model's JSON: {error}"))
}

/// A count as `SQLite` takes it.
pub(super) fn integer(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// The text in a column, read as a `T`.
pub(super) fn parsed<T>(row: &Row<'_>, column: usize) -> rusqlite::Result<T>
where
    T: FromStr<Err: Into<Box<dyn Error + Send + Sync>>>,
{
    parse(row.get_ref(column)?.as_str()?, column)
}

/// The request of that id, as a client may see it.
pub(super) fn find(connection: &Connection, id: RequestId) -> rusqlite::Result<Option<Request>> {
    connection
        .prepare_cached(
            "SELECT mode, status, input_payload, result_payload, callback_url, created_at,
                    completed_at, failure_reason, failure_detail, claim, attempts, next_attempt_at
             FROM requests WHERE id = ?1",
        )?
        .query_row([id.to_string()], |row| request(id, row))
        .optional()
}

fn request(id: RequestId, row: &Row<'_>) -> rusqlite::Result<Request> {
    let reason: Option<String> = row.get(7)?;
    let detail: Option<String> = row.get(8)?;
    let failure = reason
        .map(|reason| {
            Ok::<_, rusqlite::Error>(Failure::new(parse(&reason, 7)?, detail.unwrap_or_default()))
        })
        .transpose()?;
    Ok(Request {
        id,
        mode: parsed(row, 0)?,
        status: parsed(row, 1)?,
        input_payload: json(row.get(2)?, 2)?,
        result_payload: row
            .get::<_, Option<String>>(3)?
            .map(|text| json(text, 3))
            .transpose()?,
        callback_url: row.get(4)?,
        created_at: row.get(5)?,
        completed_at: row.get(6)?,
        failure,
        claims: row.get(9)?,
        attempts: row.get(10)?,
        next_attempt_at: row.get(11)?,
    })
}

fn parse<T>(text: &str, column: usize) -> rusqlite::Result<T>
where
    T: FromStr<Err: Into<Box<dyn Error + Send + Sync>>>,
{
    text.parse()
        .map_err(|error: T::Err| unreadable(column, error))
}

fn json(text: String, column: usize) -> rusqlite::Result<Box<RawValue>> {
    RawValue::from_string(text).map_err(|error| unreadable(column, error))
}

fn unreadable(column: usize, error: impl Into<Box<dyn Error + Send + Sync>>) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Text, error.into())
}
