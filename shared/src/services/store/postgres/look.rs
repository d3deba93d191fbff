//! The backlog in the tables: which jobs are due, and when the next one becomes due.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{
    columns,
    error::Error,
    lanes::{self, Lane, WAIT},
    session::{Session, Sessions},
};
use crate::services::store::{
    Candidate, Capacity, DueJobs, Sought, StoreError,
    look::{TenantQueue, share_out},
};

/// The most tenants with due jobs among which one search shares. The next one begins with others.
const MOST_TENANTS: usize = 256;

/// A search goes along the indexes of due jobs. The planner would rather scan and sort, for what it
/// believes of their number changes from one second to the next.
pub(super) const ALONG_INDEXES: &str = "SET LOCAL enable_seqscan = off;
    SET LOCAL enable_bitmapscan = off; SET LOCAL enable_sort = off";

/// The tenant that was served last, of those whose jobs are sought: the next search for them begins
/// after it.
#[derive(Default)]
pub(super) struct Turn(Mutex<HashMap<Sought, String>>);

impl Turn {
    fn last(&self, sought: &Sought) -> String {
        self.lock().get(sought).cloned().unwrap_or_default()
    }

    fn note(&self, sought: &Sought, served: &str) {
        self.lock().insert(sought.clone(), served.to_owned());
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Sought, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads jobs that are due and have lost no claim, shared among the tenants.
pub(super) async fn due_jobs(
    sessions: &Sessions,
    capacity: &Capacity,
    turn: &Turn,
) -> Result<DueJobs, StoreError> {
    sessions
        .snapshot(async |session| {
            let settings = session.execute_all(ALONG_INDEXES);
            let (settings, paused) = tokio::join!(biased; settings, is_everything_paused(session));
            settings?;
            // Or a worker would find, and try to claim, the same jobs again and again.
            if paused? {
                return Ok(DueJobs::default());
            }
            let lanes = Lane::of(&capacity.sought);
            let last = turn.last(&capacity.sought);
            let tenants = tenants_in_turn(session, capacity, &lanes, &last).await?;
            // For most searches enough: more are read only if some tenant has, or holds, fewer.
            let equal_share = capacity.jobs / tenants.len().max(1) + 1;
            let mut found = search(session, capacity, &lanes, &tenants, equal_share).await?;
            if found.ran_dry {
                found = search(session, capacity, &lanes, &tenants, capacity.jobs + 1).await?;
            }
            if let Some(last) = found.last {
                turn.note(&capacity.sought, last);
            }
            Ok(DueJobs {
                due: found.due,
                waiting: found.waiting.into_iter().map(client).collect(),
                long_jobs_wait: found.long_jobs_wait,
                next_due: match capacity.sought {
                    Sought::Common => next_due(session).await?,
                    // Of its own jobs: those of others must not wake the search of each handler.
                    Sought::WorkOf(_) => next_due_in(session, &lanes).await?,
                },
            })
        })
        .await
}

/// Whether everything is paused.
pub(super) async fn is_everything_paused(session: &Session) -> Result<bool, Error> {
    let paused = session.find("SELECT FROM pauses WHERE origin = ''", &[]);
    Ok(paused.await?.is_some())
}

fn client(tenant: &String) -> Option<crate::models::ClientName> {
    columns::client(Some(tenant))
}

/// The tenants with due jobs, of which those after `last` come first.
async fn tenants_in_turn(
    session: &Session,
    capacity: &Capacity,
    lanes: &[Lane<'_>],
    last: &str,
) -> Result<Vec<String>, Error> {
    let mut found = Vec::new();
    for lane in lanes {
        if lane.is_long() && capacity.long_jobs == 0 {
            continue;
        }
        let of_lane = lane.tenants(session, capacity.overdue_by, last, MOST_TENANTS);
        found.append(&mut of_lane.await?);
    }
    found.sort_by(|a, b| (&**a <= last, a).cmp(&(&**b <= last, b)));
    found.dedup();
    found.truncate(MOST_TENANTS);
    Ok(found)
}

struct Found<'a> {
    due: Vec<Candidate>,
    /// Whether all jobs of a tenant were taken that were read, and it has more.
    ran_dry: bool,
    /// Tenants with jobs that were not taken although there is room for their kind.
    waiting: Vec<&'a String>,
    /// Whether long jobs were not taken.
    long_jobs_wait: bool,
    /// The tenant of the last one that was.
    last: Option<&'a String>,
}

/// Shares the due jobs of `tenants`, of which up to `each` are read for a tenant and a lane.
async fn search<'a>(
    session: &Session,
    capacity: &Capacity,
    lanes: &[Lane<'_>],
    tenants: &'a [String],
    each: usize,
) -> Result<Found<'a>, Error> {
    let mut queues = due_of(session, capacity, lanes, tenants, each).await?;
    let has_more: Vec<_> = queues.iter().map(|it| it.jobs.len() >= each).collect();
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
            let first = Lane::LONG.tenants(session, capacity.overdue_by, "", 1);
            !first.await?.is_empty()
        },
        last: taken.last().map(|(index, _)| &tenants[*index]),
        due: taken.into_iter().map(|(_, candidate)| candidate).collect(),
    })
}

fn count_long(queues: &[TenantQueue<Candidate>]) -> usize {
    let jobs = queues.iter().flat_map(|it| &it.jobs);
    jobs.filter(|(is_long, _)| *is_long).count()
}

/// Reads up to `each` due jobs of each of the `tenants` from each lane, in the order of their due
/// times.
async fn due_of(
    session: &Session,
    capacity: &Capacity,
    lanes: &[Lane<'_>],
    tenants: &[String],
    each: usize,
) -> Result<Vec<TenantQueue<Candidate>>, Error> {
    let mut by_due = vec![BTreeMap::new(); tenants.len()];
    for lane in lanes {
        let most = match (lane.is_long(), capacity.long_jobs) {
            (true, 0) => continue,
            // One more shows that others wait.
            (true, room) => each.min(room + 1),
            (false, _) => each,
        };
        for job in lane
            .due(session, capacity.overdue_by, tenants, most)
            .await?
        {
            let place = (job.since, job.candidate.id);
            by_due[job.tenant].insert(place, (lane.is_long(), job.candidate));
        }
    }
    let queues = tenants
        .iter()
        .zip(by_due)
        .map(|(tenant, jobs)| TenantQueue {
            held: capacity.held.get(&client(tenant)).copied().unwrap_or(0),
            jobs: jobs.into_values().collect(),
        });
    Ok(queues.collect())
}

/// When the next job of `lanes` becomes due.
async fn next_due_in(session: &Session, lanes: &[Lane<'_>]) -> Result<Option<Duration>, Error> {
    let mut next = None;
    for lane in lanes {
        next = next.into_iter().chain(lane.next_due(session).await?).min();
    }
    Ok(next)
}

/// When the next job that was claimed before becomes due, whatever it is.
async fn next_due(session: &Session) -> Result<Option<Duration>, Error> {
    let sql = format!(
        "SELECT {WAIT} AS wait FROM (
             SELECT min(due) AS due FROM requests
             WHERE status = 'PENDING' AND claim > 0 AND due > now()
             UNION ALL
             SELECT min(due) FROM redeliveries
             WHERE status = 'PENDING' AND claim > 0 AND due > now()) AS next"
    );
    lanes::wait(session.find(&sql, &[]).await?.as_ref())
}
