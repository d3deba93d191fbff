//! The record of callback attempts.

use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, params};

use super::{claim::Claim, rows};
use crate::models::{Attempt, AttemptClass, RequestId};

/// The attempts, and the events, that a request keeps: the last ones. It can be delivered once more as often as
/// anybody likes, and what is kept of it must not grow with that.
pub(super) const KEPT: u32 = 1000;

/// An attempt that is to be recorded, with what its job's outcome is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptRecord {
    /// Of its request, from 1, redeliveries included.
    pub number: u32,
    /// When it began.
    pub started_at: Timestamp,
    /// How long it took.
    pub duration: Duration,
    /// What came of it.
    pub class: AttemptClass,
    /// The answer's status, where there was one.
    pub status: Option<u16>,
    /// What went wrong, as the job's owner may know it.
    pub error: Option<String>,
    /// The whole of it: it can name addresses.
    pub internal_detail: Option<String>,
}

impl AttemptRecord {
    /// Whether its receiver may hear of the job again because of it.
    pub(super) fn may_repeat(&self) -> bool {
        !matches!(self.class, AttemptClass::Success | AttemptClass::Refused)
    }
}

/// Records an attempt under the claim that made it.
pub(super) fn record(
    connection: &Connection,
    claim: &Claim,
    attempted: &AttemptRecord,
) -> rusqlite::Result<()> {
    // A number that is taken is another hand's work, and must not keep the job from its end.
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO attempts
                 (request_id, number, started_at, duration_ms, class, status, error, internal_detail)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?
        .execute(params![
            claim.id.to_string(),
            attempted.number,
            rows::time(attempted.started_at),
            u32::try_from(attempted.duration.as_millis()).unwrap_or(u32::MAX),
            attempted.class.as_str(),
            attempted.status,
            attempted.error,
            attempted.internal_detail,
        ])?;
    if let Some(oldest) = attempted.number.checked_sub(KEPT) {
        connection
            .prepare_cached("DELETE FROM attempts WHERE request_id = ?1 AND number <= ?2")?
            .execute(params![claim.id.to_string(), oldest])?;
    }
    Ok(())
}

/// A request's attempts, in order.
pub(super) fn of(connection: &Connection, id: RequestId) -> rusqlite::Result<Vec<Attempt>> {
    connection
        .prepare_cached(
            "SELECT number, started_at, duration_ms, class, status, error
             FROM attempts WHERE request_id = ?1 ORDER BY number",
        )?
        .query_map([id.to_string()], |row| {
            Ok(Attempt {
                number: row.get(0)?,
                started_at: row.get(1)?,
                duration_ms: row.get(2)?,
                class: rows::parsed(row, 3)?,
                status: row.get(4)?,
                error: row.get(5)?,
            })
        })?
        .collect()
}
