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
}

impl Drain {
    /// Jobs get `timeout` from the moment that `told` is cancelled.
    pub fn new(told: CancellationToken, timeout: Duration) -> Self {
        let deadline = CancellationToken::new();
        tokio::spawn({
            let (told, deadline) = (told.clone(), deadline.clone());
            async move {
                told.cancelled().await;
                tokio::time::sleep(timeout).await;
                deadline.cancel();
            }
        });
        Self {
            told,
            deadline,
            jobs: TaskTracker::new(),
        }
    }

    /// Waits for the jobs until the deadline, which cuts off those that are left.
    pub(super) async fn finish(&self) {
        self.jobs.close();
        info!(jobs = self.jobs.len(), "finishing what runs");
        let ended = self.deadline.run_until_cancelled(self.jobs.wait());
        if ended.await.is_none() {
            let jobs = self.jobs.len();
            info!(jobs, "cutting off what did not end in time");
        }
        self.deadline.cancel();
        self.jobs.wait().await;
    }
}
