//! The backlog in the tables: which jobs are due, and when the next one becomes due.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rusqlite::{Connection, params};

use super::{
    clock::StoreTime,
    columns,
    lanes::{Lane, Tenant, candidate},
    pause, state,
};
use crate::{
    models::{ClientName, Destination, Origin},
    services::store::{
        Candidate, Capacity, DueJobs, Sought, Work,
        look::{TenantQueue, share_out},
    },
};

/// The most tenants with due jobs among which one search shares. The next one begins with others.
const MOST_TENANTS: usize = 256;

/// The tenant that was served last, of those whose jobs are sought: the next search for them begins
/// after it.
#[derive(Default)]
pub(super) struct Turn(Mutex<HashMap<Sought, Tenant>>);

impl Turn {
    fn last(&self, sought: &Sought) -> Tenant {
        self.lock().get(sought).cloned().flatten()
    }

    fn note(&self, sought: &Sought, served: &Tenant) {
        self.lock().insert(sought.clone(), served.clone());
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Sought, Tenant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads jobs that are due at `now` and have lost no claim, shared among the tenants.
pub(super) fn due_jobs(
    connection: &Connection,
    capacity: &Capacity,
    turn: &Turn,
    now: StoreTime,
) -> rusqlite::Result<DueJobs> {
    // Or a worker would find, and try to claim, the same jobs again and again.
    if pause::is_everything(connection)? {
        return Ok(DueJobs::default());
    }
    let sought = &capacity.sought;
    let lanes = Lane::of(sought);
    let undated = match sought {
        Sought::Common => undated(connection, capacity.jobs)?,
        Sought::WorkOf(_) => Vec::new(),
    };
    let capacity = &Capacity {
        jobs: capacity.jobs - undated.len(),
        ..capacity.clone()
    };
    let last = turn.last(&capacity.sought);
    let by = now.before(capacity.overdue_by);
    let tenants = tenants_in_turn(connection, &lanes, &last, capacity.long_jobs > 0, by)?;
    // For most searches enough: more are read only if some tenant has, or holds, fewer.
    let equal_share = capacity.jobs / tenants.len().max(1) + 1;
    let mut found = search(connection, capacity, &lanes, &tenants, equal_share, by)?;
    if found.ran_dry {
        found = search(
            connection,
            capacity,
            &lanes,
            &tenants,
            capacity.jobs + 1,
            by,
        )?;
    }
    if let Some(last) = found.last {
        turn.note(&capacity.sought, last);
    }
    Ok(DueJobs {
        due: undated.into_iter().chain(found.due).collect(),
        waiting: found.waiting.into_iter().map(client).collect(),
        long_jobs_wait: found.long_jobs_wait,
        next_due: match capacity.sought {
            Sought::Common => next_due(connection, now)?,
            // Of its own jobs: those of others must not wake the search of each handler.
            Sought::WorkOf(_) => next_due_in(connection, &lanes, now)?,
        },
    })
}

/// New jobs without a due time, of an older release. They come first.
fn undated(connection: &Connection, limit: usize) -> rusqlite::Result<Vec<Candidate>> {
    connection
        .prepare_cached(
            "SELECT id, claim, lost_claims FROM requests INDEXED BY requests_undated
             WHERE status = 'PENDING' AND due IS NULL AND mode = 'async' AND lost_claims <= 0
               AND handler IS NULL
             ORDER BY id LIMIT ?1",
        )?
        .query_map([columns::integer(limit)], |row| candidate(row, Work::Job))?
        .collect()
}

/// A name that can't be parsed was edited by hand, and counts as none.
fn client(tenant: &Tenant) -> Option<ClientName> {
    str::from_utf8(tenant.as_ref()?).ok()?.parse().ok()
}

/// The tenants with jobs that are due at `now`, of which those after `last` come first.
fn tenants_in_turn(
    connection: &Connection,
    lanes: &[Lane<'_>],
    last: &Tenant,
    has_room_for_long: bool,
    now: StoreTime,
) -> rusqlite::Result<Vec<Tenant>> {
    let mut found = Vec::new();
    for lane in lanes {
        if lane.is_long() && !has_room_for_long {
            continue;
        }
        let mut of_lane = Vec::new();
        let (after, up_to) = ((Some(last), None), (None, Some(last)));
        lane.tenants(connection, now, after, MOST_TENANTS, &mut of_lane)?;
        let room = MOST_TENANTS - of_lane.len();
        lane.tenants(connection, now, up_to, room, &mut of_lane)?;
        found.append(&mut of_lane);
    }
    found.sort_by(|a, b| (a <= last, a).cmp(&(b <= last, b)));
    found.dedup();
    found.truncate(MOST_TENANTS);
    Ok(found)
}

struct Found<'a> {
    due: Vec<Candidate>,
    /// Whether all jobs of a tenant were taken that were read, and it has more.
    ran_dry: bool,
    /// Tenants with jobs that were not taken although there is room for their kind.
    waiting: Vec<&'a Tenant>,
    /// Whether long jobs were not taken.
    long_jobs_wait: bool,
    /// The tenant of the last one that was.
    last: Option<&'a Tenant>,
}

/// Shares the due jobs of `tenants`, of which up to `each` are read for a tenant and a lane.
fn search<'a>(
    connection: &Connection,
    capacity: &Capacity,
    lanes: &[Lane<'_>],
    tenants: &'a [Tenant],
    each: usize,
    now: StoreTime,
) -> rusqlite::Result<Found<'a>> {
    let mut queues = Vec::with_capacity(tenants.len());
    let mut has_more = Vec::with_capacity(tenants.len());
    for tenant in tenants {
        let jobs = due_of(connection, capacity, lanes, tenant, each, now)?;
        has_more.push(jobs.len() >= each);
        queues.push(TenantQueue {
            held: capacity.held.get(&client(tenant)).copied().unwrap_or(0),
            jobs,
        });
    }
    let long_jobs_read = count_long(&queues);
    let taken = share_out(capacity.jobs, capacity.long_jobs, &mut queues);
    let long_jobs_left = count_long(&queues);
    let has_room_for_long = long_jobs_read - long_jobs_left < capacity.long_jobs;
    let can_run = |(is_long, _): &(bool, Candidate)| !is_long || has_room_for_long;
    let has_left = |index: usize| queues[index].jobs.iter().any(can_run);
    let waiting = (0..tenants.len()).filter(|index| has_more[*index] || has_left(*index));
    Ok(Found {
        ran_dry: (0..tenants.len()).any(|index| has_more[index] && !has_left(index)),
        waiting: waiting.map(|index| &tenants[index]).collect(),
        long_jobs_wait: if capacity.long_jobs > 0 || !lanes.iter().any(|lane| lane.is_long()) {
            long_jobs_left > 0
        } else {
            // Their lane was not read.
            let mut first = Vec::new();
            Lane::LONG.tenants(connection, now, (None, None), 1, &mut first)?;
            !first.is_empty()
        },
        last: taken.last().map(|(index, _)| &tenants[*index]),
        due: taken.into_iter().map(|(_, candidate)| candidate).collect(),
    })
}

fn count_long(queues: &[TenantQueue<Candidate>]) -> usize {
    let jobs = queues.iter().flat_map(|it| &it.jobs);
    jobs.filter(|(is_long, _)| *is_long).count()
}

/// Reads up to `each` due jobs of `tenant` from each lane, in the order of their due times.
fn due_of(
    connection: &Connection,
    capacity: &Capacity,
    lanes: &[Lane<'_>],
    tenant: &Tenant,
    each: usize,
    now: StoreTime,
) -> rusqlite::Result<VecDeque<(bool, Candidate)>> {
    let mut by_due = BTreeMap::new();
    for lane in lanes {
        let most = match (lane.is_long(), capacity.long_jobs) {
            (true, 0) => continue,
            // One more shows that others wait.
            (true, room) => each.min(room + 1),
            (false, _) => each,
        };
        for (due, candidate) in lane.due(connection, tenant, most, now)? {
            by_due.insert((due, candidate.id), (lane.is_long(), candidate));
        }
    }
    Ok(by_due.into_values().collect())
}

/// When the next job of `lanes` becomes due.
fn next_due_in(
    connection: &Connection,
    lanes: &[Lane<'_>],
    now: StoreTime,
) -> rusqlite::Result<Option<Duration>> {
    let mut next = None;
    for lane in lanes {
        let in_lane = lane.next_due(connection, MOST_TENANTS, now)?;
        next = next.into_iter().chain(in_lane).min();
    }
    Ok(next.map(|next: i64| StoreTime::stored(next).since(now)))
}

/// When the next job that was claimed before becomes due, whatever it is.
fn next_due(connection: &Connection, now: StoreTime) -> rusqlite::Result<Option<Duration>> {
    let next: Option<i64> = connection
        .prepare_cached(
            "SELECT min(due) FROM (
                 SELECT min(due) AS due FROM requests INDEXED BY requests_waiting
                 WHERE status = 'PENDING' AND claim > 0 AND due > ?1
                 UNION ALL
                 SELECT min(due) FROM redeliveries INDEXED BY redeliveries_waiting
                 WHERE status = 'PENDING' AND claim > 0 AND due > ?1)",
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
    let mut unparked = 0;
    for table in Work::ALL.map(state::table) {
        unparked += connection
            // `due > ?2` leaves out jobs that are due already. INDEXED BY: the planner would
            // otherwise search every origin's scheduled jobs.
            .prepare_cached(&format!(
                "UPDATE {table} SET due = ?2 WHERE id IN (
                     SELECT id FROM {table} INDEXED BY {table}_backlog
                     WHERE status = 'PENDING' AND claim > 0 AND due > ?2 AND parked_at IS NOT NULL
                       AND origin = ?1 AND created_by IS ?4
                     LIMIT ?3)"
            ))?
            .execute(params![
                destination.origin.as_str(),
                now.millis(),
                columns::integer(limit - unparked),
                destination.tenant.as_ref().map(ClientName::as_str),
            ])?;
    }
    Ok(unparked)
}

/// Returns the destinations with a backlog of at least `most` scheduled or parked jobs.
pub(super) fn destinations_over_limit(
    connection: &Connection,
    most: usize,
) -> rusqlite::Result<Vec<Destination>> {
    let mut query = connection
        // INDEXED BY, as above. A job without a callback has no origin and counts for none.
        .prepare_cached(
            "SELECT origin, created_by FROM (
                 SELECT origin, created_by, count(*) AS jobs
                 FROM requests INDEXED BY requests_backlog
                 WHERE status = 'PENDING' AND claim > 0 AND origin IS NOT NULL
                 GROUP BY origin, created_by
                 UNION ALL
                 SELECT origin, created_by, count(*)
                 FROM redeliveries INDEXED BY redeliveries_backlog
                 WHERE status = 'PENDING' AND claim > 0 AND origin IS NOT NULL
                 GROUP BY origin, created_by)
             GROUP BY origin, created_by HAVING sum(jobs) >= ?1",
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
