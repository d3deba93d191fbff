//! Claims: exclusive ownership of a row by one worker, guarded by a fencing token.

use std::{error::Error, str::from_utf8};

use rusqlite::{Connection, Row, params};

use super::{columns, columns::set_work};
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
        ", claim = claim + 1, owner = ?2,
                 next_attempt_at = NULL
             WHERE id = ?1 AND work = 'PENDING' AND mode = 'async' AND claim = ?3
             RETURNING claim, input_payload, result_payload,
                 coalesce(callback_target, callback_url), traceparent, attempts,
                 attempts_before, parked_since"
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
    parked_since: Option<Vec<u8>>,
}

impl ClaimedRow {
    /// Reads the `RETURNING` row.
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
            parked_since: bytes(row, 7)?,
        })
    }

    /// The job. Only an edit from outside can produce a row that can't be parsed.
    pub(super) fn into_job(self) -> Result<Job, InvalidJob> {
        let claim = self.claim;
        self.parse().map_err(|error| {
            tracing::error!(id = %claim.id, %error, "can't parse a row");
            let detail = format!("The row can't be parsed: {error}.");
            InvalidJob {
                claim,
                failure: Failure::new(FailureReason::InvalidRow, detail),
            }
        })
    }

    fn parse(self) -> Result<Job, Box<dyn Error>> {
        let target = self.target.as_deref().map(from_utf8).transpose()?;
        let traceparent = self.traceparent.as_deref().and_then(text);
        let parked_since = self.parked_since.as_deref().and_then(text);
        let result = self.result.as_deref();
        Ok(Job {
            claim: self.claim,
            spec: serde_json::from_slice(&self.input)?,
            // A stored report is used as it is: the callback has the same bytes on every attempt.
            report: result.map(serde_json::from_slice).transpose()?,
            callback: target.map(CallbackUrl::from_target).transpose()?,
            traceparent: columns::traceparent(traceparent, self.claim.id),
            attempts: count(self.attempts),
            attempts_before: count(self.attempts_before),
            // A time that can't be parsed was edited by hand; treat the job as not parked.
            parked_since: parked_since.and_then(|at| at.parse().ok()),
        })
    }
}

fn bytes(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Vec<u8>>> {
    Ok(row.get_ref(column)?.as_bytes_or_null()?.map(<[u8]>::to_vec))
}

fn text(bytes: &[u8]) -> Option<&str> {
    from_utf8(bytes).ok()
}

/// A count below zero was edited by hand.
fn count(stored: i64) -> u32 {
    stored.clamp(0, u32::MAX.into()).try_into().unwrap_or(0)
}
