//! Leases: which workers are alive, and reclaiming the jobs of those that are not.
//!
//! Each worker has one row in `workers`; `beat` counts its heartbeats. No clock of another process
//! is trusted: an observer that sees `beat` unchanged for a whole lease, by its own monotonic
//! clock, may expire the lease. One transaction then deletes the worker's row and reclaims its
//! jobs. After that, the worker can claim nothing and write to none of the jobs it held.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{
    cancel,
    clock::StoreTime,
    columns, events, pause, redelivery,
    state::{self, IS_CLAIMED},
};
use crate::{
    models::{EventKind, Failure, FailureReason, HandlerName, Transition},
    services::store::{
        Claim, Ended, Expired, Heartbeat, Outcome, OwnerId, Renewal, Work, job::to_json,
        lease::most_losses,
    },
};

/// The schema version whose programs know handlers.
const HANDLERS_SINCE: u32 = 23;

/// SQL for whether `owner` is an [`OwnerId`] in its canonical form.
macro_rules! is_owner {
    () => {
        "(coalesce(owner, '') GLOB '????????-????-????-????-????????????'
          AND owner NOT GLOB '*[^0-9a-f-]*' AND length(replace(owner, '-', '')) = 32)"
    };
}

/// The names of handlers as a JSON array, in which form a worker's row has them.
pub(super) fn served_json(served: &[HandlerName]) -> String {
    let names: Vec<_> = served.iter().map(HandlerName::as_str).collect();
    to_json(&names)
}

/// Registers a worker, which serves the handlers in the JSON array `served`, and every owner of a
/// claimed job without a row in `workers`.
pub(super) fn register(
    connection: &Connection,
    owner: OwnerId,
    served: &str,
) -> rusqlite::Result<()> {
    connection.execute(
        // ON CONFLICT: registering again, after a lost answer, counts as a heartbeat.
        // '{}': what a new row says of breakers that were open before follows.
        "INSERT INTO workers (owner, beat, renewed_at, handlers, breakers)
             VALUES (?1, 0, ?2, ?3, '{}')
         ON CONFLICT DO UPDATE SET beat = beat + 1, renewed_at = ?2, handlers = ?3",
        params![owner.to_string(), wall_clock(), served],
    )?;
    adopt_orphans(connection)
}

/// Registers every owner of a claimed job that has no row in `workers`, after an edit by hand
/// or in a restored backup. Such an owner sends no heartbeats, so its lease expires and its jobs
/// are reclaimed.
fn adopt_orphans(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute(concat!("DELETE FROM workers WHERE NOT ", is_owner!()), [])?;
    cancel::forget_orphans(connection)?;
    for table in Work::ALL.map(state::table) {
        let nameless = format!(
            concat!("UPDATE {} SET owner = ?1 WHERE {} AND NOT ", is_owner!()),
            table, IS_CLAIMED
        );
        connection.execute(&nameless, [OwnerId::NOBODY.to_string()])?;
        let orphans = format!(
            "INSERT OR IGNORE INTO workers (owner, beat, renewed_at, handlers)
             SELECT DISTINCT owner, 0, ?1, '[]' FROM {table} WHERE {IS_CLAIMED}"
        );
        connection.execute(&orphans, [wall_clock()])?;
    }
    Ok(())
}

/// Sees to it that no worker of the previous release takes a job of a handler for a report: none
/// can register from now on. False if one has a lease: then no such job may be stored.
pub(super) fn shut_out_release_before(connection: &Connection) -> rusqlite::Result<bool> {
    let is_shut_out: bool = connection
        .prepare_cached("SELECT max(oldest) >= ?1 FROM store")?
        .query_one([HANDLERS_SINCE], |row| row.get(0))?;
    if is_shut_out {
        return Ok(true);
    }
    let shut_out = connection
        .prepare_cached(
            "UPDATE store SET oldest = ?1
             WHERE NOT EXISTS (SELECT 1 FROM workers WHERE handlers IS NULL)",
        )?
        .execute([HANDLERS_SINCE])?;
    Ok(shut_out > 0)
}

/// Renews the lease of a worker that has `ended` these jobs; `None` if it expired. Without a new
/// `report`, the row keeps the last one.
pub(super) fn renew(
    connection: &Connection,
    owner: OwnerId,
    ended: Ended,
    report: Option<&str>,
) -> rusqlite::Result<Option<Renewal>> {
    let owner = owner.to_string();
    let [jobs, long_jobs] =
        [ended.jobs, ended.long_jobs].map(|ended| i64::try_from(ended).unwrap_or(i64::MAX));
    let beat: Option<i64> = connection
        .prepare_cached(
            "UPDATE workers SET beat = beat + 1, renewed_at = ?2, ended = ?3, ended_long = ?4,
                 report = coalesce(?5, report)
             WHERE owner = ?1 RETURNING beat",
        )?
        .query_row(
            params![owner, wall_clock(), jobs, long_jobs, report],
            |row| row.get(0),
        )
        .optional()?;
    let Some(beat) = beat else {
        return Ok(None);
    };
    let cancelled = cancel::cancelled_claims(connection, &owner, beat)?;
    let others: Vec<_> = connection
        .prepare_cached("SELECT owner, beat FROM workers WHERE owner <> ?1")?
        .query_map([owner], |row| Ok(heartbeat(row).ok()))?
        .collect::<rusqlite::Result<_>>()?;
    // A row that was edited by hand names no worker, and nobody would expire it. And the previous
    // release expires a lease without the redeliveries under it.
    if others.contains(&None) || has_orphaned_redelivery(connection)? {
        adopt_orphans(connection)?;
    }
    Ok(Some(Renewal {
        others: others.into_iter().flatten().collect(),
        cancelled,
        paused: pause::all(connection)?,
    }))
}

