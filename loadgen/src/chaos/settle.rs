//! Waits until every job has reached a final status, and every redelivery its end.

use std::time::Duration;

use anyhow::Result;
use tokio::time::{Instant, sleep};

use super::stack::Stack;

/// How often the table is polled.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Maximum time without a transition while jobs are unfinished. Far longer than a lease and all
/// retries: this detects a stall and does not measure speed.
const TIMEOUT: Duration = Duration::from_mins(2);

/// How long Redis may keep entries and the WAL its size after all jobs have finished. A dead
/// worker's stream entries are reclaimed only after their idle time has passed.
const IDLE_TIMEOUT: Duration = Duration::from_mins(1);

/// Waits until Redis has no entry and the WAL is at most `log` bytes, or until `IDLE_TIMEOUT`. The
/// rule `sizes` then checks the result.
pub(super) async fn until_at_rest(stack: &Stack, log: u64) -> Result<()> {
    let start = Instant::now();
    while (stack.entries().await? > 0 || stack.log() > log) && start.elapsed() < IDLE_TIMEOUT {
        sleep(POLL_INTERVAL).await;
    }
    Ok(())
}

/// Waits until every job and redelivery has finished, while transitions continue. Returns the
/// violations.
pub(super) async fn settle(stack: &mut Stack) -> Result<Vec<String>> {
    let mut violations = Vec::new();
    let (mut changes, mut last_change) = (0, Instant::now());
    loop {
        violations.extend(stack.restart_crashed().await?);
        let unfinished = stack.audit.unfinished().await?;
        if unfinished == 0 {
            return Ok(violations);
        }
        let now = stack.audit.changes().await?;
        if now > changes {
            (changes, last_change) = (now, Instant::now());
        } else if last_change.elapsed() > TIMEOUT {
            let patience = TIMEOUT.as_secs();
            violations.push(format!(
                "no transition for {patience} s, and {unfinished} jobs or redeliveries are unfinished"
            ));
            return Ok(violations);
        }
        sleep(POLL_INTERVAL).await;
    }
}
