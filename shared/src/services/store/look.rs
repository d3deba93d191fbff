//! Looking for work: which jobs are due, and whose turn it is. Value types and pure rules, no SQL.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, VecDeque},
    time::Duration,
};

use super::job::Candidate;
use crate::models::{ClientName, HandlerName, ReportSpec};

/// A job is long if its work is expected to take more than this.
const LONG_JOB: Duration = Duration::from_secs(5);

/// Whether a job with this `spec` is long: its work is expected to take more than 5 s.
pub fn is_long(spec: &ReportSpec) -> bool {
    spec.ideal_duration() > LONG_JOB
}

/// Which jobs a search is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Sought {
    /// Reports, and what any worker can do: callbacks of jobs whose work is done, redeliveries.
    Common,
    /// Jobs whose work this handler is to do.
    WorkOf(HandlerName),
}

/// What a worker can take on, and whose jobs it holds.
#[derive(Clone, Debug)]
pub struct Capacity {
    /// Of which jobs.
    pub sought: Sought,
    /// Only jobs that have been due for this long. Zero: all that are due.
    pub overdue_by: Duration,
    /// The most jobs to find.
    pub jobs: usize,
    /// The most long reports among them.
    pub long_jobs: usize,
    /// The jobs that the worker holds already, by tenant; `None` are those without a client name.
    pub held: HashMap<Option<ClientName>, usize>,
}

impl Capacity {
    /// That of a worker that holds nothing: up to `jobs` common ones, long or not.
    pub fn of(jobs: usize) -> Self {
        Self {
            sought: Sought::Common,
            overdue_by: Duration::ZERO,
            jobs,
            long_jobs: jobs,
            held: HashMap::new(),
        }
    }
}

/// Due jobs, and when the next one will be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DueJobs {
    /// Claimable jobs that have lost no claim. Each goes to the tenant that then holds the fewest,
    /// in turns; those of one tenant are in the order in which they became due.
    pub due: Vec<Candidate>,
    /// Tenants with more due jobs than these, as far as the search has looked. Long jobs without
    /// room don't count.
    pub waiting: Vec<Option<ClientName>>,
    /// Whether more long jobs are due than these, with room for them or without.
    pub long_jobs_wait: bool,
    /// The time until the next job that was claimed before becomes due. New jobs don't count: their
    /// notifications are on the way.
    pub next_due: Option<Duration>,
}

/// The due jobs of one tenant.
#[derive(Debug)]
pub(super) struct TenantQueue<T> {
    /// How many jobs of it the worker holds.
    pub(super) held: usize,
    /// Its due jobs in order, each with whether it is long.
    pub(super) jobs: VecDeque<(bool, T)>,
}

/// Takes up to `most` jobs, of which up to `most_long` are long, from `queues`: each from the
/// tenant that then holds the fewest, and of several from the first. Returns them with their
/// tenant's index. Long jobs that are over the limit are left.
pub(super) fn share_out<T>(
    most: usize,
    mut most_long: usize,
    queues: &mut [TenantQueue<T>],
) -> Vec<(usize, T)> {
    let held = queues
        .iter()
        .enumerate()
        .map(|(index, it)| Reverse((it.held, index)));
    let mut next: BinaryHeap<_> = held.collect();
    let mut taken = Vec::with_capacity(most.min(64));
    while taken.len() < most
        && let Some(Reverse((held, index))) = next.pop()
    {
        // Long jobs wait for a worker with room for them, and short ones behind them do not.
        let jobs = &mut queues[index].jobs;
        let can_run = |(is_long, _): &(bool, T)| !is_long || most_long > 0;
        let Some((is_long, job)) = jobs.iter().position(can_run).and_then(|at| jobs.remove(at))
        else {
            continue;
        };
        most_long -= usize::from(is_long);
        taken.push((index, job));
        next.push(Reverse((held + 1, index)));
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::{TenantQueue, share_out};

    /// A queue of a tenant that holds `held`. Upper case: a long job.
    fn queue(held: usize, jobs: &str) -> TenantQueue<char> {
        let jobs = jobs.chars().map(|it| (it.is_uppercase(), it)).collect();
        TenantQueue { held, jobs }
    }

    fn shared(most: usize, most_long: usize, queues: &mut [TenantQueue<char>]) -> String {
        let taken = share_out(most, most_long, queues);
        taken.into_iter().map(|(_, job)| job).collect()
    }

    #[test]
    fn tenants_take_turns_and_nobody_waits_while_there_is_room() {
        let mut queues = [queue(0, "aaaaa"), queue(0, "b"), queue(0, "cc")];
        assert_eq!(shared(6, 0, &mut queues), "abcaca");
        let left = queues.map(|it| it.jobs.len());
        assert_eq!(left, [2, 0, 0]);
        assert_eq!(shared(9, 0, &mut [queue(7, "aaa")]), "aaa");
    }

    #[test]
    fn whoever_holds_fewer_comes_first() {
        let mut queues = [queue(3, "aaaa"), queue(1, "bbbb")];
        assert_eq!(shared(6, 0, &mut queues), "bbabab");
    }

    #[test]
    fn long_jobs_over_the_limit_block_no_short_ones_and_are_left() {
        let mut queues = [queue(0, "AAAa"), queue(0, "BB")];
        assert_eq!(shared(9, 2, &mut queues), "ABa");
        assert_eq!(queues.map(|it| it.jobs.len()), [2, 1]);
        let mut queues = [queue(0, "AA")];
        assert_eq!(shared(1, 2, &mut queues), "A");
        assert_eq!(queues[0].jobs.len(), 1);
    }
}
