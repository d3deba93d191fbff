//! The claim: how a row becomes one worker's, and nobody else's.

use jiff::Timestamp;
use rusqlite::{Connection, Row, ToSql, params, types::ToSqlOutput};
use uuid::Uuid;

use super::rows;
use crate::{
    models::{FailureReason, ReportSpec, RequestId, Traceparent},
    services::report::Report,
};

/// The identity of one start of a worker's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OwnerId(Uuid);

impl OwnerId {
    /// A new identity.
    pub fn generate() -> Self {
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

/// The right to write to one row, until somebody takes it over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The row.
    pub id: RequestId,
    /// Who claimed it.
    pub owner: OwnerId,
    /// The how-manieth claim of this row it is, from 1.
    pub number: i64,
}

/// A `PENDING` job as somebody saw it: it is claimed only if it is still so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The row.
    pub id: RequestId,
    /// How many workers died with it, as the table has it.
    pub lost_claims: i64,
    /// Until when it had to wait, as the table has it; none for one that was never claimed.
    pub(super) waited_until: Option<String>,
}

impl Candidate {
    /// A job that the notifier rings for: one that nobody has claimed before.
    pub fn notified(id: RequestId) -> Self {
        Self {
            id,
            lost_claims: 0,
            waited_until: None,
        }
    }
}

/// A claimed job, with what earlier claims stored of it.
#[derive(Clone, Debug)]
pub struct Job {
    /// The right to write to it.
    pub claim: Claim,
    /// What to make.
    pub spec: ReportSpec,
    /// The report, if it has been made before.
    pub report: Option<Report>,
    /// Where to call back: a URL's normal form.
    pub callback_target: Option<String>,
    /// The trace that it belongs to; none of a job that an older version accepted.
    pub traceparent: Traceparent,
    /// Callback attempts whose outcome is known.
    pub attempts: u32,
    /// How many of these belong to earlier series: before a redelivery was asked for.
    pub attempts_before: u32,
    /// Since when the next attempt has been put off for its receiver's sake.
    pub parked_since: Option<Timestamp>,
}

/// Claims those of `candidates` that are as they were seen.
pub(super) fn claim_all(
    connection: &Connection,
    owner: OwnerId,
    candidates: &[Candidate],
) -> rusqlite::Result<Vec<Job>> {
    let owner_text = owner.to_string();
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
    for candidate in candidates {
        let id = candidate.id;
        let mut claimed = claim.query(params![
            id.to_string(),
            owner_text,
            candidate.lost_claims,
            candidate.waited_until,
        ])?;
        let Some(row) = claimed.next()? else { continue };
        let job = read(row, id, owner);
        claimed.next()?; // to its end: a statement that writes is not left half-way
        match job {
            Ok(job) => jobs.push(job),
            Err(error) => fail_invalid(connection, id, &error)?,
        }
    }
    Ok(jobs)
}

/// A row that the API can't have written ends here: it would only fail again.
fn fail_invalid(
    connection: &Connection,
    id: RequestId,
    error: &rusqlite::Error,
) -> rusqlite::Result<()> {
    tracing::error!(%id, %error, "a row can't be read");
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
            format!("The row can't be read: {error}."),
        ])?;
    Ok(())
}

/// A job from what `RETURNING` returns.
fn read(row: &Row<'_>, id: RequestId, owner: OwnerId) -> rusqlite::Result<Job> {
    Ok(Job {
        claim: Claim {
            id,
            owner,
            number: row.get(0)?,
        },
        spec: rows::from_json(row, 1)?,
        report: rows::from_json(row, 2)?,
        callback_target: row.get(3)?,
        traceparent: rows::traceparent(row, 4, id)?,
        attempts: row.get(5)?,
        attempts_before: row.get(6)?,
        // A time that can't be read is another hand's: the job then has not waited yet.
        parked_since: row
            .get::<_, Option<String>>(7)?
            .and_then(|at| at.parse().ok()),
    })
}
