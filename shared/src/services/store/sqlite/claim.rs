//! Claims: exclusive ownership of a row by one worker, guarded by a fencing token.

use std::{error::Error, fmt::Display, str::from_utf8, time::Duration};

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{
    clock::StoreTime,
    columns,
    columns::{set_work, where_held},
};
use crate::{
    models::{CallbackUrl, Failure, FailureReason, RequestId},
    services::store::{Candidate, Claim, InvalidJob, Job, OwnerId},
};

/// Claims the `candidates` whose rows nobody has claimed since they were read.
pub(super) fn claim_all(
    connection: &Connection,
    owner: OwnerId,
    candidates: &[Candidate],
) -> rusqlite::Result<Vec<ClaimedRow>> {
    let owner_text = owner.to_string();
    // The condition on `claim` makes this a compare-and-swap: a job that was claimed and released
    // meanwhile is not claimed on stale information.
    let mut claim = connection.prepare_cached(concat!(
        "UPDATE requests SET ",
        set_work!("PROCESSING"),
        ", claim = claim + 1, owner = ?2, due = NULL
             WHERE id = ?1 AND work = 'PENDING' AND mode = 'async' AND claim = ?3
             RETURNING claim, input_payload, result_payload,
                 coalesce(callback_target, callback_url), traceparent, attempts,
                 attempts_before, parked_at"
    ))?;
    let mut rows = Vec::with_capacity(candidates.len());
    for candidate in candidates {
        let id = candidate.id;
        let mut claimed = claim.query(params![id.to_string(), owner_text, candidate.claims])?;
        // Another worker won, or the notification was late, repeated or forged.
        let Some(row) = claimed.next()? else { continue };
        rows.push(ClaimedRow::read(row, id, owner)?);
        // Step the statement to its end, or SQLite keeps it, and its write, open.
        claimed.next()?;
    }
    Ok(rows)
}

/// The `candidates` that `owner` holds under their next claim number: those that an earlier try of
/// the same claim has won, if it was committed.
pub(super) fn won(
    connection: &Connection,
    owner: OwnerId,
    candidates: &[Candidate],
) -> rusqlite::Result<Vec<ClaimedRow>> {
    let owner_text = owner.to_string();
    let mut held = connection.prepare_cached(concat!(
        "SELECT claim, input_payload, result_payload,
             coalesce(callback_target, callback_url), traceparent, attempts,
             attempts_before, parked_at
         FROM requests ",
        where_held!()
    ))?;
    let mut rows = Vec::new();
    for candidate in candidates {
        let id = candidate.id;
        let next = candidate.claims.saturating_add(1);
        let found = held.query_row(params![id.to_string(), owner_text, next], |row| {
            ClaimedRow::read(row, id, owner)
        });
        rows.extend(found.optional()?);
    }
    Ok(rows)
}

/// The columns of a claimed job as they are stored. They are parsed after the commit, so that no
/// other writer waits for that, and a row that can't be parsed rolls back no other claim.
pub(super) struct ClaimedRow {
    claim: Claim,
    input: Vec<u8>,
    result: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    traceparent: Option<Vec<u8>>,
    attempts: i64,
    attempts_before: i64,
    parked_at: Option<StoreTime>,
}

impl ClaimedRow {
    /// Reads the row of a claim.
    fn read(row: &Row<'_>, id: RequestId, owner: OwnerId) -> rusqlite::Result<Self> {
        let number = row.get(0)?;
        Ok(Self {
            claim: Claim { id, owner, number },
            input: bytes(row, 1)?.unwrap_or_default(),
            result: bytes(row, 2)?,
            target: bytes(row, 3)?,
            traceparent: bytes(row, 4)?,
            attempts: row.get(5)?,
            attempts_before: row.get(6)?,
            parked_at: row.get::<_, Option<i64>>(7)?.map(StoreTime::stored),
        })
    }

    /// The job. Only an edit from outside can produce a row that can't be parsed.
    pub(super) fn into_job(self, now: StoreTime) -> Result<Job, InvalidJob> {
        let claim = self.claim;
        self.parse(now).map_err(|error| {
            tracing::error!(id = %claim.id, %error, "can't parse a row");
            let detail = format!("The row can't be parsed: {error}.");
            InvalidJob {
                claim,
                failure: Failure::new(FailureReason::InvalidRow, detail),
            }
        })
    }

    fn parse(self, now: StoreTime) -> Result<Job, String> {
        let traceparent = self.traceparent.as_deref();
        let traceparent = traceparent.and_then(|sent| from_utf8(sent).ok());
        let result = self.result.as_deref();
        Ok(Job {
            claim: self.claim,
            spec: serde_json::from_slice(&self.input).map_err(in_column("input_payload"))?,
            // A stored report is used as it is: the callback has the same bytes on every attempt.
            report: result
                .map(serde_json::from_slice)
                .transpose()
                .map_err(in_column("result_payload"))?,
            callback: self
                .target
                .as_deref()
                .map(callback)
                .transpose()
                .map_err(in_column("callback_url"))?,
            traceparent: columns::traceparent(traceparent, self.claim.id),
            attempts: columns::count(self.attempts),
            attempts_before: columns::count(self.attempts_before),
            parked_for: self.parked_at.map_or(Duration::ZERO, |at| now.since(at)),
        })
    }
}

fn bytes(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Vec<u8>>> {
    Ok(row.get_ref(column)?.as_bytes_or_null()?.map(<[u8]>::to_vec))
}

fn callback(stored: &[u8]) -> Result<CallbackUrl, Box<dyn Error>> {
    Ok(CallbackUrl::from_target(from_utf8(stored)?)?)
}

/// Names the column in which an error was found.
fn in_column<E: Display>(column: &'static str) -> impl FnOnce(E) -> String {
    move |error| format!("{column}: {error}")
}
