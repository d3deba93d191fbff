//! The worker slots that a destination or a tenant holds.

use std::time::Duration;

use tokio::time::Instant;

use super::pacer::Pacer;

/// The time that an overdue job takes to come back, beyond its wait: to be found and claimed.
const RETURN_TIME: Duration = Duration::from_secs(1);

/// The longest that room is left to a job that is parked. Another worker may make its attempt.
const LONGEST_YIELD: Duration = Duration::from_secs(5);

/// What holds slots.
#[derive(Clone, Copy)]
pub(super) struct Holder {
    /// Its jobs that make an attempt or wait for a permit; of a tenant, also those in line. Each
    /// holds a slot.
    pub(super) jobs: usize,
    pub(super) pacer: Pacer,
    /// Until then it leaves its room to overdue jobs.
    yields_until: Option<Instant>,
}

impl Holder {
    pub(super) const fn new() -> Self {
        Self {
            jobs: 0,
            pacer: Pacer::new(),
            yields_until: None,
        }
    }

    /// Whether one more of its jobs may hold a slot, where `most` of them may. One always may.
    pub(super) fn has_room(&self, most: usize, is_overdue: bool, now: Instant) -> bool {
        (self.jobs == 0 || self.jobs < most) && !self.yields(is_overdue, now)
    }

    /// Whether it leaves its room to others, which are overdue.
    pub(super) fn yields(&self, is_overdue: bool, now: Instant) -> bool {
        !is_overdue && self.yields_until.is_some_and(|until| now < until)
    }

    /// Returns how long to park a job for which it has no room, where it makes `concurrency`
    /// attempts at a time. See [`Pacer::next_delay`].
    pub(super) fn refuse(
        &mut self,
        concurrency: usize,
        longest: Duration,
        is_overdue: bool,
        now: Instant,
    ) -> Duration {
        let wait = self.pacer.next_delay(now, concurrency, longest, is_overdue);
        if is_overdue {
            // Otherwise newer jobs could take the room each time.
            let until = now + wait.min(LONGEST_YIELD) + RETURN_TIME;
            self.yields_until = self.yields_until.max(Some(until));
        }
        wait
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::{Holder, LONGEST_YIELD, RETURN_TIME};

    #[test]
    fn room_is_left_to_overdue_jobs_for_a_while_however_many_are_parked() {
        let (mut holder, now) = (Holder::new(), Instant::now());
        for _ in 0..100 {
            holder.pacer.attempt_took(Duration::from_secs(10));
        }
        let longest = Duration::from_mins(5);
        let waits = (0..20).map(|_| holder.refuse(1, longest, true, now));
        assert!(waits.max().unwrap() > 2 * LONGEST_YIELD);
        assert!(holder.has_room(2, true, now) && !holder.has_room(2, false, now));
        let later = now + LONGEST_YIELD + RETURN_TIME;
        assert!(holder.has_room(2, false, later));
    }
}
