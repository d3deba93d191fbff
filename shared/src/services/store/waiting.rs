//! What waits in the table: the jobs that may be claimed now, and when the next one may.

use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, Params, Row, params};

use super::{claim::Candidate, rows};
use crate::models::RequestId;

/// How far two readings of the clock may lie apart without anybody having set it back.
const CLOCK_SLACK: Duration = Duration::from_mins(1);

/// Which jobs are looked for.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// How long the notifier has to ring for a new job, before it is taken from the table.
    pub notification_grace: Duration,
    /// The longest time that a job may have been told to wait.
    pub longest_wait: Duration,
    /// The most jobs that are given.
    pub limit: usize,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Jobs that may be claimed, those that waited for it first, each kind oldest first.
    pub due: Vec<Candidate>,
    /// When the next job that waits may be claimed.
    pub next_due: Option<Timestamp>,
}

/// The jobs that may be claimed at `now`, and that no worker died with.
///
/// A time that lies further ahead than any wait, and an id from the future, were made before the
/// clock was set back. They have no more to wait for.
pub(super) fn look(
    connection: &Connection,
    look: Look,
    now: Timestamp,
) -> rusqlite::Result<Waiting> {
    let present = rows::time(now);
    let ahead = rows::time(now + look.longest_wait + CLOCK_SLACK);
    let rung_before = RequestId::floor(now - look.notification_grace).to_string();
    let from_the_future = RequestId::floor(now + CLOCK_SLACK).to_string();

    let mut due = Vec::new();
    for (condition, bound) in [
        (
            "lost_claims <= 0 AND next_attempt_at <= ?1 ORDER BY next_attempt_at",
            &present,
        ),
        (
            "lost_claims <= 0 AND next_attempt_at > ?1 ORDER BY next_attempt_at",
            &ahead,
        ),
        (
            "next_attempt_at IS NULL AND id < ?1 ORDER BY id",
            &rung_before,
        ),
        (
            "next_attempt_at IS NULL AND id >= ?1 ORDER BY id",
            &from_the_future,
        ),
    ] {
        let room = rows::integer(look.limit - due.len());
        if room > 0 {
            due.extend(candidates(connection, condition, (bound, room))?);
        }
    }
    Ok(Waiting {
        due,
        next_due: next_due(connection, &present)?,
    })
}

/// Up to `limit` jobs that workers died with, those first that the fewest did.
pub(super) fn suspects(connection: &Connection, limit: usize) -> rusqlite::Result<Vec<Candidate>> {
    // None of them has to wait: a job that is let go of to wait has just shown that it kills nobody.
    let condition = "lost_claims > ?1 ORDER BY lost_claims, next_attempt_at";
    candidates(connection, condition, (0, rows::integer(limit)))
}

fn candidates(
    connection: &Connection,
    condition: &str,
    params: impl Params,
) -> rusqlite::Result<Vec<Candidate>> {
    connection
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
        waited_until: row.get(2)?,
    })
}

fn next_due(connection: &Connection, present: &str) -> rusqlite::Result<Option<Timestamp>> {
    let next: Option<String> = connection
        .prepare_cached(
            "SELECT min(next_attempt_at) FROM requests
             WHERE work = 'PENDING' AND next_attempt_at > ?1",
        )?
        .query_one([present], |row| row.get(0))?;
    // A time that can't be read is beyond every wait or before now: it was found above.
    Ok(next.and_then(|next| next.parse().ok()))
}

/// Has jobs that are parked for `origin` wait no longer than until `now`.
pub(super) fn unpark(
    connection: &Connection,
    origin: &str,
    limit: usize,
    now: Timestamp,
) -> rusqlite::Result<usize> {
    connection
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

/// The origins for which at least `most` jobs wait: for a retry, or parked.
pub(super) fn origins_over_limit(
    connection: &Connection,
    most: usize,
) -> rusqlite::Result<Vec<String>> {
    connection
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
