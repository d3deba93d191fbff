//! The state of one task's link to Redis: one log line per change, and exponential backoff between
//! reconnects.

use std::{fmt::Display, time::Duration};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tracing::{info, warn};

use crate::outage::Outage;

const FIRST_DELAY: Duration = Duration::from_millis(20);
const LONGEST_DELAY: Duration = Duration::from_secs(1);

pub(super) struct Link {
    task: &'static str,
    outage: Outage,
    /// The remaining delays of the backoff.
    backoff: ExponentialBackoff,
}

impl Link {
    /// Starts as up. `task` names the link in the log.
    pub(super) fn new(task: &'static str) -> Self {
        Self {
            task,
            outage: Outage::default(),
            backoff: new_backoff(),
        }
    }

    /// Records that Redis answered.
    pub(super) fn up(&mut self) {
        if self.outage.recovered() {
            info!(task = self.task, "Redis is reachable again");
            self.backoff = new_backoff();
        }
    }

    /// Records a failure and sleeps for the next delay of the backoff.
    pub(super) async fn down(&mut self, error: &impl Display) {
        let task = self.task;
        if self.outage.failed() {
            warn!(task, %error, "Redis is unreachable; workers take jobs from the table meanwhile");
        }
        // Only the task of this link sleeps. No request and no job waits for Redis.
        tokio::time::sleep(self.backoff.next().unwrap_or(LONGEST_DELAY)).await;
    }
}

fn new_backoff() -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(FIRST_DELAY)
        .with_max_delay(LONGEST_DELAY)
        .without_max_times()
        .build()
}
