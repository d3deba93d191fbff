//! Leases: which workers are alive, and reclaiming the jobs of those that are not.
//!
//! Each worker has one row in `workers`; `beat` counts its heartbeats. No clock of another process
//! is trusted: an observer that sees `beat` unchanged for a whole lease, by its own monotonic
//! clock, may expire the lease. One transaction then deletes the worker's row and reclaims its
//! jobs. After that, the worker can claim nothing and write to none of the jobs it held.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{clock::StoreTime, columns, columns::set_work, events};
use crate::{
    models::{EventKind, FailureReason},
    services::store::{Expired, Heartbeat, OwnerId, lease::most_losses},
};

/// SQL for whether `owner` is an [`OwnerId`] in its canonical form.
macro_rules! is_owner {
    () => {
        "(coalesce(owner, '') GLOB '????????-????-????-????-????????????'
          AND owner NOT GLOB '*[^0-9a-f-]*' AND length(replace(owner, '-', '')) = 32)"
    };
}

/// Registers a worker, and every owner of a `PROCESSING` job without a row in `workers`.
pub(super) fn register(connection: &Connection, owner: OwnerId) -> rusqlite::Result<()> {
    connection.execute(
        // ON CONFLICT: registering again, after a lost answer, counts as a heartbeat.
        "INSERT INTO workers (owner, beat, renewed_at) VALUES (?1, 0, ?2)
         ON CONFLICT DO UPDATE SET beat = beat + 1, renewed_at = ?2",
        params![owner.to_string(), wall_clock()],
    )?;
    adopt_orphans(connection)
}

/// Registers every owner of a `PROCESSING` job that has no row in `workers`, after an edit by hand
/// or in a restored backup. Such an owner sends no heartbeats, so its lease expires and its jobs
/// are reclaimed.
fn adopt_orphans(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute(
        concat!(
            "UPDATE requests SET owner = ?1 WHERE work = 'PROCESSING' AND NOT ",
            is_owner!()
        ),
        [OwnerId::NOBODY.to_string()],
    )?;
    connection.execute(concat!("DELETE FROM workers WHERE NOT ", is_owner!()), [])?;
    connection.execute(
        "INSERT OR IGNORE INTO workers (owner, beat, renewed_at)
         SELECT DISTINCT owner, 0, ?1 FROM requests WHERE work = 'PROCESSING'",
        [wall_clock()],
    )?;
    Ok(())
}

/// Renews a lease and returns the other workers' heartbeats; `None` if the lease expired.
pub(super) fn renew(
    connection: &Connection,
    owner: OwnerId,
) -> rusqlite::Result<Option<Vec<Heartbeat>>> {
    let owner = owner.to_string();
    let renewed = connection
        .prepare_cached("UPDATE workers SET beat = beat + 1, renewed_at = ?2 WHERE owner = ?1")?
        .execute(params![owner, wall_clock()])?;
    if renewed == 0 {
        return Ok(None);
    }
    let others: Vec<_> = connection
        .prepare_cached("SELECT owner, beat FROM workers WHERE owner <> ?1")?
        .query_map([owner], |row| Ok(heartbeat(row).ok()))?
        .collect::<rusqlite::Result<_>>()?;
    if others.contains(&None) {
        // A row that was edited by hand names no worker, and nobody would expire it.
        adopt_orphans(connection)?;
    }
    Ok(Some(others.into_iter().flatten().collect()))
}

fn heartbeat(row: &Row<'_>) -> rusqlite::Result<Heartbeat> {
    Ok(Heartbeat {
        owner: columns::parsed(row, 0)?,
        beat: row.get(1)?,
    })
}

/// For operators only. No code compares it: the hosts' clocks may differ.
fn wall_clock() -> String {
    columns::time(Timestamp::now())
}

/// Whether `owner` has a lease.
pub(super) fn is_held(connection: &Connection, owner: OwnerId) -> rusqlite::Result<bool> {
    connection
        .prepare_cached("SELECT 1 FROM workers WHERE owner = ?1")?
        .query_one([owner.to_string()], |_| Ok(()))
        .optional()
        .map(|row| row.is_some())
}

