//! One task's link to Redis: one log line for each change, and exponential backoff while it is down.

use std::{fmt::Display, time::Duration};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tracing::{info, warn};

use crate::outage::Outage;

const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

pub(super) struct Link {
    task: &'static str,
    outage: Outage,
    pauses: ExponentialBackoff,
}

impl Link {
    /// A link that is assumed to be up. `task` names it in the log.
    pub(super) fn new(task: &'static str) -> Self {
        Self {
            task,
            outage: Outage::default(),
            pauses: pauses(),
        }
    }

    /// Notes that Redis answered.
    pub(super) fn up(&mut self) {
        if self.outage.recovered() {
            info!(task = self.task, "Redis answers again");
            self.pauses = pauses();
        }
    }

    /// Notes that Redis did not answer, and pauses: longer each time, up to a second.
    pub(super) async fn down(&mut self, error: &impl Display) {
        if self.outage.failed() {
            let task = self.task;
            warn!(task, %error, "Redis doesn't answer; jobs run from the table meanwhile");
        }
        tokio::time::sleep(self.pauses.next().unwrap_or(LONGEST_PAUSE)).await;
    }
}

fn pauses() -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(FIRST_PAUSE)
        .with_max_delay(LONGEST_PAUSE)
        .without_max_times()
        .build()
}
