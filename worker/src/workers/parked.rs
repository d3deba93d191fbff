//! The loops that look after receivers: one lets go on what was put off for the sake of one that has recovered,
//! one forgets those that nobody calls any more.

use std::sync::Arc;

use jiff::Timestamp;
use tracing::warn;

use super::callback_worker::CallbackWorker;

/// The most jobs that are let go on in one write: it bounds how long others wait for the database.
const BATCH: usize = 512;

/// Forgets receivers of which there is nothing to remember, as long as the worker is not told to end.
pub async fn forget(worker: Arc<CallbackWorker>) {
    worker.unless_told(worker.origins.forget()).await;
}

/// Lets go on, for every receiver that recovers, what was parked for it: by this worker or another, which
/// parks it again if it knows better.
pub async fn let_go_on(worker: Arc<CallbackWorker>) {
    while let Some(origin) = worker.unless_told(worker.origins.next_recovered()).await {
        loop {
            let unparked = worker.store.unpark(origin.to_string(), BATCH);
            match worker.unless_told(unparked).await {
                Some(Ok(jobs)) => {
                    worker.falls_due(Timestamp::now());
                    if jobs < BATCH {
                        break;
                    }
                }
                // They go on by themselves when the time is over for which they were parked.
                Some(Err(error)) => {
                    warn!(%origin, %error, "what was parked could not be let go on");
                    break;
                }
                None => return,
            }
        }
    }
}
