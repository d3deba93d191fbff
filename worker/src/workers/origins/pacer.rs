//! Spreads the jobs for which a destination or a tenant has no room over the time that it needs for
//! them.

use std::time::Duration;

use tokio::time::Instant;

/// The assumed length of an attempt until one has been measured. A destination is forgotten with
/// its last job, so this is assumed of quick ones again and again.
const INITIAL_MEAN: Duration = Duration::from_millis(10);

/// The shortest time for which parking pays: it costs two writes, and a quick report is made again.
pub(super) const SHORTEST: Duration = Duration::from_millis(200);

/// Assigns start times to jobs at the rate at which attempts were served.
#[derive(Clone, Copy)]
pub(super) struct Pacer {
    /// Moving average of the length of an attempt.
    mean: Duration,
    /// The last start time assigned.
    last: Option<Instant>,
    /// The last one assigned to an overdue job. These wait for each other only.
    last_overdue: Option<Instant>,
}

impl Pacer {
    pub(super) const fn new() -> Self {
        Self {
            mean: INITIAL_MEAN,
            last: None,
            last_overdue: None,
        }
    }

    /// Feeds the average.
    pub(super) fn attempt_took(&mut self, time: Duration) {
        self.mean = (self.mean * 7 + time) / 8;
    }

    /// The mean time between the ends of two attempts, with `concurrency` of them under way.
    pub(super) fn spacing(&self, concurrency: usize) -> Duration {
        self.mean / u32::try_from(concurrency).unwrap_or(u32::MAX)
    }

    /// The delay from `now` to the next free start time, with `concurrency` attempts at a time.
    /// Start times beyond `longest` begin again from now: a job that comes too early is parked
    /// again.
    pub(super) fn next_delay(
        &mut self,
        now: Instant,
        concurrency: usize,
        longest: Duration,
        is_overdue: bool,
    ) -> Duration {
        let spacing = self.spacing(concurrency);
        let last = if is_overdue {
            &mut self.last_overdue
        } else {
            &mut self.last
        };
        let soonest = now + SHORTEST;
        let next = last.map_or(soonest, |last| last + spacing);
        // A start time before `soonest` went unused. It is not made up for, as that would be a
        // burst.
        let is_within = next >= soonest && next - now <= longest;
        let start = if is_within { next } else { soonest };
        *last = Some(start);
        start - now
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::{Pacer, SHORTEST};

    const LONGEST: Duration = Duration::from_mins(5);

    #[test]
    fn start_times_are_spaced_by_the_origins_service_time() {
        let (mut pacer, now) = (Pacer::new(), Instant::now());
        for _ in 0..100 {
            pacer.attempt_took(Duration::from_secs(10));
        }
        let delays: Vec<_> = (0..4)
            .map(|_| pacer.next_delay(now, 10, LONGEST, false))
            .collect();
        assert_eq!(delays[0], SHORTEST);
        for pair in delays.windows(2) {
            let apart = pair[1].abs_diff(pair[0]).as_millis();
            assert!((990..=1000).contains(&apart), "{apart} ms");
        }
        // Unused start times are not made up for.
        let later = now + Duration::from_mins(10);
        assert_eq!(pacer.next_delay(later, 10, LONGEST, false), SHORTEST);
    }

    #[test]
    fn overdue_jobs_wait_for_each_other_only() {
        let (mut pacer, now) = (Pacer::new(), Instant::now());
        for _ in 0..100 {
            pacer.attempt_took(Duration::from_secs(10));
            pacer.next_delay(now, 10, LONGEST, false);
        }
        assert_eq!(pacer.next_delay(now, 10, LONGEST, true), SHORTEST);
        assert!(pacer.next_delay(now, 10, LONGEST, true) > SHORTEST);
    }

    #[test]
    fn no_delay_exceeds_the_longest_and_later_ones_begin_again() {
        let (mut pacer, now) = (Pacer::new(), Instant::now());
        pacer.attempt_took(Duration::from_mins(8));
        let delays: Vec<_> = (0..20)
            .map(|_| pacer.next_delay(now, 1, LONGEST, false))
            .collect();
        assert!(delays.iter().all(|delay| *delay <= LONGEST), "{delays:?}");
        assert!(delays.iter().filter(|delay| **delay == SHORTEST).count() > 2);
    }
}
