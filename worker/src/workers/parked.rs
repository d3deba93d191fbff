//! The loop that releases parked jobs when their receiver has recovered.

use storm_shared::services::store::Store;
use tokio::time::Instant;
use tracing::warn;

use super::{drain::Drain, next_due::NextDue, origins::Origins};

/// The most jobs released in one write. It bounds how long other writers wait for the database.
const BATCH: usize = 512;

/// Makes every job that is parked for a recovered destination due at once, until shutdown. That
/// includes jobs which other workers have parked; a worker whose own breaker is open parks them
/// again.
pub(super) async fn release(store: Store, origins: Origins, next_due: NextDue, drain: Drain) {
    while let Some(destination) = drain.until_shutdown(origins.next_recovered()).await {
        loop {
            let unparked = store.unpark(destination.clone(), BATCH);
            match drain.until_shutdown(unparked).await {
                Some(Ok(jobs)) => {
                    next_due.lower_to(Instant::now());
                    if jobs < BATCH {
                        break;
                    }
                }
                // They become due by themselves when their park time is over.
                Some(Err(error)) => {
                    let origin = &destination.origin;
                    warn!(%origin, %error, "parked jobs could not be released early");
                    break;
                }
                None => return,
            }
        }
    }
}

/// Forgets idle destinations until shutdown.
pub(super) async fn sweep_origins(origins: Origins, drain: Drain) {
    drain.until_shutdown(origins.sweep_forever()).await;
}
