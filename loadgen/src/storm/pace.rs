//! When each request of a storm is due.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

/// How often the clock is looked at: what fell due since goes out together. So a latency includes
/// a millisecond of ours; waking more often would cost the server that shares the machine more.
const TICK: Duration = Duration::from_millis(1);

/// An even arrival rate.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    rate: u32,
    total: u64,
}

impl Pace {
    /// `total` requests, `rate` per second.
    pub(crate) fn new(rate: u32, total: u64) -> Self {
        Self { rate, total }
    }

    pub(crate) fn total(self) -> u64 {
        self.total
    }

    /// Fires every request when it is due, or as soon after as this process gets to run. What it
    /// fires is told when it was due.
    pub(crate) async fn run(self, mut fire: impl FnMut(u64, Instant)) {
        let start = Instant::now();
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut number = 0;
        while number < self.total {
            tick.tick().await;
            let now = Instant::now();
            while number < self.total && start + self.due(number) <= now {
                fire(number, start + self.due(number));
                number += 1;
            }
        }
    }

    /// When the `number`-th request (from 0) is due, from the start. Counted from the start each
    /// time, so that it doesn't drift.
    fn due(self, number: u64) -> Duration {
        // Two million requests at most: far from the end of a u64.
        Duration::from_nanos(number * 1_000_000_000 / u64::from(self.rate))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::{Pace, TICK};

    #[tokio::test(start_paused = true)]
    async fn requests_fall_due_evenly_and_without_drift() {
        let start = Instant::now();
        let mut due = Vec::new();
        Pace::new(300, 901)
            .run(|number, at| due.push((number, at - start)))
            .await;
        assert_eq!(due.len(), 901);
        assert_eq!(due[0], (0, Duration::ZERO));
        assert_eq!(due[300], (300, Duration::from_secs(1)));
        assert_eq!(due[900], (900, Duration::from_secs(3)));
        assert!(due.is_sorted());
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_fires_after_it_is_due_by_a_tick_at_most() {
        Pace::new(700, 700)
            .run(|_, due| assert!(due.elapsed() <= TICK * 2, "{:?} late", due.elapsed()))
            .await;
    }
}
