//! The two loops that take jobs on: what the doorbell rings for, and what the table still holds.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use storm_shared::services::{queue::Inbox, store::StoreError};
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
        // As long as there is more than there was room for, the next look need not wait.
        while let Some(room) = worker.room().await {
            match take_oldest(&worker, room.min(BATCH)).await {
                Ok(found) if found == room.min(BATCH) => {}
                Ok(_) => break,
                Err(error) => {
                    warn!(%error, "the table could not be looked through");
                    break;
                }
            }
        }
    }
}

/// Takes on up to `room` of the oldest jobs that nobody rang for; returns how many there were.
async fn take_oldest(worker: &Arc<CallbackWorker>, room: usize) -> Result<usize, StoreError> {
    let before = SystemTime::now() - DOORBELLS_TIME;
    let ids = worker.store().pending_before(before, room).await?;
    let found = ids.len();
    worker.take_on(ids, Source::Table).await?;
    Ok(found)
}
