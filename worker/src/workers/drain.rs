//! Graceful shutdown: SIGTERM stops the claiming, and a deadline ends what still runs.

use std::time::Duration;

use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::info;

/// The running jobs, and the two moments of a graceful shutdown. Clones share them.
#[derive(Clone)]
pub(super) struct Drain {
    shutdown: CancellationToken,
    deadline: CancellationToken,
    jobs: TaskTracker,
}

impl Drain {
    /// `shutdown` starts the drain; jobs have `timeout` from then on.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub(super) fn new(shutdown: CancellationToken, timeout: Duration) -> Self {
        let deadline = CancellationToken::new();
        // The timeout runs from the signal. `finish` begins only when the loops have ended.
        tokio::spawn({
            let (shutdown, deadline) = (shutdown.clone(), deadline.clone());
            async move {
                shutdown.cancelled().await;
                tokio::time::sleep(timeout).await;
                deadline.cancel();
            }
        });
        Self {
            shutdown,
            deadline,
            jobs: TaskTracker::new(),
        }
    }

    /// The same drain, for loops that `stop` ends as shutdown does.
    pub(super) fn until(&self, stop: CancellationToken) -> Self {
        let shutdown = self.shutdown.clone();
        let either = stop.clone();
        // Ends with whichever comes first.
        tokio::spawn(async move {
            tokio::select! {
                () = shutdown.cancelled() => either.cancel(),
                () = either.cancelled() => {}
            }
        });
        Self {
            shutdown: stop,
            ..self.clone()
        }
    }

    /// The result of `event`, or `None` if the drain starts first. Nothing is claimed after that.
    pub(super) async fn until_shutdown<T>(&self, event: impl Future<Output = T>) -> Option<T> {
        self.shutdown.run_until_cancelled(event).await
    }

    /// Completes at the deadline, or when every job has ended before it.
    pub(super) async fn over(&self) {
        self.deadline.cancelled().await;
    }

    /// Whether that has come.
    pub(super) fn is_over(&self) -> bool {
        self.deadline.is_cancelled()
    }

    /// Runs a job in a task of its own, which the drain waits for.
    pub(super) fn spawn(&self, job: impl Future<Output = ()> + Send + 'static) {
        self.jobs.spawn(job);
    }

    /// Ends the drain at once: jobs that still run are cut off.
    pub(super) fn cut_off(&self) {
        self.deadline.cancel();
    }

    /// Waits for the jobs until the deadline, and cuts off the rest. Returns their number.
    pub(super) async fn finish(&self) -> usize {
        // A tracker that is not closed never completes `wait`.
        self.jobs.close();
        info!(jobs = self.jobs.len(), "draining");
        let ended = self.deadline.run_until_cancelled(self.jobs.wait());
        let mut unfinished = 0;
        if ended.await.is_none() {
            unfinished = self.jobs.len();
            info!(
                jobs = unfinished,
                "drain timeout: unfinished jobs go back to the table"
            );
        }
        // Also when every job has ended early: the listener's shutdown waits for `over`.
        self.deadline.cancel();
        // A job that is cut off ends at its next poll. None may still run when the lease is given
        // up.
        self.jobs.wait().await;
        unfinished
    }
}
