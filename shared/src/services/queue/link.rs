//! The state of one task's link to Redis: one log line per change, and exponential backoff between
//! reconnects.

use std::{fmt::Display, time::Duration};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tracing::{info, warn};

const FIRST_DELAY: Duration = Duration::from_millis(20);
const LONGEST_DELAY: Duration = Duration::from_secs(1);

pub(super) struct Link {
    task: &'static str,
    /// The remaining delays of the backoff; `None` while the link is up.
    backoff: Option<ExponentialBackoff>,
}

impl Link {
    /// Starts as up. `task` names the link in the log.
    pub(super) fn new(task: &'static str) -> Self {
        Self {
            task,
            backoff: None,
        }
    }

    /// Records that Redis answered.
    pub(super) fn up(&mut self) {
        if self.backoff.take().is_some() {
            info!(task = self.task, "Redis is reachable again");
        }
    }

    /// Records a failure and sleeps for the next delay of the backoff.
    pub(super) async fn down(&mut self, error: &impl Display) {
        let task = self.task;
        let backoff = self.backoff.get_or_insert_with(|| {
            warn!(task, %error, "Redis is unreachable; workers take jobs from the table meanwhile");
            new_backoff()
        });
        tokio::time::sleep(backoff.next().unwrap_or(LONGEST_DELAY)).await;
    }
}

fn new_backoff() -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(FIRST_DELAY)
        .with_max_delay(LONGEST_DELAY)
        .without_max_times()
        .build()
}
