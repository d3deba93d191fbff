//! The backlog in the tables: which jobs are due, and when the next one becomes due.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use super::{
    columns,
    error::Error,
    known::{Known, Seen, WHOLE_EACH, Whole},
    lanes::{self, Due, Lane, WAIT},
    session::{Session, Sessions},
    state,
};
use crate::{
    models::ClientName,
    services::store::{
        Candidate, Capacity, DueJobs, Sought, StoreError, Work,
        look::{TenantQueue, share_out},
    },
};

/// The most tenants with due jobs among which one search shares. The next one begins with others.
const MOST_TENANTS: usize = 256;

/// A search goes along the indexes of due jobs. The planner would rather scan and sort: what it
/// believes of their number is old.
pub(super) const ALONG_INDEXES: &str = "SET LOCAL enable_seqscan = off;
    SET LOCAL enable_bitmapscan = off; SET LOCAL enable_sort = off";

/// A transaction takes no longer. What it has made due is then seen.
const LONGEST_TRANSACTION: Duration = Duration::from_mins(1);

/// Reads jobs that are due and have lost no claim, shared among the tenants.
pub(super) async fn due_jobs(
    sessions: &Sessions,
    capacity: &Capacity,
    known: &Known,
) -> Result<DueJobs, StoreError> {
    sessions
        .snapshot(async |session| {
            let Some(now) = begin(session).await? else {
                // Or a worker would find, and try to claim, the same jobs again and again.
                return Ok(DueJobs::default());
            };
            let search = Search {
                session,
                now,
                capacity,
                lanes: Lane::of(&capacity.sought),
            };
            let mut seen = known.of(&capacity.sought);
            let due_jobs = match search.follow(&mut seen).await? {
                Some(due_jobs) => due_jobs,
                None => search.look_at_all(&mut seen).await?,
            };
            known.note(&capacity.sought, seen);
            Ok(due_jobs)
        })
        .await
}

/// Begins a search. Returns the server's time; `None` if everything is paused.
pub(super) async fn begin(session: &Session) -> Result<Option<SystemTime>, Error> {
    let sql = "SELECT now() WHERE NOT EXISTS (SELECT FROM pauses WHERE origin = '')";
    // Both are sent at once.
    let settings = session.execute_all(ALONG_INDEXES);
    let (settings, row) = tokio::join!(biased; settings, session.find(sql, &[]));
    settings?;
    Ok(row?.map(|row| row.try_get(0)).transpose()?)
}

/// A name that can't be parsed was edited by hand, and counts as none.
fn client(tenant: &str) -> Option<ClientName> {
    columns::client(Some(tenant))
}

/// By what tenants are sorted if `last` was served last.
fn in_turn<'a>(tenant: &'a str, last: &str) -> (bool, &'a str) {
    (tenant <= last, tenant)
}

fn count_long(queues: &[TenantQueue<Candidate>]) -> usize {
    let jobs = queues.iter().flat_map(|it| &it.jobs);
    jobs.filter(|(is_long, _)| *is_long).count()
}

struct Search<'a> {
    session: &'a Session,
    /// The server's time.
    now: SystemTime,
    capacity: &'a Capacity,
    lanes: Vec<Lane<'a>>,
}

struct Found {
    due: Vec<Candidate>,
    /// Whether all jobs of a tenant were taken that were read, and it has more.
    ran_dry: bool,
    /// Tenants with jobs that were not taken although there is room for their kind.
    waiting: Vec<Option<ClientName>>,
    /// Whether long jobs were read and not taken.
    long_jobs_wait: bool,
    /// The tenant of the last one that was.
    last: Option<String>,
}

