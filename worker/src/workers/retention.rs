//! The loop that deletes requests which ended longer than `RETENTION` ago.
//!
//! One worker does it at a time, that with the smallest id, in passes from the oldest request on.
//! Most passes end in the first batch of young requests. Now and then one goes through the whole
//! table: redeliveries make old requests young again, and others may be behind them.

use std::{sync::Arc, time::Duration};

use storm_shared::{outage::Outage, services::store::Store};
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use super::{drain::Drain, lease::Lease};
use crate::metrics::Metrics;

/// The longest pause between two passes.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// The shortest one: requests whose time comes within it are deleted together.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);

/// The passes within a retention time, where that gives a pause between those.
const PASSES: u32 = 1000;

/// The longest time between two passes through the whole table.
const LONGEST_ROUND: Duration = Duration::from_hours(1);

/// Deletes requests until shutdown.
pub(super) async fn sweep(
    store: Store,
    keep: Duration,
    lease: Arc<Lease>,
    drain: Drain,
    metrics: Metrics,
) {
    let pause = (keep / PASSES).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
    let round = (keep / 10).clamp(SHORTEST_PAUSE, LONGEST_ROUND);
    let (mut last_whole, mut is_whole) = (Instant::now(), false);
    let mut outage = Outage::default();
    let mut after = None;
    loop {
        let begun = Instant::now();
        let mut wait = pause;
        if after.is_none() {
            is_whole = last_whole.elapsed() >= round;
        }
        // Looked at again for each batch: another worker may have come.
        if lease.is_first() {
            let Some(swept) = drain.until_shutdown(store.sweep(keep, after)).await else {
                return;
            };
            match swept {
                Ok(swept) => {
                    if outage.recovered() {
                        info!("old requests are deleted again");
                    }
                    metrics.deleted(swept.deleted);
                    after = swept.next.filter(|_| is_whole || !swept.is_young);
                    if after.is_some() {
                        // Other reads and writes get as much time.
                        wait = begun.elapsed();
                    } else if is_whole {
                        last_whole = Instant::now();
                    }
                }
                Err(error) => {
                    if outage.failed() {
                        warn!(%error, "old requests can't be deleted; they stay meanwhile");
                    }
                }
            }
        }
        if drain.until_shutdown(sleep(wait)).await.is_none() {
            return;
        }
    }
}
