//! The backlog in the table: which jobs are due, and when the next one becomes due.

use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, Params, Row, params};

use super::columns;
use crate::{
    models::{Origin, RequestId},
    services::store::{Candidate, DueJobs, DueQuery},
};

/// Clock differences up to this much are not taken for a clock that was set back.
const CLOCK_SLACK: Duration = Duration::from_mins(1);

/// Reads the jobs that are due at `now` and have lost no claim.
///
/// A job scheduled further ahead than `longest_wait`, or with an id from the future, was written
/// before the clock was set back. Such a job is due at once.
pub(super) fn due_jobs(
    connection: &Connection,
    query: DueQuery,
    now: Timestamp,
) -> rusqlite::Result<DueJobs> {
    let present = columns::time(now);
    let beyond_any_wait = columns::time(now + query.longest_wait + CLOCK_SLACK);
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
        let room = columns::integer(query.limit - due.len());
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
            "SELECT id, claim, lost_claims FROM requests INDEXED BY suspects
             WHERE work = 'PENDING' AND mode = 'async' AND lost_claims > 0
             ORDER BY lost_claims, next_attempt_at LIMIT ?1",
        )?
        .query_map([columns::integer(limit)], candidate)?
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
            "SELECT id, claim, lost_claims FROM requests
             WHERE work = 'PENDING' AND mode = 'async' AND {condition} LIMIT ?2"
        ))?
        .query_map(params, candidate)?
        .collect()
}

fn candidate(row: &Row<'_>) -> rusqlite::Result<Candidate> {
    Ok(Candidate {
        id: columns::parsed(row, 0)?,
        claims: row.get(1)?,
        // A count below zero was edited by hand.
        lost_claims: row.get::<_, i64>(2)?.try_into().unwrap_or_default(),
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
    origin: &Origin,
    limit: usize,
    now: Timestamp,
) -> rusqlite::Result<usize> {
    connection
        // `next_attempt_at > ?2` leaves out jobs that are due already. INDEXED BY: the planner
        // would otherwise search every origin's scheduled jobs in `requests_by_work`.
        .prepare_cached(
            "UPDATE requests SET next_attempt_at = ?2 WHERE id IN (
                 SELECT id FROM requests INDEXED BY backlog
                 WHERE work = 'PENDING' AND next_attempt_at > ?2 AND parked_since IS NOT NULL
                   AND origin = ?1
                 LIMIT ?3)",
        )?
        .execute(params![origin.as_str(), columns::time(now), columns::integer(limit)])
}

/// Returns the origins with a backlog of at least `most` scheduled or parked jobs.
pub(super) fn origins_over_limit(
    connection: &Connection,
    most: usize,
) -> rusqlite::Result<Vec<Origin>> {
    connection
        // INDEXED BY, as above. A job without a callback has no origin and counts for none.
        .prepare_cached(
            "SELECT origin FROM requests INDEXED BY backlog
             WHERE work = 'PENDING' AND next_attempt_at IS NOT NULL AND origin IS NOT NULL
             GROUP BY origin HAVING count(*) >= ?1",
        )?
        .query_map([columns::integer(most)], |row| {
            let origin = columns::text(row, 0)?.unwrap_or_default();
            Ok(Origin::stored(&origin))
        })?
        .collect()
}
