//! The record of callback attempts.

use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, params};

use super::{claim::Claim, rows};
use crate::models::{Attempt, AttemptClass, RequestId};

/// The number of attempts, and of events, kept for one request; older ones are deleted. Without
/// this limit, repeated redelivery would grow the tables without bound.
pub(super) const KEPT: u32 = 1000;

/// A callback attempt to record together with the job's new state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptRecord {
    /// Number of the attempt within its request, from 1, including redeliveries.
    pub number: u32,
    /// Start time.
    pub started_at: Timestamp,
    /// Duration.
    pub duration: Duration,
    /// Outcome class.
    pub class: AttemptClass,
    /// HTTP status code, if there was a response.
    pub status: Option<u16>,
    /// Error text that the job's owner may see.
    pub error: Option<String>,
    /// Full error text for operators. It can name internal addresses.
    pub internal_detail: Option<String>,
}

impl AttemptRecord {
    /// Whether the receiver may have received this callback and may receive it again.
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
    // REPLACE: the number is only taken if the row was edited by hand. That must not block the job.
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
            // A deadline has 30 days at most, which fit. Only a suspended process takes longer.
            u32::try_from(attempted.duration.as_millis()).unwrap_or(u32::MAX),
            attempted.class.as_str(),
            attempted.status,
            attempted.error,
            attempted.internal_detail,
        ])?;
    // Numbers are consecutive, so the newest one determines which are too old.
    if let Some(oldest) = attempted.number.checked_sub(KEPT) {
        connection
            .prepare_cached("DELETE FROM attempts WHERE request_id = ?1 AND number <= ?2")?
            .execute(params![claim.id.to_string(), oldest])?;
    }
    Ok(())
}

/// Reads the attempts of a request, in order.
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
