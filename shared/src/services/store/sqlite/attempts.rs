//! The record of attempts: a row of `attempts` for each, but for the successful callback with which
//! a job ends. Most jobs have only that one, so it is in the row that their end writes anyway.

use std::borrow::Cow;

use rusqlite::{Connection, OptionalExtension, params};
use serde::{Deserialize, Serialize};

use super::{columns, state};
use crate::{
    models::{Attempt, AttemptClass, RequestId, Stage},
    services::store::{AttemptRecord, Claim, Work, job::to_json},
};

/// The number of attempts, and of events, kept for one request; older ones are deleted. Without
/// this limit, repeated redelivery would grow the tables without bound.
pub(super) const KEPT: u32 = 1000;

/// The column `delivered` of a job.
#[derive(Deserialize, Serialize)]
struct Delivered<'a> {
    number: u32,
    #[serde(borrow)]
    started_at: Cow<'a, str>,
    duration_ms: u32,
    status: Option<u16>,
    /// The claim under which it was made.
    claim: i64,
}

impl<'a> Delivered<'a> {
    /// `None` if an edit by hand has made the column invalid: that hides no other attempt.
    fn parse(json: &'a str) -> Option<Self> {
        serde_json::from_str(json).ok()
    }
}

/// What the row of a job has of the attempt with which it ends, if that goes there.
pub(super) fn delivered(claim: &Claim, attempted: &AttemptRecord) -> Option<String> {
    let is_delivery = claim.work == Work::Job
        && attempted.stage == Stage::Callback
        && attempted.class == AttemptClass::Success
        && attempted.error.is_none()
        && attempted.internal_detail.is_none();
    is_delivery.then(|| {
        to_json(&Delivered {
            number: attempted.number,
            started_at: columns::time(attempted.started_at).into(),
            duration_ms: duration_ms(attempted),
            status: attempted.status,
            claim: claim.number,
        })
    })
}

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

fn duration_ms(attempted: &AttemptRecord) -> u32 {
    // A deadline has 30 days at most, which fit. Only a suspended process takes longer.
    u32::try_from(attempted.duration.as_millis()).unwrap_or(u32::MAX)
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
    let mut attempts: Vec<_> = connection
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
        .collect::<rusqlite::Result<_>>()?;
    if let Some(delivered) = delivered.and_then(Delivered::parse) {
        insert(&mut attempts, delivered);
    }
    Ok(attempts)
}

fn insert(attempts: &mut Vec<Attempt>, delivered: Delivered<'_>) {
    let Delivered { number, .. } = delivered;
    let at = attempts.partition_point(|attempt| attempt.number < number);
    // The same number is only taken if the row was edited by hand.
    attempts.retain(|attempt| attempt.number != number);
    attempts.insert(
        at,
        Attempt {
            number,
            stage: Stage::Callback,
            started_at: delivered.started_at.into_owned(),
            duration_ms: delivered.duration_ms,
            class: AttemptClass::Success,
            status: delivered.status,
            error: None,
        },
    );
    // The table has deleted only what is too old of its own.
    let oldest = attempts
        .last()
        .map_or(0, |last| last.number.saturating_sub(KEPT));
    attempts.retain(|attempt| attempt.number > oldest);
}
