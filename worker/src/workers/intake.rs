//! The two loops that take jobs on: what the doorbell rings for, and what the table still holds.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use storm_shared::services::queue::Inbox;
use tokio::time::MissedTickBehavior;
use tracing::warn;

use super::callback_worker::{CallbackWorker, Source};

/// The most jobs claimed in one transaction: it bounds how long others wait for the database.
const BATCH: usize = 512;

/// How often the table is looked through.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// How long the doorbell has to ring for a job before it is looked for in the table.
const DOORBELLS_TIME: Duration = Duration::from_millis(1500);

/// A pause after the database refused, so that a broken one is not asked in a busy loop.
const PAUSE_AFTER_ERROR: Duration = Duration::from_secs(1);

/// Takes on what the doorbell rings for, as far as there is room.
pub async fn from_doorbell(worker: Arc<CallbackWorker>, mut inbox: Inbox) {
    while let Some(room) = worker.room().await {
        let entries = inbox.read(room.min(BATCH)).await;
        let ids = entries.iter().filter_map(|entry| entry.job).collect();
        if let Err(error) = worker.take_on(ids, Source::Doorbell).await {
            warn!(%error, "jobs could not be claimed; they stay in the table");
            worker.pause(PAUSE_AFTER_ERROR).await;
        }
        inbox.done(&entries).await;
    }
    inbox.close().await;
}

/// Takes on what nothing rang for: entries that were dropped, trimmed, flushed, or never pushed, and
/// jobs that another worker gave back.
pub async fn from_table(worker: Arc<CallbackWorker>) {
    let mut look = tokio::time::interval(LOOK_INTERVAL);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while worker.unless_told(look.tick()).await.is_some() {
        // A full batch taken says that there is more.
        loop {
            match take_oldest(&worker).await {
                Ok(taken) if taken == BATCH => {}
                Ok(_) => break,
                Err(error) => {
                    warn!(%error, "the table could not be looked through");
                    break;
                }
            }
        }
    }
}

async fn take_oldest(
    worker: &Arc<CallbackWorker>,
) -> Result<usize, storm_shared::services::store::StoreError> {
    let room = worker.free().min(BATCH);
    if room == 0 {
        return Ok(0);
    }
    let oldest = SystemTime::now() - DOORBELLS_TIME;
    let ids = worker.store().pending_before(oldest, room).await?;
    worker.take_on(ids, Source::Table).await
}
