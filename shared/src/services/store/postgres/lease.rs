//! Leases: which workers are alive, and reclaiming the jobs of those that are not.
//!
//! Each worker has one row in `workers`; `beat` counts its heartbeats. No clock of another process
//! is trusted: an observer that sees `beat` unchanged for a whole lease, by its own monotonic
//! clock, may expire the lease. One transaction then deletes the worker's row and reclaims its
//! jobs. A claim locks that row, so each claim is either before the deletion, and its jobs are
//! reclaimed, or finds no row. After that, the worker can claim nothing and write to none of the
//! jobs it held. If another program has locked some of these, the others are reclaimed, and the row
//! stays, without being a lease: so observers come back for the rest.

use tokio_postgres::{Row, types::Type};
use uuid::Uuid;

use super::{
    columns,
    error::Error,
    events, notes, redelivery,
    session::{Parameter, Session},
    state::{self, EXPIRED, HAS_LEASE, IS_CLAIMED},
};
use crate::{
    models::{EventKind, Failure, FailureReason, Origin, RequestId},
    services::store::{
        Claim, Ended, Expired, Heartbeat, Outcome, OwnerId, Paused, Pauses, Renewal, Work,
        lease::most_losses,
    },
};

/// Registers a worker, which serves the handlers `served`, and every owner of a claimed job without
/// a row in `workers`.
pub(super) async fn register(
    session: &Session,
    owner: OwnerId,
    served: &[String],
) -> Result<bool, Error> {
    // ON CONFLICT: registering again, after a lost answer, counts as a heartbeat.
    let register = format!(
        "INSERT INTO workers (owner, beat, renewed_at, handlers)
         VALUES ($1, 0, now(), $2)
         ON CONFLICT (owner) DO UPDATE
             SET beat = workers.beat + 1, renewed_at = now(), handlers = $2
             WHERE workers.{HAS_LEASE}"
    );
    let values = [
        (&owner.uuid() as _, Type::UUID),
        (&served as _, Type::TEXT_ARRAY),
    ];
    if session.execute(&register, &values).await? == 0 {
        return Ok(false);
    }
    adopt_orphans(session).await?;
    Ok(true)
}