/// Expires the lease of a worker that has not renewed it since `seen`, and reclaims its jobs.
/// `None` if the worker has renewed it, or another process was first.
///
/// A job that the worker held alone and that has now lost `max_claims` claims in a row is a poison
/// job; [`most_losses`] says where the count of the others stops.
pub(super) fn expire(
    connection: &Connection,
    seen: Heartbeat,
    max_claims: u32,
    now: StoreTime,
) -> rusqlite::Result<Option<Expired>> {
    let owner = seen.owner.to_string();
    let deleted = connection.execute(
        "DELETE FROM workers WHERE owner = ?1 AND beat = ?2",
        params![owner, seen.beat],
    )?;
    // The worker renewed meanwhile, or another process deleted the row first. Of several concurrent
    // observers, exactly one deletes it.
    if deleted == 0 {
        return Ok(None);
    }
    // Before the updates below, which clear the owner by which it finds the jobs.
    events::record_all(connection, seen.owner, EventKind::ClaimLost)?;
    let held: u32 = connection.query_one(
        "SELECT count(*) FROM requests WHERE work = 'PROCESSING' AND owner = ?1",
        [&owner],
        |row| row.get(0),
    )?;
    let poisoned = if held == 1 {
        // First: the reclaim below then takes only what is still `PROCESSING`.
        fail_poison_job(connection, &owner, max_claims)?
    } else {
        0
    };
    // Due now, and not after the notification grace: no notification is sent for these jobs.
    // `max(lost_claims, ?3)`: the cap stops a count, but never lowers one that is above it.
    let reclaimed = connection.execute(
        concat!(
            "UPDATE requests SET ",
            set_work!("PENDING"),
            ", owner = NULL, due = ?2,
                 lost_claims = min(lost_claims + 1, max(lost_claims, ?3))
             WHERE work = 'PROCESSING' AND owner = ?1"
        ),
        params![owner, now.millis(), most_losses(held, max_claims)],
    )?;
    Ok(Some(Expired {
        reclaimed,
        poisoned,
    }))
}

fn fail_poison_job(
    connection: &Connection,
    owner: &str,
    max_claims: u32,
) -> rusqlite::Result<usize> {
    connection.execute(
        "UPDATE requests SET lost_claims = lost_claims + 1,
             status = iif(status = 'COMPLETED', status, 'FAILED'),
             completed_at = iif(status IN ('COMPLETED', 'FAILED'), completed_at, max(?3, created_at)),
             failure_reason = iif(status = 'COMPLETED', failure_reason, ?4),
             failure_detail = iif(status = 'COMPLETED', failure_detail, ?5),
             redelivery = NULL, parked_at = NULL
         WHERE work = 'PROCESSING' AND owner = ?1 AND lost_claims + 1 >= ?2",
        params![
            owner,
            max_claims,
            columns::time(Timestamp::now()),
            FailureReason::Poison.as_str(),
            format!(
                "{max_claims} workers in a row crashed or lost their lease while they held this \
                 job, and the last one held no other job."
            ),
        ],
    )
}

/// Ends the lease of `owner` and releases its jobs. Returns how many jobs it held.
pub(super) fn deregister(
    connection: &Connection,
    owner: OwnerId,
    now: StoreTime,
) -> rusqlite::Result<usize> {
    events::record_all(connection, owner, EventKind::GivenBack)?;
    let owner = owner.to_string();
    // Unlike a lease expiry, a release leaves `lost_claims` as it is: the job did no harm.
    let released = connection.execute(
        concat!(
            "UPDATE requests SET ",
            set_work!("PENDING"),
            ", owner = NULL, due = ?2
             WHERE work = 'PROCESSING' AND owner = ?1"
        ),
        params![owner, now.millis()],
    )?;
    connection.execute("DELETE FROM workers WHERE owner = ?1", [owner])?;
    Ok(released)
}
