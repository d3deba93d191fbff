//! Shortages of the worker itself: for how long they park a job, and what is logged.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use storm_shared::outage::Outage;
use tracing::{info, warn};

use crate::{
    delivery::Shortage,
    metrics::{Metrics, ParkReason},
};

/// How long a job is parked at least. It is not the receiver's fault, so the wait is short.
const SHORTEST: Duration = Duration::from_secs(1);

/// How long a job is parked that has waited for long: each park costs two writes.
const LONGEST: Duration = Duration::from_secs(5);

/// A shortage is over when none was met for this long. Near a limit, attempts succeed and fail in
/// turns, and that is one shortage.
const QUIET: Duration = Duration::from_secs(10);

/// The shortages that attempts have met.
pub(super) struct Shortages {
    /// Whether there is an outage: read without a lock by every attempt.
    is_ongoing: AtomicBool,
    outage: Mutex<Outage>,
    metrics: Metrics,
}

impl Shortages {
    pub(super) fn new(metrics: Metrics) -> Self {
        Self {
            is_ongoing: AtomicBool::new(false),
            outage: Mutex::new(Outage::with_quiet_period(QUIET)),
            metrics,
        }
    }

    /// An attempt met `shortage`. Returns how long to park its job, which has been parked for
    /// `parked_for` so far.
    pub(super) fn met(&self, shortage: Shortage, parked_for: Duration) -> Duration {
        self.metrics.parked(ParkReason::Shortage(shortage));
        // The flag is set under the lock, or `passed` could clear it after this.
        let mut outage = self.lock();
        if outage.failed() {
            self.is_ongoing.store(true, Ordering::Relaxed);
            warn!(
                reason = shortage.name(),
                shortage = %shortage,
                "callbacks are parked, without an attempt spent; see docs/TROUBLESHOOTING.md"
            );
        }
        let wait = (parked_for / 8).clamp(SHORTEST, LONGEST);
        // Up to twice as long, so that the jobs do not meet the same shortage together again.
        wait.mul_f64(1.0 + fastrand::f64())
    }

    /// An attempt met none.
    pub(super) fn passed(&self) {
        if !self.is_ongoing.load(Ordering::Relaxed) {
            return;
        }
        let mut outage = self.lock();
        if outage.recovered() {
            self.is_ongoing.store(false, Ordering::Relaxed);
            info!(quiet = ?QUIET, "callbacks resume: the shortage is over");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Outage> {
        // No change under this lock can be left half done by a panic.
        self.outage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::atomic::Ordering, time::Duration};

    use super::{LONGEST, QUIET, SHORTEST, Shortages};
    use crate::{delivery::Shortage, metrics::Metrics};

    #[test]
    fn a_job_waits_longer_the_longer_it_has_waited_up_to_a_bound() {
        let shortages = Shortages::new(Metrics::new());
        for (parked_for, wait) in [
            (0, SHORTEST),
            (8, SHORTEST),
            (24, 3 * SHORTEST),
            (9999, LONGEST),
        ] {
            let parked_for = Duration::from_secs(parked_for);
            let pause = shortages.met(Shortage::Memory, parked_for);
            assert!(
                (wait..=2 * wait).contains(&pause),
                "{parked_for:?}: {pause:?}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_shortage_lasts_until_none_was_met_for_a_while() {
        let metrics = Metrics::new();
        let shortages = Shortages::new(metrics.clone());
        let ended = |shortages: &Shortages| !shortages.is_ongoing.load(Ordering::Relaxed);
        shortages.passed();
        assert!(ended(&shortages), "there was none");
        shortages.met(Shortage::Descriptors, Duration::ZERO);
        shortages.passed();
        assert!(!ended(&shortages), "it is not over yet");

        shortages.met(Shortage::Ports, Duration::ZERO);
        tokio::time::advance(QUIET).await;
        shortages.passed();
        assert!(ended(&shortages), "it is over, and that was logged");
        let text = metrics.render();
        for line in [
            "storm_worker_parked_jobs_total{why=\"no_descriptor\"} 1",
            "storm_worker_parked_jobs_total{why=\"no_port\"} 1",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }
}
