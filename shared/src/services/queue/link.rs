//! One task's link to Redis: one log line per change, and exponential backoff between reconnects.

use std::{sync::Arc, time::Duration};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tracing::{info, warn};

use super::{
    QueueError, RedisTrouble,
    status::{LinkStatus, QueueStatus},
};

const FIRST_DELAY: Duration = Duration::from_millis(20);
const LONGEST_DELAY: Duration = Duration::from_secs(1);

pub(super) struct Link {
    status: Arc<QueueStatus>,
    of: fn(&QueueStatus) -> &LinkStatus,
    /// The remaining delays of the backoff.
    backoff: ExponentialBackoff,
}

impl Link {
    /// Starts as up. `of` chooses the link's state among those of the process.
    pub(super) fn new(status: &Arc<QueueStatus>, of: fn(&QueueStatus) -> &LinkStatus) -> Self {
        of(status).note(None);
        Self {
            status: Arc::clone(status),
            of,
            backoff: new_backoff(),
        }
    }

    pub(super) fn is_down(&self) -> bool {
        self.state().trouble().is_some()
    }

    /// Records that Redis did what it was asked.
    pub(super) fn up(&mut self) {
        let state = self.state();
        if state.note(None).is_some() {
            info!(task = state.task, "Redis works again");
            self.backoff = new_backoff();
        }
    }

    /// Records a failure.
    pub(super) fn failed(&self, error: &QueueError) {
        let state = self.state();
        let trouble = RedisTrouble::from(error);
        // The same trouble again is in the log already.
        if state.note(Some(trouble)) != Some(trouble) {
            let (task, trouble, meanwhile) = (state.task, trouble.as_str(), state.meanwhile);
            warn!(task, trouble, %error, meanwhile, "Redis can't be used");
        }
    }

    /// Records a failure and sleeps for the next delay of the backoff.
    pub(super) async fn down(&mut self, error: &QueueError) {
        self.failed(error);
        // Only the task of this link sleeps. No request and no job waits for Redis.
        tokio::time::sleep(self.backoff.next().unwrap_or(LONGEST_DELAY)).await;
    }

    fn state(&self) -> &LinkStatus {
        (self.of)(&self.status)
    }
}

fn new_backoff() -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(FIRST_DELAY)
        .with_max_delay(LONGEST_DELAY)
        .without_max_times()
        .build()
}