impl Search<'_> {
    /// Finds due jobs where the search before this one has found some. `None` if those are too few.
    async fn follow(&self, seen: &mut Seen) -> Result<Option<DueJobs>, Error> {
        let Some(whole) = &mut seen.whole else {
            return Ok(None);
        };
        let found = self.share(whole, &seen.last).await?;
        if found.due.len() < self.capacity.jobs {
            return Ok(None);
        }
        let has_long = whole.has_long;
        // A whole search says more by then.
        Ok(Some(self.served(found, seen, has_long, Some(WHOLE_EACH))))
    }

    /// Finds due jobs wherever they are.
    async fn look_at_all(&self, seen: &mut Seen) -> Result<DueJobs, Error> {
        let (tenants, has_long) = self.tenants(&seen.last).await?;
        let has_more = tenants.len() > MOST_TENANTS;
        let mut whole = Whole {
            at: Instant::now(),
            tenants,
            marks: HashMap::new(),
            has_long,
        };
        let found = self.share(&mut whole, &seen.last).await?;
        // If it has not seen all tenants, the next search has to look for the others.
        seen.whole = Some(whole).filter(|_| !has_more);
        let next_due = match self.capacity.sought {
            Sought::Common => next_due(self.session).await?,
            // Of its own jobs: those of others must not wake the search of each handler.
            Sought::WorkOf(_) => self.next_due().await?,
        };
        Ok(self.served(found, seen, has_long, next_due))
    }

    fn served(
        &self,
        found: Found,
        seen: &mut Seen,
        has_long: bool,
        next_due: Option<Duration>,
    ) -> DueJobs {
        if let Some(last) = found.last {
            seen.last = last;
        }
        DueJobs {
            due: found.due,
            waiting: found.waiting,
            // Without room for them, none was read.
            long_jobs_wait: found.long_jobs_wait || self.capacity.long_jobs == 0 && has_long,
            next_due,
        }
    }

    /// The tenants with due jobs, of which those after `last` come first, and whether long reports
    /// are due. One more than can share shows that there are others.
    async fn tenants(&self, last: &str) -> Result<(Vec<String>, bool), Error> {
        let in_lanes = self.lanes.iter().map(|lane| self.tenants_in(*lane, last));
        let in_lanes = in_each(in_lanes).await?;
        let has_long = in_lanes.iter().any(|(_, has_long)| *has_long);
        let mut found: Vec<_> = in_lanes.into_iter().flat_map(|(it, _)| it).collect();
        found.sort_by(|a, b| in_turn(a, last).cmp(&in_turn(b, last)));
        found.dedup();
        found.truncate(MOST_TENANTS + 1);
        Ok((found, has_long))
    }

    async fn tenants_in(&self, lane: Lane<'_>, last: &str) -> Result<(Vec<String>, bool), Error> {
        // One shows that long reports wait, without room for them.
        let is_read = !lane.is_long() || self.capacity.long_jobs > 0;
        let most = if is_read { MOST_TENANTS + 1 } else { 1 };
        let tenants = lane.tenants(self.session, self.capacity.overdue_by, last, most);
        let tenants = tenants.await?;
        let has_long = lane.is_long() && !tenants.is_empty();
        Ok((if is_read { tenants } else { Vec::new() }, has_long))
    }

    /// Shares the due jobs of the tenants of `whole`, beginning after `last`, and moves its marks.
    async fn share(&self, whole: &mut Whole, last: &str) -> Result<Found, Error> {
        let mut tenants = whole.tenants.clone();
        tenants.sort_by(|a, b| in_turn(a, last).cmp(&in_turn(b, last)));
        tenants.truncate(MOST_TENANTS);
        // For most searches enough: more are read only if some tenant has, or holds, fewer.
        let equal_share = self.capacity.jobs / tenants.len().max(1) + 1;
        let found = self.share_up_to(equal_share, &tenants, whole).await?;
        if !found.ran_dry {
            return Ok(found);
        }
        let all = self.capacity.jobs + 1;
        self.share_up_to(all, &tenants, whole).await
    }

    /// The same, of up to `each` jobs of a tenant and a lane.
    async fn share_up_to(
        &self,
        each: usize,
        tenants: &[String],
        whole: &mut Whole,
    ) -> Result<Found, Error> {
        let capacity = self.capacity;
        let mut queues = self.due_of(tenants, each, whole).await?;
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
            waiting: waiting.map(|index| client(&tenants[index])).collect(),
            long_jobs_wait: long_jobs_left > 0,
            last: taken.last().map(|(index, _)| tenants[*index].clone()),
            due: taken.into_iter().map(|(_, candidate)| candidate).collect(),
        })
    }

    /// Reads up to `each` due jobs of each of the `tenants` from each lane, in the order of their
    /// due times: from the marks of `whole` on, which it moves to what it has found.
    async fn due_of(
        &self,
        tenants: &[String],
        each: usize,
        whole: &mut Whole,
    ) -> Result<Vec<TenantQueue<Candidate>>, Error> {
        let in_lanes = (0..self.lanes.len()).map(|lane| self.due_in(lane, tenants, each, whole));
        let in_lanes = in_each(in_lanes).await?;
        // What a transaction under way makes due can be as old as it is.
        let before = self.capacity.overdue_by + LONGEST_TRANSACTION;
        let settled = self.now.checked_sub(before).unwrap_or(UNIX_EPOCH);
        let mut by_due = vec![BTreeMap::new(); tenants.len()];
        for (number, due) in in_lanes.into_iter().enumerate() {
            let is_long = self.lanes[number].is_long();
            let marks = tenants.iter().map(|it| ((number, it.clone()), settled));
            whole.marks.extend(marks);
            for job in due {
                let of = (number, tenants[job.tenant].clone());
                let mark = whole.marks.entry(of).or_insert(settled);
                *mark = job.since.min(*mark);
                let place = (job.since, job.candidate.id);
                by_due[job.tenant].insert(place, (is_long, job.candidate));
            }
        }
        let queues = tenants
            .iter()
            .zip(by_due)
            .map(|(tenant, jobs)| TenantQueue {
                held: self
                    .capacity
                    .held
                    .get(&client(tenant))
                    .copied()
                    .unwrap_or(0),
                jobs: jobs.into_values().collect(),
            });
        Ok(queues.collect())
    }

    async fn due_in(
        &self,
        number: usize,
        tenants: &[String],
        each: usize,
        whole: &Whole,
    ) -> Result<Vec<Due>, Error> {
        let lane = self.lanes[number];
        let most = match (lane.is_long(), self.capacity.long_jobs) {
            (true, 0) => return Ok(Vec::new()),
            // One more shows that others wait.
            (true, room) => each.min(room + 1),
            (false, _) => each,
        };
        let mark = |tenant: &String| whole.marks.get(&(number, tenant.clone())).copied();
        let marks: Vec<_> = tenants.iter().map(mark).collect();
        let overdue_by = self.capacity.overdue_by;
        lane.due(self.session, overdue_by, tenants, &marks, most)
            .await
    }

    /// When the next job of the lanes becomes due.
    async fn next_due(&self) -> Result<Option<Duration>, Error> {
        let next = in_each(self.lanes.iter().map(|lane| lane.next_due(self.session)));
        Ok(next.await?.into_iter().flatten().min())
    }
}

