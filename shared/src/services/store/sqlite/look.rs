//! The backlog in the table: which jobs are due, and when the next one becomes due.

use std::time::Duration;

use rusqlite::{Connection, Row, params};

use super::{clock::StoreTime, columns};
use crate::{
    models::{ClientName, Destination, Origin},
    services::store::{Candidate, DueJobs},
};

/// Reads up to `limit` jobs that are due at `now` and have lost no claim.
pub(super) fn due_jobs(
    connection: &Connection,
    limit: usize,
    now: StoreTime,
) -> rusqlite::Result<DueJobs> {
    // Two ranges of the index `requests_by_work`. A job that was accepted or scheduled by the
    // release before has no due time.
    let mut due = candidates(connection, "due IS NULL AND ?1 ORDER BY id", 1, limit)?;
    let room = limit - due.len();
    let by_due = "due <= ?1 ORDER BY due";
    due.extend(candidates(connection, by_due, now.millis(), room)?);
    Ok(DueJobs {
        due,
        next_due: next_due(connection, now)?,
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
             ORDER BY lost_claims, due LIMIT ?1",
        )?
        .query_map([columns::integer(limit)], candidate)?
        .collect()
}

fn candidates(
    connection: &Connection,
    condition: &str,
    bound: i64,
    limit: usize,
) -> rusqlite::Result<Vec<Candidate>> {
    connection
        // Conditions are constants of this module; values are bound. So nothing can be injected.
        .prepare_cached(&format!(
            "SELECT id, claim, lost_claims FROM requests
             WHERE work = 'PENDING' AND mode = 'async' AND lost_claims <= 0 AND {condition} LIMIT ?2"
        ))?
        .query_map([bound, columns::integer(limit)], candidate)?
        .collect()
}

fn candidate(row: &Row<'_>) -> rusqlite::Result<Candidate> {
    Ok(Candidate {
        id: columns::parsed(row, 0)?,
        claims: row.get(1)?,
        lost_claims: columns::count(row.get(2)?),
    })
}

fn next_due(connection: &Connection, now: StoreTime) -> rusqlite::Result<Option<Duration>> {
    let next: Option<i64> = connection
        .prepare_cached(
            "SELECT min(due) FROM requests INDEXED BY waiting
             WHERE work = 'PENDING' AND claim > 0 AND due > ?1",
        )?
        .query_one([now.millis()], |row| row.get(0))?;
    Ok(next.map(|next| StoreTime::stored(next).since(now)))
}

/// Makes up to `limit` jobs parked for `destination` due at `now`.
pub(super) fn unpark(
    connection: &Connection,
    destination: &Destination,
    limit: usize,
    now: StoreTime,
) -> rusqlite::Result<usize> {
    connection
        // `due > ?2` leaves out jobs that are due already. INDEXED BY: the planner would otherwise
        // search every origin's scheduled jobs in `requests_by_work`.
        .prepare_cached(
            "UPDATE requests SET due = ?2 WHERE id IN (
                 SELECT id FROM requests INDEXED BY backlog
                 WHERE work = 'PENDING' AND claim > 0 AND due > ?2 AND parked_at IS NOT NULL
                   AND origin = ?1 AND created_by IS ?4
                 LIMIT ?3)",
        )?
        .execute(params![
            destination.origin.as_str(),
            now.millis(),
            columns::integer(limit),
            destination.tenant.as_ref().map(ClientName::as_str),
        ])
}

/// Returns the destinations with a backlog of at least `most` scheduled or parked jobs.
pub(super) fn destinations_over_limit(
    connection: &Connection,
    most: usize,
) -> rusqlite::Result<Vec<Destination>> {
    let mut query = connection
        // INDEXED BY, as above. A job without a callback has no origin and counts for none.
        //
        // The subquery reads the index alone. Only an origin whose backlog reaches the limit in all
        // is worth reading its rows, which have the tenants.
        .prepare_cached(
            "SELECT origin, created_by FROM requests INDEXED BY backlog
             WHERE work = 'PENDING' AND claim > 0 AND origin IN (
                 SELECT origin FROM requests INDEXED BY backlog
                 WHERE work = 'PENDING' AND claim > 0 AND origin IS NOT NULL
                 GROUP BY origin HAVING count(*) >= ?1)
             GROUP BY origin, created_by HAVING count(*) >= ?1",
        )?;
    let mut rows = query.query([columns::integer(most)])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let stored = row.get_ref(1)?.as_bytes_or_null()?;
        let tenant = columns::client_name(stored);
        if tenant.is_some() != stored.is_some() {
            continue; // edited by hand: nobody submits jobs under that name
        }
        let origin = columns::text(row, 0)?.unwrap_or_default();
        let origin = Origin::stored(&origin);
        found.push(Destination { tenant, origin });
    }
    Ok(found)
}
