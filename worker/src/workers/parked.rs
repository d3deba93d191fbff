//! The loops that release parked jobs when their receiver has recovered, or an operator has resumed
//! it.

use std::time::Duration;

use storm_shared::{
    models::Origin,
    services::store::{Store, StoreError},
};
use tokio::time::Instant;
use tracing::warn;

use super::{drain::Drain, next_due::NextDue, origins::Origins, pauses::KnownPauses};

/// When a pause ends, a job may be on its way to the table that a worker has just parked. So the
/// origin's jobs are released once more after this time.
const SETTLING: Duration = Duration::from_secs(1);

/// The most jobs released in one write. It bounds how long other writers wait for the database.
const BATCH: usize = 512;

/// Makes every job that is parked for a recovered destination due at once, until shutdown. That
/// includes jobs which other workers have parked; a worker whose own breaker is open parks them
/// again.
pub(super) async fn release(store: Store, origins: Origins, next_due: NextDue, drain: Drain) {
    while let Some(destination) = drain.until_shutdown(origins.next_recovered()).await {
        let unpark = || store.unpark(destination.clone(), BATCH);
        if release_all(&destination.origin, unpark, &next_due, &drain)
            .await
            .is_none()
        {
            return;
        }
    }
}

/// Makes every job that is parked for an origin due at once when its pause is over, until shutdown.
pub(super) async fn release_resumed(
    store: Store,
    pauses: KnownPauses,
    next_due: NextDue,
    drain: Drain,
) {
    while let Some(origins) = drain.until_shutdown(pauses.resumed()).await {
        for wait in [Duration::ZERO, SETTLING] {
            let waited = drain.until_shutdown(tokio::time::sleep(wait)).await;
            if waited.is_none() {
                return;
            }
            for origin in &origins {
                let released = release_origin(&store, origin, &next_due);
                if drain.until_shutdown(released).await.is_none() {
                    return;
                }
            }
        }
    }
}

/// Releases what the pause of `origin` has parked, in one pass. Each worker does: what another one
/// has released is not parked any more.
async fn release_origin(store: &Store, origin: &Origin, next_due: &NextDue) {
    let mut after = None;
    loop {
        match store.unpark_origin(origin.clone(), after, BATCH).await {
            Ok(unparked) => {
                if unparked.jobs > 0 {
                    next_due.lower_to(Instant::now());
                }
                after = unparked.next;
                if after.is_none() {
                    return;
                }
            }
            Err(error) => {
                warn!(%origin, %error, "parked jobs could not be released early");
                return;
            }
        }
    }
}

/// Repeats `unpark` until it finds no more jobs; `None` at shutdown.
async fn release_all<F>(
    origin: &Origin,
    unpark: impl Fn() -> F,
    next_due: &NextDue,
    drain: &Drain,
) -> Option<()>
where
    F: Future<Output = Result<usize, StoreError>>,
{
    loop {
        match drain.until_shutdown(unpark()).await? {
            Ok(jobs) => {
                next_due.lower_to(Instant::now());
                if jobs < BATCH {
                    return Some(());
                }
            }
            // They become due by themselves when their park time is over.
            Err(error) => {
                warn!(%origin, %error, "parked jobs could not be released early");
                return Some(());
            }
        }
    }
}

/// Forgets idle destinations until shutdown.
pub(super) async fn sweep_origins(origins: Origins, drain: Drain) {
    drain.until_shutdown(origins.sweep_forever()).await;
}
