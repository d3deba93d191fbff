//! The record of attempts: a row of `attempts` for each, but for the successful callback with which
//! a job ends. Most jobs have only that one, so it is in the row that their end writes anyway.

use rusqlite::{Connection, OptionalExtension, params};

use super::{columns, state};
use crate::{
    models::{Attempt, AttemptClass, RequestId, Stage},
    services::store::{
        AttemptRecord, Claim,
        delivered::{Delivered, KEPT, duration_ms, with_delivered},
    },
};

/// Gives the attempt in the row of a claimed job a row of its own: the job had ended, and was put
/// back by hand. Returns whether there was something in the way of another one.
pub(super) fn clear_delivered(tx: &Connection, claim: &Claim) -> rusqlite::Result<bool> {
    let id = claim.id.to_string();
    let is_held = format!("{} AND {}", state::IS_CLAIMED, state::IS_HELD);
    let held = params![id, claim.owner.to_string(), claim.number];
    let earlier = tx
        .prepare_cached(&format!(
            "SELECT delivered FROM requests WHERE {is_held} AND delivered IS NOT NULL"
        ))?
        .query_row(held, |row| columns::text(row, 0))
        .optional()?
        .flatten();
    let Some(earlier) = earlier else {
        return Ok(false);
    };
    if let Some(earlier) = Delivered::parse(&earlier) {
        // IGNORE: the number is taken if the count of attempts was edited, too.
        tx.prepare_cached(
            "INSERT OR IGNORE INTO attempts
                 (request_id, number, started_at, duration_ms, class, status, claim, stage)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?
        .execute(params![
            id,
            earlier.number,
            earlier.started_at,
            earlier.duration_ms,
            AttemptClass::Success.as_str(),
            earlier.status,
            earlier.claim,
            Stage::Callback.as_str(),
        ])?;
    }
    tx.prepare_cached("UPDATE requests SET delivered = NULL WHERE id = ?1")?
        .execute([id])?;
    Ok(true)
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
                 (request_id, number, started_at, duration_ms, class, status, error,
                  internal_detail, claim, stage)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        )?
        .execute(params![
            claim.id.to_string(),
            attempted.number,
            columns::time(attempted.started_at),
            duration_ms(attempted),
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
    let has_row: bool = connection
        .prepare_cached(
            "SELECT count(*) FROM attempts WHERE request_id = ?1 AND number = ?2 AND claim = ?3",
        )?
        .query_one(params![claim.id.to_string(), number, claim.number], |row| {
            row.get(0)
        })?;
    if has_row {
        return Ok(true);
    }
    let delivered = connection
        .prepare_cached("SELECT delivered FROM requests WHERE id = ?1")?
        .query_row([claim.id.to_string()], |row| columns::text(row, 0))
        .optional()?
        .flatten();
    let delivered = delivered.as_deref().and_then(Delivered::parse);
    Ok(delivered.is_some_and(|it| (it.number, it.claim) == (number, claim.number)))
}

/// Reads the attempts of a request, in order, of which its row has `delivered`.
pub(super) fn of(
    connection: &Connection,
    id: RequestId,
    delivered: Option<&str>,
) -> rusqlite::Result<Vec<Attempt>> {
    let attempts: Vec<_> = connection
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
                // Null in rows of the previous release, which knew no other.
                stage: columns::parsed_or_null(row, 6)?.unwrap_or(Stage::Callback),
            })
        })?
        .collect::<rusqlite::Result<_>>()?;
    Ok(with_delivered(attempts, delivered))
}
