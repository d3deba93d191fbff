//! How a worker ends: told to stop, it finishes what it can by a deadline.

use std::time::Duration;

use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::info;

/// The jobs that run, and the two moments of their end.
#[derive(Clone)]
pub struct Drain {
    /// From here on nothing new is claimed.
    pub(super) told: CancellationToken,
    /// From here on what still runs is given back too.
    pub(super) deadline: CancellationToken,
    pub(super) jobs: TaskTracker,
    timeout: Duration,
}

impl Drain {
    /// Jobs get `timeout` from the moment that `told` is cancelled.
    pub fn new(told: CancellationToken, timeout: Duration) -> Self {
        Self {
            told,
            deadline: CancellationToken::new(),
            jobs: TaskTracker::new(),
            timeout,
        }
    }

    /// Waits for the jobs until the deadline, which cuts off those that are left.
    pub(super) async fn finish(&self) {
        self.jobs.close();
        info!(jobs = self.jobs.len(), within = ?self.timeout, "finishing what runs");
        if tokio::time::timeout(self.timeout, self.jobs.wait())
            .await
            .is_err()
        {
            info!(
                jobs = self.jobs.len(),
                "cutting off what did not end in time"
            );
        }
        self.deadline.cancel();
        self.jobs.wait().await;
    }
}
