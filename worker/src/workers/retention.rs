//! The loop that deletes requests which ended longer than `RETENTION` ago.
//!
//! Every worker of a database does it. What another one has deleted is not met again.

use std::time::Duration;

use storm_shared::{outage::Outage, services::store::Store};
use tokio::time::Instant;
use tracing::{info, warn};

use super::drain::Drain;
use crate::metrics::Metrics;

/// The longest pause between two passes.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// The shortest one: requests whose time comes within it are deleted together.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);

/// The passes within a retention time, where that gives a pause between those.
const PASSES: u32 = 1000;

/// Deletes requests until shutdown.
pub(super) async fn sweep(store: Store, keep: Duration, drain: Drain, metrics: Metrics) {
    let pause = (keep / PASSES).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
    let mut outage = Outage::default();
    let mut next = None;
    loop {
        let begun = Instant::now();
        let Some(swept) = drain.until_shutdown(store.sweep(keep, next)).await else {
            return;
        };
        let wait = match swept {
            Ok(swept) => {
                if outage.recovered() {
                    info!("old requests are deleted again");
                }
                metrics.deleted(swept.deleted);
                next = swept.next;
                match next {
                    None => pause,
                    // Other writers get as much time as the deletion took.
                    Some(_) if swept.deleted > 0 => begun.elapsed(),
                    Some(_) => Duration::ZERO,
                }
            }
            Err(error) => {
                if outage.failed() {
                    warn!(%error, "old requests can't be deleted; they stay meanwhile");
                }
                pause
            }
        };
        let pause_is_over = drain.until_shutdown(tokio::time::sleep(wait)).await;
        if pause_is_over.is_none() {
            return;
        }
    }
}