/// Registers every owner of a claimed job that has no row in `workers`, after an edit by hand
/// or in a restored backup. Such an owner sends no heartbeats, so its lease expires and its jobs
/// are reclaimed.
async fn adopt_orphans(session: &Session) -> Result<(), Error> {
    let orphans = "DELETE FROM cancellations WHERE NOT EXISTS
             (SELECT 1 FROM workers WHERE workers.owner = cancellations.owner)";
    session.execute(orphans, &[]).await?;
    let nobody: [Parameter<'_>; 1] = [(&OwnerId::NOBODY.uuid(), Type::UUID)];
    for table in Work::ALL.map(state::table) {
        let nameless = format!(
            "UPDATE {table} SET owner = $1 WHERE id IN
                 (SELECT id FROM {table} WHERE {IS_CLAIMED} AND owner IS NULL
                  ORDER BY id FOR NO KEY UPDATE SKIP LOCKED)"
        );
        session.execute(&nameless, &nobody).await?;
        let orphans = format!(
            "INSERT INTO workers (owner, beat, renewed_at, handlers)
             SELECT DISTINCT owner, 0, now(), '{{}}'::text[] FROM {table}
             WHERE {IS_CLAIMED} AND owner NOT IN (SELECT owner FROM workers)
             ORDER BY owner
             ON CONFLICT (owner) DO NOTHING"
        );
        session.execute(&orphans, &[]).await?;
    }
    Ok(())
}

/// Renews the lease of a worker that has `ended` these jobs; `None` if it expired. Without a new
/// `report`, the row keeps the last one.
pub(super) async fn renew(
    session: &Session,
    owner: OwnerId,
    ended: Ended,
    report: Option<&str>,
) -> Result<Option<Renewal>, Error> {
    let [jobs, long_jobs] =
        [ended.jobs, ended.long_jobs].map(|ended| i64::try_from(ended).unwrap_or(i64::MAX));
    let uuid = owner.uuid();
    let of_owner = [(&uuid as _, Type::UUID)];
    let values = [
        (&uuid as _, Type::UUID),
        (&jobs as _, Type::INT8),
        (&long_jobs as _, Type::INT8),
        (&report as _, Type::TEXT),
    ];
    let renew = format!(
        "UPDATE workers SET beat = beat + 1, renewed_at = now(), ended = $2, ended_long = $3,
             report = coalesce($4::text::json, report)
         WHERE owner = $1 AND {HAS_LEASE}"
    );
    // One round trip: the statements are sent in this order.
    let (renewed, cancelled, others, paused) = tokio::join!(
        biased;
        session.execute(&renew, &values),
        notes::read(session, owner),
        session.query("SELECT owner, beat FROM workers WHERE owner <> $1", &of_owner),
        session.query("SELECT origin FROM pauses", &[]),
    );
    if renewed? == 0 {
        return Ok(None);
    }
    Ok(Some(Renewal {
        others: others?.iter().map(heartbeat).collect::<Result<_, _>>()?,
        cancelled: cancelled?,
        paused: paused?
            .iter()
            .map(paused_in)
            .collect::<Result<Pauses, _>>()?,
    }))
}

fn heartbeat(row: &Row) -> Result<Heartbeat, Error> {
    Ok(Heartbeat {
        owner: OwnerId::of(row.try_get(0)?),
        beat: row.try_get(1)?,
    })
}

/// What a row of `pauses` names: the empty origin is everything.
fn paused_in(row: &Row) -> Result<Paused, Error> {
    let origin: &str = row.try_get(0)?;
    Ok(if origin.is_empty() {
        Paused::Everything
    } else {
        Paused::Origin(Origin::stored(origin))
    })
}

/// The claims that `owner` holds.
pub(super) async fn claims_of(session: &Session, owner: OwnerId) -> Result<Vec<Claim>, Error> {
    let of_owner = [(&owner.uuid() as _, Type::UUID)];
    let mut claims = Vec::new();
    for work in Work::ALL {
        let held = format!(
            "SELECT id, claim FROM {} WHERE {IS_CLAIMED} AND owner = $1",
            state::table(work)
        );
        for row in session.query(&held, &of_owner).await? {
            claims.push(Claim {
                id: RequestId::of(row.try_get(0)?),
                work,
                owner,
                number: row.try_get(1)?,
            });
        }
    }
    Ok(claims)
}

/// Expires the lease of a worker that has not renewed it since `seen`, and reclaims its jobs.
/// `None` if the worker has renewed it, or another process was first. Rows that others have locked
/// are not waited for: the next heartbeat of an observer takes them.
///
/// A job that the worker held alone and that has now lost `max_claims` claims in a row is a poison
/// job; [`most_losses`] says where the count of the others stops.
pub(super) async fn expire(
    session: &Session,
    seen: Heartbeat,
    max_claims: u32,
) -> Result<Option<Expired>, Error> {
    let owner: Parameter<'_> = (&seen.owner.uuid(), Type::UUID);
    // It waits for a claim that is being committed, and the next claim waits for it. Of several
    // concurrent observers, exactly one deletes the row.
    let delete = "DELETE FROM workers WHERE owner = $1 AND beat = $2";
    let seen_beat = (&seen.beat as _, Type::INT8);
    if session.execute(delete, &[owner.clone(), seen_beat]).await? == 0 {
        return Ok(None);
    }
    let Held { count, left } = lock_held(session, seen.owner).await?;
    // Before the updates below, which clear the owner by which it finds the jobs.
    events::record_all(session, seen.owner, EventKind::ClaimLost, &left).await?;
    let poisoned = if count == 1 && left.is_empty() {
        // First: the reclaim below then takes only what is still claimed.
        fail_poison_job(session, seen.owner, max_claims).await?
    } else {
        0
    };
    let mut reclaimed = 0;
    let most = columns::number(most_losses(count, max_claims));
    for table in Work::ALL.map(state::table) {
        // Due now, and not after the notification grace: no notification is sent for these jobs.
        // `greatest(lost_claims, $2)`: the cap stops a count, but never lowers one that is above
        // it.
        let reclaim = format!(
            "UPDATE {table} SET status = 'PENDING', owner = NULL, due = now(),
                 lost_claims = least(lost_claims + 1, greatest(lost_claims, $2))
             WHERE {IS_CLAIMED} AND owner = $1 AND id <> ALL($3)"
        );
        let values = [
            owner.clone(),
            (&most, Type::INT4),
            (&left, Type::UUID_ARRAY),
        ];
        reclaimed += columns::size(session.execute(&reclaim, &values).await?);
    }
    notes::forget(session, seen.owner).await?;
    keep_for(session, seen.owner, &left).await?;
    Ok(Some(Expired {
        reclaimed,
        poisoned,
    }))
}

/// Keeps the row of a worker whose lease has ended, without being a lease, if it holds what is
/// `left`. ON CONFLICT: a graceful end that waits for an expiry does not see the row which that
/// keeps.
async fn keep_for(session: &Session, owner: OwnerId, left: &[Uuid]) -> Result<(), Error> {
    if left.is_empty() {
        return Ok(());
    }
    let keep = "INSERT INTO workers (owner, beat, renewed_at, handlers)
         VALUES ($1, $2, now(), '{}')
         ON CONFLICT (owner) DO NOTHING";
    let values = [
        (&owner.uuid() as _, Type::UUID),
        (&EXPIRED as _, Type::INT8),
    ];
    session.execute(keep, &values).await?;
    Ok(())
}

/// What a worker holds.
struct Held {
    count: u32,
    /// The requests that others have locked.
    left: Vec<Uuid>,
}

/// Locks what a worker without a lease holds: the requests, in the order of ids. So nothing of it
/// changes until the end of the transaction.
async fn lock_held(session: &Session, owner: OwnerId) -> Result<Held, Error> {
    let of_owner: [Parameter<'_>; 1] = [(&owner.uuid(), Type::UUID)];
    let [jobs, redeliveries] = Work::ALL
        .map(state::table)
        .map(|table| format!("SELECT id FROM {table} WHERE {IS_CLAIMED} AND owner = $1"));
    let all = format!("SELECT id FROM requests WHERE id IN ({jobs} UNION ALL {redeliveries})");
    let lock = |rows: &str| format!("{rows} ORDER BY id FOR NO KEY UPDATE SKIP LOCKED");
    let requests = columns::ids(&session.query(&lock(&all), &of_owner).await?)?;
    let own = columns::ids(&session.query(&lock(&redeliveries), &of_owner).await?)?;
    let left = format!("{all} AND id <> ALL($2) UNION {redeliveries} AND id <> ALL($3)");
    let [of_worker] = of_owner.clone();
    let values = [
        of_worker,
        (&requests, Type::UUID_ARRAY),
        (&own, Type::UUID_ARRAY),
    ];
    let left = columns::ids(&session.query(&left, &values).await?)?;
    let count = format!("SELECT count(*) FROM ({jobs} UNION ALL {redeliveries}) AS held");
    let held: i64 = match session.find(&count, &of_owner).await? {
        Some(row) => row.try_get(0)?,
        None => 0,
    };
    Ok(Held {
        count: u32::try_from(held).unwrap_or(u32::MAX),
        left,
    })
}

/// Fails the only job or redelivery of `owner`, if it has lost enough claims. It keeps no owner:
/// its last one did not end it.
async fn fail_poison_job(
    session: &Session,
    owner: OwnerId,
    max_claims: u32,
) -> Result<usize, Error> {
    let detail = format!(
        "{max_claims} workers in a row crashed or lost their lease while they held this job, and \
         the last one held no other job."
    );
    let poison = Failure::new(FailureReason::Poison, detail);
    let is_poison = format!("{IS_CLAIMED} AND owner = $1 AND lost_claims + 1 >= $2");
    let uuid = owner.uuid();
    let max_claims = columns::number(max_claims);
    let of_owner: [Parameter<'_>; 2] = [(&uuid, Type::UUID), (&max_claims, Type::INT4)];
    let redeliveries = format!(
        "UPDATE redeliveries SET lost_claims = lost_claims + 1, owner = NULL WHERE {is_poison}
         RETURNING id"
    );
    let redeliveries = session.query(&redeliveries, &of_owner).await?;
    let redeliveries = columns::ids(&redeliveries)?.into_iter().map(RequestId::of);
    let redeliveries: Vec<_> = redeliveries.collect();
    let fail = format!(
        "UPDATE requests SET status = 'FAILED', owner = NULL, lost_claims = lost_claims + 1,
             completed_at = greatest(now(), created_at), parked_at = NULL, is_long = false,
             ended = now(), failure_reason = {}, failure_detail = {}
         WHERE {is_poison}",
        state::failed_for("failure_reason", "$3"),
        state::failed_for("failure_detail", "$4"),
    );
    let reason = poison.reason.as_str();
    let jobs = session
        .execute(
            &fail,
            &[
                (&uuid, Type::UUID),
                (&max_claims, Type::INT4),
                (&reason, Type::TEXT),
                (&poison.detail, Type::TEXT),
            ],
        )
        .await?;
    let outcome = Outcome::Failed(poison);
    redelivery::end(session, &redeliveries, Some(&outcome)).await?;
    Ok(columns::size(jobs) + redeliveries.len())
}

/// Ends the lease of `owner` and releases its jobs. Returns how many jobs it held.
pub(super) async fn deregister(session: &Session, owner: OwnerId) -> Result<usize, Error> {
    let of_owner: [Parameter<'_>; 1] = [(&owner.uuid(), Type::UUID)];
    // First, as in `expire`: from now on it claims nothing.
    session
        .execute("DELETE FROM workers WHERE owner = $1", &of_owner)
        .await?;
    // What others have locked is reclaimed by another worker.
    let Held { left, .. } = lock_held(session, owner).await?;
    events::record_all(session, owner, EventKind::GivenBack, &left).await?;
    let mut released = 0;
    for table in Work::ALL.map(state::table) {
        // Unlike a lease expiry, a release leaves `lost_claims` as it is: the job did no harm.
        let release = format!(
            "UPDATE {table} SET status = 'PENDING', owner = NULL, due = now()
             WHERE {IS_CLAIMED} AND owner = $1 AND id <> ALL($2)"
        );
        let [of_worker] = of_owner.clone();
        let values = [of_worker, (&left, Type::UUID_ARRAY)];
        released += columns::size(session.execute(&release, &values).await?);
    }
    notes::forget(session, owner).await?;
    keep_for(session, owner, &left).await?;
    Ok(released)
}
