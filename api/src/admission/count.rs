//! What is known from the last count: how long a new job should wait, and when a refused client
//! should retry.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    drain::jobs,
    lanes::{Lane, Rates},
    ledger::{Since, Tenant},
    waiting::Waiting,
};

/// The bounds of the time after which a refused client is asked to retry.
const RETRY_AFTER: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(10));

/// That time while the rate is unknown, and at least while all work is paused.
pub(super) const RETRY_AFTER_STANDSTILL: Duration = Duration::from_mins(1);

/// The longest wait for a worker that is expected of a job.
pub(super) const LONGEST_WAIT: Duration = Duration::from_hours(24);

/// The same while it is not known how fast the workers are, but only what they have done at least:
/// the next counts of a storm tell.
pub(super) const LONGEST_UNMEASURED_WAIT: Duration = Duration::from_secs(3);

/// Jobs are waiting for workers if it takes them at least this long to begin with all that wait.
const BACKLOGGED: Duration = Duration::from_secs(1);

/// What is known from the last count.
pub(super) struct Count {
    pub(super) at: Instant,
    pub(super) waiting: Waiting,
    pub(super) rates: Rates,
    pub(super) is_paused: bool,
}

impl Count {
    /// How long a new job of `tenant` should wait for a worker, which has admitted some `since` the
    /// count.
    pub(super) fn wait(&self, tenant: &Tenant, is_long: bool, since: Since) -> Duration {
        let own = self.wait_in(Lane::of(is_long), tenant, since);
        if is_long {
            // Where short jobs take all slots, it waits for them as well.
            own.max(self.wait_in(Lane::All, tenant, since))
        } else {
            own
        }
    }

    fn wait_in(&self, lane: Lane, tenant: &Tenant, since: Since) -> Duration {
        let rate = self.rates.of(lane);
        let longest = if rate.is_measured() {
            LONGEST_WAIT
        } else {
            LONGEST_UNMEASURED_WAIT
        };
        let time_for = |jobs| rate.time_for(jobs, longest).unwrap_or_default();
        if time_for(jobs(self.waiting.total(lane))) < BACKLOGGED {
            // The workers keep up, and what was accepted since does not wait either.
            return time_for(jobs(self.waiting.before(tenant, lane, 0)));
        }
        let before = self.waiting.before(tenant, lane, since.of(lane));
        time_for(jobs(before) - rate.within(self.at.elapsed()))
    }

    /// When a client should retry that finds room once so many jobs of a lane have ended.
    pub(super) fn retry_after(&self, over: u64, lane: Lane) -> Duration {
        let (least, most) = RETRY_AFTER;
        let least = if self.is_paused {
            RETRY_AFTER_STANDSTILL
        } else {
            least
        };
        let drained = self.rates.of(lane).time_for(jobs(over), most);
        drained.unwrap_or(RETRY_AFTER_STANDSTILL).max(least)
    }
}
