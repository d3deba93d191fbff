//! Leases: which workers are alive, and reclaiming the jobs of those that are not.
//!
//! Each worker has one row in `workers`; `beat` counts its heartbeats. No clock of another process
//! is trusted: an observer that sees `beat` unchanged for a whole lease, by its own monotonic
//! clock, may expire the lease. One transaction then deletes the worker's row and reclaims its
//! jobs. After that, the worker can claim nothing and write to none of the jobs it held.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{claim::OwnerId, events, rows, rows::set_work};
use crate::models::{EventKind, FailureReason};

/// A worker's heartbeat, as an observer read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// The worker: an [`OwnerId`], unless the row was edited by hand.
    pub owner: String,
    /// The number of renewals.
    pub beat: i64,
}

/// The result of a lease expiry: what happened to the worker's jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expired {
    /// Jobs that are `PENDING` again.
    pub reclaimed: usize,
    /// Poison jobs, now `FAILED`: none, or the only job that the worker held.
    pub poisoned: usize,
}

/// Registers a worker.
///
/// Also registers every owner of a `PROCESSING` job that has no row in `workers` (after a restored
/// backup or an edit by hand). Such an owner sends no heartbeats, so its lease expires and its jobs
/// are reclaimed.
pub(super) fn register(connection: &Connection, owner: OwnerId) -> rusqlite::Result<()> {
    // For operators only. No code compares it: the hosts' clocks may differ.
    let now = rows::time(Timestamp::now());
    // ON CONFLICT: registering again, after a lost answer, counts as a heartbeat.
    connection.execute(
        "INSERT INTO workers (owner, beat, renewed_at) VALUES (?1, 0, ?2)
         ON CONFLICT DO UPDATE SET beat = beat + 1, renewed_at = ?2",
        params![owner, now],
    )?;
    connection.execute(
        // Null can't be a key of `workers`. Under a name, the lease expiry finds these jobs.
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

/// Renews a lease and returns the other workers' heartbeats; `None` if the lease expired.
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

/// Whether `owner` has a lease.
pub(super) fn is_held(connection: &Connection, owner: OwnerId) -> rusqlite::Result<bool> {
    connection
        .prepare_cached("SELECT 1 FROM workers WHERE owner = ?1")?
        .query_one([owner], |_| Ok(()))
        .optional()
        .map(|row| row.is_some())
}

/// Expires the lease of a worker that has not renewed it since `seen`, and reclaims its jobs.
/// `None` if the worker has renewed it, or another process was first.
///
/// A job that the worker held alone and that has now lost `max_claims` claims in a row is a poison
/// job. A job that the worker held among others may be innocent: its count of lost claims stops at
/// [`quarantine_threshold`], from which it runs alone. So its last two losses (the last one, if
/// `max_claims` is 2) happen while it runs alone.
pub(super) fn expire(
    connection: &Connection,
    seen: &Heartbeat,
    max_claims: u32,
) -> rusqlite::Result<Option<Expired>> {
    let Heartbeat { owner, beat } = seen;
    let deleted = connection.execute(
        "DELETE FROM workers WHERE owner = ?1 AND beat = ?2",
        params![owner, beat],
    )?;
    // The worker renewed meanwhile, or another process deleted the row first. Of several concurrent
    // observers, exactly one deletes it.
    if deleted == 0 {
        return Ok(None);
    }
    // Before the updates below, which clear the owner by which it finds the jobs.
    events::record_all(connection, owner, EventKind::ClaimLost)?;
    let held: u32 = connection.query_one(
        "SELECT count(*) FROM requests WHERE work = 'PROCESSING' AND owner = ?1",
        [owner],
        |row| row.get(0),
    )?;
    let (poisoned, most_losses) = if held == 1 {
        (
            // First: the reclaim below then takes only what is still `PROCESSING`.
            fail_poison_job(connection, owner, max_claims)?,
            max_claims - 1,
        )
    } else {
        (0, quarantine_threshold(max_claims))
    };
    // Due now, and not after the notification grace: no notification is sent for these jobs.
    // `max(lost_claims, ?3)`: the cap stops a count, but never lowers one that is above it.
    let reclaimed = connection.execute(
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
        reclaimed,
        poisoned,
    }))
}

/// The number of lost claims from which a suspected poison job is quarantined: it runs alone on
/// its worker, so that it can harm no other job.
pub const fn quarantine_threshold(max_claims: u32) -> u32 {
    // At least 1: at 0, every job would be a suspect and run alone.
    if max_claims > 3 { max_claims - 2 } else { 1 }
}

fn fail_poison_job(
    connection: &Connection,
    owner: &str,
    max_claims: u32,
) -> rusqlite::Result<usize> {
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
                "{max_claims} workers in a row crashed or lost their lease while they held this \
                 job, and the last one held no other job."
            ),
        ],
    )
}

/// Ends the lease of `owner` and releases its jobs. Returns how many jobs it held.
pub(super) fn deregister(connection: &Connection, owner: OwnerId) -> rusqlite::Result<usize> {
    let owner = &owner.to_string();
    events::record_all(connection, owner, EventKind::GivenBack)?;
    // Unlike a lease expiry, a release leaves `lost_claims` as it is: the job did no harm.
    let released = connection.execute(
        concat!(
            "UPDATE requests SET ",
            set_work!("PENDING"),
            ", owner = NULL, next_attempt_at = ?2
             WHERE work = 'PROCESSING' AND owner = ?1"
        ),
        params![owner, rows::time(Timestamp::now())],
    )?;
    connection.execute("DELETE FROM workers WHERE owner = ?1", [owner])?;
    Ok(released)
}
