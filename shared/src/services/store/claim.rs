//! Claims: exclusive ownership of a row by one worker, guarded by a fencing token.

use jiff::Timestamp;
use rusqlite::{Connection, Row, ToSql, params, types::ToSqlOutput};
use uuid::Uuid;

use super::rows;
use crate::{
    models::{FailureReason, ReportSpec, RequestId, Traceparent},
    services::report::Report,
};

/// The identity of one worker process. A restart gets a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OwnerId(Uuid);

impl OwnerId {
    /// A new identity.
    pub fn generate() -> Self {
        // Random and never reused: a worker that lost its lease must not pass for its successor.
        Self(Uuid::new_v4())
    }
}

impl std::fmt::Display for OwnerId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl ToSql for OwnerId {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.to_string().into())
    }
}

/// The right to write to one row. It ends when the job is finished, released or reclaimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The row.
    pub id: RequestId,
    /// The worker that holds the claim.
    pub owner: OwnerId,
    /// The fencing token: the row's claim counter, from 1. Every write under this claim names it,
    /// so a write under an older claim changes nothing.
    pub number: i64,
}

/// A claimable job as it was read. The claim succeeds only if the row is unchanged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The row.
    pub id: RequestId,
    /// Claims lost with their workers, as stored.
    pub lost_claims: i64,
    /// When the job becomes due, as stored; `None` if it was never claimed.
    pub(super) due_at: Option<String>,
}

impl Candidate {
    /// The job of a notification. Only jobs that were never claimed are notified.
    pub fn notified(id: RequestId) -> Self {
        Self {
            id,
            lost_claims: 0,
            due_at: None,
        }
    }

    /// Whether the job was never claimed.
    pub fn is_new(&self) -> bool {
        self.due_at.is_none()
    }
}

/// A claimed job, with the state that earlier claims stored.
#[derive(Clone, Debug)]
pub struct Job {
    /// The claim that every write names.
    pub claim: Claim,
    /// The report to generate.
    pub spec: ReportSpec,
    /// The stored report, if an earlier claim generated it.
    pub report: Option<Report>,
    /// The callback URL in normal form.
    pub callback_target: Option<String>,
    /// The trace context. Derived from the id if the caller sent none.
    pub traceparent: Traceparent,
    /// Callback attempts with a known outcome.
    pub attempts: u32,
    /// How many of them were made before the latest redelivery was requested.
    pub attempts_before: u32,
    /// Since when the job has been parked.
    pub parked_since: Option<Timestamp>,
}

/// Claims the `candidates` whose rows are unchanged.
pub(super) fn claim_all(
    connection: &Connection,
    owner: OwnerId,
    candidates: &[Candidate],
) -> rusqlite::Result<Vec<Job>> {
    let owner_text = owner.to_string();
    // `IS`, not `=`: the null of a job that was never claimed would equal nothing.
    let mut claim = connection.prepare_cached(concat!(
        "UPDATE requests SET ",
        rows::set_work!("PROCESSING"),
        ", claim = claim + 1, owner = ?2,
                 next_attempt_at = NULL
             WHERE id = ?1 AND work = 'PENDING' AND mode = 'async'
               AND lost_claims = ?3 AND next_attempt_at IS ?4
             RETURNING claim, input_payload, result_payload,
                 coalesce(callback_target, callback_url), traceparent, attempts,
                 attempts_before, parked_since"
    ))?;
    let mut jobs = Vec::with_capacity(candidates.len());
    // The conditions on `lost_claims` and `next_attempt_at` make this a compare-and-swap: a job
    // that was claimed and released meanwhile is not claimed on stale information.
    for candidate in candidates {
        let id = candidate.id;
        let mut claimed = claim.query(params![
            id.to_string(),
            owner_text,
            candidate.lost_claims,
            candidate.due_at,
        ])?;
        // Another worker won, or the notification was late, repeated or forged.
        let Some(row) = claimed.next()? else { continue };
        let job = read(row, id, owner);
        // Step the statement to its end, or SQLite keeps it, and its write, open.
        claimed.next()?;
        match job {
            Ok(job) => jobs.push(job),
            // In the same transaction: an error would roll back every other claim, again and again.
            Err(error) => fail_invalid(connection, id, &error)?,
        }
    }
    Ok(jobs)
}

/// Fails a row that can't be parsed. Only an edit from outside can produce one, and every retry
/// would fail again.
fn fail_invalid(
    connection: &Connection,
    id: RequestId,
    error: &rusqlite::Error,
) -> rusqlite::Result<()> {
    tracing::error!(%id, %error, "can't parse a row");
    connection
        .prepare_cached(
            "UPDATE requests SET
                 status = iif(status = 'COMPLETED', status, 'FAILED'),
                 completed_at = iif(status IN ('COMPLETED', 'FAILED'), completed_at, ?2),
                 failure_reason = iif(status = 'COMPLETED', failure_reason, ?3),
                 failure_detail = iif(status = 'COMPLETED', failure_detail, ?4),
                 redelivery = NULL, parked_since = NULL, attempts = max(attempts, 0)
             WHERE id = ?1",
        )?
        .execute(params![
            id.to_string(),
            rows::time(Timestamp::now()),
            FailureReason::InvalidRow.as_str(),
            format!("The row can't be parsed: {error}."),
        ])?;
    Ok(())
}

/// Builds a job from the `RETURNING` row.
fn read(row: &Row<'_>, id: RequestId, owner: OwnerId) -> rusqlite::Result<Job> {
    Ok(Job {
        claim: Claim {
            id,
            owner,
            number: row.get(0)?,
        },
        spec: rows::from_json(row, 1)?,
        // A stored report is used as it is: the callback has the same bytes on every attempt.
        report: rows::from_json(row, 2)?,
        callback_target: row.get(3)?,
        traceparent: rows::traceparent(row, 4, id)?,
        attempts: row.get(5)?,
        attempts_before: row.get(6)?,
        // A time that can't be parsed was edited by hand; treat the job as not parked.
        parked_since: row
            .get::<_, Option<String>>(7)?
            .and_then(|at| at.parse().ok()),
    })
}