fn has_orphaned_redelivery(connection: &Connection) -> rusqlite::Result<bool> {
    connection
        .prepare_cached(&format!(
            "SELECT EXISTS (SELECT 1 FROM redeliveries
                            WHERE {IS_CLAIMED} AND coalesce(owner, '') NOT IN
                                (SELECT owner FROM workers))"
        ))?
        .query_one([], |row| row.get(0))
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
    let held = count_held(connection, &owner)?;
    let poisoned = if held == 1 {
        // First: the reclaim below then takes only what is still claimed.
        fail_poison_job(connection, &owner, max_claims, now)?
    } else {
        0
    };
    let mut reclaimed = 0;
    for work in Work::ALL {
        // Due now, and not after the notification grace: no notification is sent for these jobs.
        // `max(lost_claims, ?3)`: the cap stops a count, but never lowers one that is above it.
        let set = "due = ?2, lost_claims = min(lost_claims + 1, max(lost_claims, ?3))";
        let reclaim = state::change(work, Transition::Reclaim, set, "owner = ?1");
        let most = most_losses(held, max_claims);
        reclaimed += connection.execute(&reclaim, params![owner, now.millis(), most])?;
    }
    cancel::forget(connection, &owner)?;
    Ok(Some(Expired {
        reclaimed,
        poisoned,
    }))
}

/// The claims that `owner` holds. Leaves out rows that an edit by hand has made invalid.
pub(super) fn claims_of(connection: &Connection, owner: OwnerId) -> rusqlite::Result<Vec<Claim>> {
    let mut claims = Vec::new();
    for work in Work::ALL {
        let held = format!(
            "SELECT id, claim FROM {} WHERE {IS_CLAIMED} AND owner = ?1",
            state::table(work)
        );
        let mut held = connection.prepare_cached(&held)?;
        let rows = held.query_map([owner.to_string()], |row| {
            let claim = columns::parsed(row, 0).and_then(|id| {
                Ok(Claim {
                    id,
                    work,
                    owner,
                    number: row.get(1)?,
                })
            });
            Ok(claim.ok())
        })?;
        for claim in rows {
            claims.extend(claim?);
        }
    }
    Ok(claims)
}

fn count_held(connection: &Connection, owner: &str) -> rusqlite::Result<u32> {
    let mut held = 0;
    for table in Work::ALL.map(state::table) {
        let count = format!("SELECT count(*) FROM {table} WHERE {IS_CLAIMED} AND owner = ?1");
        held += connection.query_one(&count, [owner], |row| row.get::<_, u32>(0))?;
    }
    Ok(held)
}

/// Fails the only job or redelivery of `owner`, if it has lost enough claims. It keeps no owner:
/// its last one did not end it.
fn fail_poison_job(
    connection: &Connection,
    owner: &str,
    max_claims: u32,
    now: StoreTime,
) -> rusqlite::Result<usize> {
    let detail = format!(
        "{max_claims} workers in a row crashed or lost their lease while they held this job, and \
         the last one held no other job."
    );
    let poison = Failure::new(FailureReason::Poison, detail);
    let is_poison = "owner = ?1 AND lost_claims + 1 >= ?2";
    let redeliveries: Vec<String> = connection
        .prepare_cached(&format!(
            "UPDATE redeliveries SET lost_claims = lost_claims + 1, owner = NULL
             WHERE {IS_CLAIMED} AND {is_poison} RETURNING id"
        ))?
        .query_map(params![owner, max_claims], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    let jobs = connection.execute(
        &state::change(
            Work::Job,
            Transition::Fail,
            &format!(
                "owner = NULL, lost_claims = lost_claims + 1, completed_at = max(?3, created_at),
                 {}, parked_at = NULL, is_long = 0, ended = ?6",
                columns::failure_set("?4", "?5")
            ),
            is_poison,
        ),
        params![
            owner,
            max_claims,
            columns::time(Timestamp::now()),
            poison.reason.as_str(),
            poison.detail,
            now.millis(),
        ],
    )?;
    let outcome = Outcome::Failed(poison);
    for id in &redeliveries {
        redelivery::end(connection, id, Some(&outcome), now)?;
    }
    Ok(jobs + redeliveries.len())
}

/// Ends the lease of `owner` and releases its jobs. Returns how many jobs it held.
pub(super) fn deregister(
    connection: &Connection,
    owner: OwnerId,
    now: StoreTime,
) -> rusqlite::Result<usize> {
    events::record_all(connection, owner, EventKind::GivenBack)?;
    let owner = owner.to_string();
    let mut released = 0;
    for work in Work::ALL {
        // Unlike a lease expiry, a release leaves `lost_claims` as it is: the job did no harm.
        let release = state::change(work, Transition::GiveBack, "due = ?2", "owner = ?1");
        released += connection.execute(&release, params![owner, now.millis()])?;
    }
    cancel::forget(connection, &owner)?;
    connection.execute("DELETE FROM workers WHERE owner = ?1", [owner])?;
    Ok(released)
}