/// What is read in each lane, of which a search has no more than three. All statements are sent at
/// once.
async fn in_each<T>(
    mut reads: impl Iterator<Item = impl Future<Output = Result<T, Error>>>,
) -> Result<Vec<T>, Error> {
    let mut next = || {
        // On the heap: it is large.
        let read = reads.next().map(Box::pin);
        async {
            Ok::<_, Error>(match read {
                Some(read) => Some(read.await?),
                None => None,
            })
        }
    };
    let (first, second, third) = (next(), next(), next());
    let (first, second, third) = tokio::join!(biased; first, second, third);
    Ok([first?, second?, third?].into_iter().flatten().collect())
}

/// When the next job that was claimed before becomes due, whatever it is.
async fn next_due(session: &Session) -> Result<Option<Duration>, Error> {
    lanes::wait(session.find(&next_due_sql(), &[]).await?.as_ref())
}

pub(super) fn next_due_sql() -> String {
    let [jobs, redeliveries] = Work::ALL.map(state::table).map(|table| {
        format!(
            "(SELECT due FROM {table} WHERE status = 'PENDING' AND claim > 0 AND due > now()
              ORDER BY due LIMIT 1)"
        )
    });
    format!("SELECT {WAIT} AS wait FROM ({jobs} UNION ALL {redeliveries}) AS next")
}

#[cfg(test)]
mod tests;
