//! Leases: who among the workers is alive, and what becomes of the jobs of those who are not.
//!
//! A worker's one row in `workers` counts its renewals. No clock of another process is trusted: who
//! watches a count stand still for a whole lease, by its own clock, may declare that worker dead.
//! Then its row and its jobs go in one transaction, and from there on it can claim nothing, and write
//! to none of the jobs that it held.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{claim::OwnerId, events, rows, rows::set_work};
use crate::models::{EventKind, FailureReason};

/// One worker's row, as somebody saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// Which worker: an [`OwnerId`], unless another hand was here.
    pub owner: String,
    /// How often it has renewed its lease.
    pub beat: i64,
}

/// What became of a dead worker's jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expired {
    /// They are `PENDING` again.
    pub returned: usize,
    /// They are `FAILED` as poison: none, or the only one that it held.
    pub condemned: usize,
}

/// Enters `owner` among the workers.
///
/// So is everybody else who holds a job and isn't there (after a restored copy of the database, or
/// another hand's work): who doesn't renew is found dead after a lease.
pub(super) fn register(connection: &Connection, owner: OwnerId) -> rusqlite::Result<()> {
    let now = rows::time(Timestamp::now());
    connection.execute(
        "INSERT INTO workers (owner, beat, renewed_at) VALUES (?1, 0, ?2)
         ON CONFLICT DO UPDATE SET beat = beat + 1, renewed_at = ?2",
        params![owner, now],
    )?;
    connection.execute(
        "UPDATE requests SET owner = 'nobody' WHERE work = 'PROCESSING' AND owner IS NULL",
        [],
    )?;
    connection.execute(
        "INSERT OR IGNORE INTO workers (owner, beat, renewed_at)
         SELECT DISTINCT owner, 0, ?1 FROM requests WHERE work = 'PROCESSING'",
        [now],
    )?;
    Ok(())
}

/// Renews the lease of `owner`, and tells who else has one. None, if it was declared dead.
pub(super) fn renew(
    connection: &Connection,
    owner: OwnerId,
) -> rusqlite::Result<Option<Vec<Heartbeat>>> {
    let renewed = connection
        .prepare_cached("UPDATE workers SET beat = beat + 1, renewed_at = ?2 WHERE owner = ?1")?
        .execute(params![owner, rows::time(Timestamp::now())])?;
    if renewed == 0 {
        return Ok(None);
    }
    connection
        .prepare_cached("SELECT owner, beat FROM workers WHERE owner <> ?1")?
        .query_map([owner], heartbeat)?
        .collect::<rusqlite::Result<_>>()
        .map(Some)
}

fn heartbeat(row: &Row<'_>) -> rusqlite::Result<Heartbeat> {
    Ok(Heartbeat {
        owner: row.get(0)?,
        beat: row.get(1)?,
    })
}

/// Whether `owner` is among the workers.
pub(super) fn is_held(connection: &Connection, owner: OwnerId) -> rusqlite::Result<bool> {
    connection
        .prepare_cached("SELECT 1 FROM workers WHERE owner = ?1")?
        .query_one([owner], |_| Ok(()))
        .optional()
        .map(|row| row.is_some())
}

/// Declares a worker dead that has not renewed since it was `seen`, and takes its jobs from it. None,
/// if it has renewed, or somebody else was quicker.
///
/// A job that the worker held alone, and that has now lost `max_claims` claims in a row, is what kills
/// workers. One among others may be innocent: it comes one loss nearer to being run alone, and no
/// further, so that its last two losses, or its last where `max_claims` is 2, are lone ones.
pub(super) fn expire(
    connection: &Connection,
    seen: &Heartbeat,
    max_claims: u32,
) -> rusqlite::Result<Option<Expired>> {
    let Heartbeat { owner, beat } = seen;
    let dead = connection.execute(
        "DELETE FROM workers WHERE owner = ?1 AND beat = ?2",
        params![owner, beat],
    )?;
    if dead == 0 {
        return Ok(None);
    }
    events::record_all(connection, owner, EventKind::ClaimLost)?;
    let held: u32 = connection.query_one(
        "SELECT count(*) FROM requests WHERE work = 'PROCESSING' AND owner = ?1",
        [owner],
        |row| row.get(0),
    )?;
    let (condemned, most_losses) = if held == 1 {
        (condemn(connection, owner, max_claims)?, max_claims - 1)
    } else {
        (0, runs_alone_from(max_claims))
    };
    let returned = connection.execute(
        concat!(
            "UPDATE requests SET ",
            set_work!("PENDING"),
            ", owner = NULL, next_attempt_at = ?2,
                 lost_claims = min(lost_claims + 1, max(lost_claims, ?3))
             WHERE work = 'PROCESSING' AND owner = ?1"
        ),
        params![owner, rows::time(Timestamp::now()), most_losses],
    )?;
    Ok(Some(Expired {
        returned,
        condemned,
    }))
}

/// A job that has lost so many claims runs alone from then on.
pub const fn runs_alone_from(max_claims: u32) -> u32 {
    if max_claims > 3 { max_claims - 2 } else { 1 }
}

fn condemn(connection: &Connection, owner: &str, max_claims: u32) -> rusqlite::Result<usize> {
    connection.execute(
        "UPDATE requests SET lost_claims = lost_claims + 1,
             status = iif(status = 'COMPLETED', status, 'FAILED'),
             completed_at = iif(status IN ('COMPLETED', 'FAILED'), completed_at, ?3),
             failure_reason = iif(status = 'COMPLETED', failure_reason, ?4),
             failure_detail = iif(status = 'COMPLETED', failure_detail, ?5),
             redelivery = NULL, parked_since = NULL
         WHERE work = 'PROCESSING' AND owner = ?1 AND lost_claims + 1 >= ?2",
        params![
            owner,
            max_claims,
            rows::time(Timestamp::now()),
            FailureReason::Poison.as_str(),
            format!(
                "{max_claims} workers in a row died, or fell silent, while they had this job, and the last one had no other."
            ),
        ],
    )
}

/// Gives back whatever `owner` still holds, and its lease. Returns how many jobs there were.
pub(super) fn resign(connection: &Connection, owner: OwnerId) -> rusqlite::Result<usize> {
    let owner = &owner.to_string();
    events::record_all(connection, owner, EventKind::GivenBack)?;
    let returned = connection.execute(
        concat!(
            "UPDATE requests SET ",
            set_work!("PENDING"),
            ", owner = NULL, next_attempt_at = ?2
             WHERE work = 'PROCESSING' AND owner = ?1"
        ),
        params![owner, rows::time(Timestamp::now())],
    )?;
    connection.execute("DELETE FROM workers WHERE owner = ?1", [owner])?;
    Ok(returned)
}
