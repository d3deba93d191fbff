//! The state of one task's link to Redis: one log line per change, and a backoff while it is down.

use std::{fmt::Display, time::Duration};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tracing::{info, warn};

const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

pub(super) struct Link {
    task: &'static str,
    /// The pauses to come, while the link is down.
    down: Option<ExponentialBackoff>,
}

impl Link {
    /// A link that is taken to be up. `task` names it in the log.
    pub(super) fn new(task: &'static str) -> Self {
        Self { task, down: None }
    }

    /// Takes note that Redis answered.
    pub(super) fn up(&mut self) {
        if self.down.take().is_some() {
            info!(task = self.task, "Redis answers again");
        }
    }

    /// Takes note that Redis did not answer, and pauses, each time longer up to a second.
    pub(super) async fn down(&mut self, error: &impl Display) {
        let task = self.task;
        let pauses = self.down.get_or_insert_with(|| {
            warn!(task, %error, "Redis doesn't answer; jobs run from the table meanwhile");
            pauses()
        });
        tokio::time::sleep(pauses.next().unwrap_or(LONGEST_PAUSE)).await;
    }
}

fn pauses() -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(FIRST_PAUSE)
        .with_max_delay(LONGEST_PAUSE)
        .without_max_times()
        .build()
}
