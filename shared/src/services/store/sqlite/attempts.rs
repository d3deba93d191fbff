//! The record of attempts.

use rusqlite::{Connection, params};

use super::columns;
use crate::{
    models::{Attempt, RequestId, Stage},
    services::store::{AttemptRecord, Claim},
};

/// The number of attempts, and of events, kept for one request; older ones are deleted. Without
/// this limit, repeated redelivery would grow the tables without bound.
pub(super) const KEPT: u32 = 1000;

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
                 (request_id, number, started_at, duration_ms, class, status, error,
                  internal_detail, claim, stage)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        )?
        .execute(params![
            claim.id.to_string(),
            attempted.number,
            columns::time(attempted.started_at),
            // A deadline has 30 days at most, which fit. Only a suspended process takes longer.
            u32::try_from(attempted.duration.as_millis()).unwrap_or(u32::MAX),
            attempted.class.as_str(),
            attempted.status,
            attempted.error,
            attempted.internal_detail,
            claim.number,
            attempted.stage.as_str(),
        ])?;
    // Numbers are consecutive, so the newest one determines which are too old.
    if let Some(oldest) = attempted.number.checked_sub(KEPT) {
        connection
            .prepare_cached("DELETE FROM attempts WHERE request_id = ?1 AND number <= ?2")?
            .execute(params![claim.id.to_string(), oldest])?;
    }
    Ok(())
}

/// Whether this attempt is recorded under this claim.
pub(super) fn is_recorded(
    connection: &Connection,
    claim: &Claim,
    number: u32,
) -> rusqlite::Result<bool> {
    connection
        .prepare_cached(
            "SELECT count(*) FROM attempts WHERE request_id = ?1 AND number = ?2 AND claim = ?3",
        )?
        .query_one(params![claim.id.to_string(), number, claim.number], |row| {
            row.get(0)
        })
}

/// Reads the attempts of a request, in order.
pub(super) fn of(connection: &Connection, id: RequestId) -> rusqlite::Result<Vec<Attempt>> {
    connection
        .prepare_cached(
            "SELECT number, started_at, duration_ms, class, status, error, stage
             FROM attempts WHERE request_id = ?1 ORDER BY number",
        )?
        .query_map([id.to_string()], |row| {
            Ok(Attempt {
                number: row.get(0)?,
                started_at: row.get(1)?,
                duration_ms: row.get(2)?,
                class: columns::parsed(row, 3)?,
                status: row.get(4)?,
                error: row.get(5)?,
                // Null in rows of the release before, which knew no other.
                stage: columns::parsed_or_null(row, 6)?.unwrap_or(Stage::Callback),
            })
        })?
        .collect()
}
