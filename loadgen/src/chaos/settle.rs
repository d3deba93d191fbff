//! Waits until every job has ended.

use std::time::Duration;

use anyhow::Result;
use tokio::time::{Instant, sleep};

use super::stack::Stack;

/// How often the table is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// How long nothing may move while there are jobs to do. Far over a lease and every retry: this is
/// no measure of speed.
const PATIENCE: Duration = Duration::from_mins(2);

/// How long Redis may keep entries, and the log its length, when every job has ended. A worker looks
/// after what a dead one had taken only when nobody can be at it any more.
const UNTIL_AT_REST: Duration = Duration::from_mins(1);

/// Waits until Redis has no entry and the log is no longer than `log`, as long as that makes sense:
/// whether they are is judged by others.
pub(super) async fn until_at_rest(stack: &Stack, log: u64) -> Result<()> {
    let start = Instant::now();
    while (stack.entries().await? > 0 || stack.log() > log) && start.elapsed() < UNTIL_AT_REST {
        sleep(LOOK).await;
    }
    Ok(())
}

/// Waits until every job has ended, as long as there is something moving. Says what was wrong.
pub(super) async fn settle(stack: &mut Stack) -> Result<Vec<String>> {
    let mut violations = Vec::new();
    let (mut moves, mut last_move) = (0, Instant::now());
    loop {
        violations.extend(stack.revive().await?);
        let unfinished = stack.audit.unfinished().await?;
        if unfinished == 0 {
            return Ok(violations);
        }
        let now = stack.audit.moves().await?;
        if now > moves {
            (moves, last_move) = (now, Instant::now());
        } else if last_move.elapsed() > PATIENCE {
            let patience = PATIENCE.as_secs();
            violations.push(format!(
                "nothing moved for {patience} s, and {unfinished} jobs have not ended"
            ));
            return Ok(violations);
        }
        sleep(LOOK).await;
    }
}
