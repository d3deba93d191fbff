//! The backlog in the table: which jobs are due, and when the next one becomes due.

use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, Params, Row, params};

use super::{claim::Candidate, rows};
use crate::models::RequestId;

/// Clock differences up to this much are not taken for a clock that was set back.
const CLOCK_SLACK: Duration = Duration::from_mins(1);

/// Which due jobs to read.
#[derive(Clone, Copy, Debug)]
pub struct DueQuery {
    /// A job that was never claimed is left to its notification for this long after acceptance.
    pub notification_grace: Duration,
    /// The longest delay that a job can be scheduled with.
    pub longest_wait: Duration,
    /// The maximum number of jobs to return.
    pub limit: usize,
}

/// The result of a [`DueQuery`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DueJobs {
    /// Claimable jobs. Scheduled jobs come before jobs that were never claimed; oldest first within
    /// each kind.
    pub due: Vec<Candidate>,
    /// When the next scheduled job becomes due.
    pub next_due: Option<Timestamp>,
}

/// Reads the jobs that are due at `now` and have lost no claim.
///
/// A job scheduled further ahead than `longest_wait`, or with an id from the future, was written
/// before the clock was set back. Such a job is due at once.
pub(super) fn due_jobs(
    connection: &Connection,
    query: DueQuery,
    now: Timestamp,
) -> rusqlite::Result<DueJobs> {
    let present = rows::time(now);
    let beyond_any_wait = rows::time(now + query.longest_wait + CLOCK_SLACK);
    let notified_before = RequestId::floor(now - query.notification_grace).to_string();
    let from_the_future = RequestId::floor(now + CLOCK_SLACK).to_string();

    let mut due = Vec::new();
    // Each condition is one range of the index `requests_by_work`, read in order.
    for (condition, bound) in [
        (
            "lost_claims <= 0 AND next_attempt_at <= ?1 ORDER BY next_attempt_at",
            &present,
        ),
        (
            "lost_claims <= 0 AND next_attempt_at > ?1 ORDER BY next_attempt_at",
            &beyond_any_wait,
        ),
        (
            "next_attempt_at IS NULL AND id < ?1 ORDER BY id",
            &notified_before,
        ),
        (
            "next_attempt_at IS NULL AND id >= ?1 ORDER BY id",
            &from_the_future,
        ),
    ] {
        // No underflow: each query returns `room` candidates at most.
        let room = rows::integer(query.limit - due.len());
        if room > 0 {
            due.extend(candidates(connection, condition, (bound, room))?);
        }
    }
    Ok(DueJobs {
        due,
        next_due: next_due(connection, &present)?,
    })
}

/// Reads up to `limit` suspected poison jobs, fewest lost claims first.
pub(super) fn suspects(connection: &Connection, limit: usize) -> rusqlite::Result<Vec<Candidate>> {
    // No due time to check: scheduling a retry or parking a job resets `lost_claims`, so a suspect
    // is never scheduled for later.
    //
    // The planner would scan and sort every pending job. It takes the partial index only when told
    // to, and only for the literal condition of the index; if it could not, this would be an error.
    connection
        .prepare_cached(
            "SELECT id, lost_claims, next_attempt_at FROM requests INDEXED BY suspects
             WHERE work = 'PENDING' AND mode = 'async' AND lost_claims > 0
             ORDER BY lost_claims, next_attempt_at LIMIT ?1",
        )?
        .query_map([rows::integer(limit)], candidate)?
        .collect()
}

fn candidates(
    connection: &Connection,
    condition: &str,
    params: impl Params,
) -> rusqlite::Result<Vec<Candidate>> {
    connection
        // Conditions are constants of this module; values are bound. So nothing can be injected.
        .prepare_cached(&format!(
            "SELECT id, lost_claims, next_attempt_at FROM requests
             WHERE work = 'PENDING' AND mode = 'async' AND {condition} LIMIT ?2"
        ))?
        .query_map(params, candidate)?
        .collect()
}

fn candidate(row: &Row<'_>) -> rusqlite::Result<Candidate> {
    Ok(Candidate {
        id: rows::parsed(row, 0)?,
        lost_claims: row.get(1)?,
        due_at: row.get(2)?,
    })
}

fn next_due(connection: &Connection, present: &str) -> rusqlite::Result<Option<Timestamp>> {
    let next: Option<String> = connection
        .prepare_cached(
            "SELECT min(next_attempt_at) FROM requests
             WHERE work = 'PENDING' AND next_attempt_at > ?1",
        )?
        .query_one([present], |row| row.get(0))?;
    // A text that is not a time sorts before now or beyond any wait, so the job is due already.
    Ok(next.and_then(|next| next.parse().ok()))
}

/// Makes up to `limit` jobs parked for `origin` due at `now`.
pub(super) fn unpark(
    connection: &Connection,
    origin: &str,
    limit: usize,
    now: Timestamp,
) -> rusqlite::Result<usize> {
    connection
        // `next_attempt_at > ?2` leaves out jobs that are due already. INDEXED BY: the planner
        // would otherwise search every origin's scheduled jobs in `requests_by_work`.
        .prepare_cached(concat!(
            "UPDATE requests SET next_attempt_at = ?2 WHERE id IN (
                 SELECT id FROM requests INDEXED BY waiting_by_origin
                 WHERE work = 'PENDING' AND next_attempt_at > ?2 AND parked_since IS NOT NULL
                   AND ",
            rows::origin!(),
            " = ?1
                 LIMIT ?3)"
        ))?
        .execute(params![origin, rows::time(now), rows::integer(limit)])
}

/// Returns the origins with a backlog of at least `most` scheduled or parked jobs.
pub(super) fn origins_over_limit(
    connection: &Connection,
    most: usize,
) -> rusqlite::Result<Vec<String>> {
    connection
        // INDEXED BY, as above. A job without a callback has no origin and counts for none.
        .prepare_cached(concat!(
            "SELECT ",
            rows::origin!(),
            " AS origin FROM requests INDEXED BY waiting_by_origin
                 WHERE work = 'PENDING' AND next_attempt_at IS NOT NULL AND origin IS NOT NULL
                 GROUP BY origin HAVING count(*) >= ?1"
        ))?
        .query_map([rows::integer(most)], |row| row.get(0))?
        .collect()
}
