//! The arrival schedule of a storm.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

/// The interval between clock checks. Each check sends the requests that became due since the last
/// one, so latencies include up to 1 ms of this program's own. A shorter interval would take more
/// CPU time from a server on the same host.
const TICK: Duration = Duration::from_millis(1);

/// A constant arrival rate.
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

    /// Calls `send` with the number and due time of each request, as soon as it is due and the
    /// process is scheduled.
    pub(crate) async fn run(self, mut send: impl FnMut(u64, Instant)) {
        // `send` can't wait for an answer. If it could, a slow API would lower the rate and hide
        // its own latency (coordinated omission).
        let start = Instant::now();
        let mut tick = interval(TICK);
        // One tick sends everything that is due, so missed ticks need no replay.
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut number = 0;
        while number < self.total {
            tick.tick().await;
            let now = Instant::now();
            while number < self.total && start + self.due(number) <= now {
                // The due time and not `now`, so that a late tick counts as latency instead of
                // vanishing.
                send(number, start + self.due(number));
                number += 1;
            }
        }
    }

    /// The due time of request `number` (from 0), relative to the start. It is computed from the
    /// start, not from the previous request, so that rounding errors don't add up.
    fn due(self, number: u64) -> Duration {
        // At most two million requests, so the product fits easily into a u64.
        Duration::from_nanos(number * 1_000_000_000 / u64::from(self.rate))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::{Pace, TICK};

    #[tokio::test(start_paused = true)]
    async fn requests_are_due_at_a_constant_rate_without_drift() {
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
    async fn a_request_is_sent_at_most_one_tick_late() {
        Pace::new(700, 700)
            .run(|_, due| assert!(due.elapsed() <= TICK * 2, "{:?} late", due.elapsed()))
            .await;
    }
}
