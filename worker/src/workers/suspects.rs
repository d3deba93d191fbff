//! The loop that takes on jobs that workers died with: so many at a time as may run together, and those
//! that may be what kills, alone.
//!
//! Whoever waits for many places keeps all others waiting behind it, so it waits for a bounded time,
//! and then lets them by for as long. Each time in vain it waits longer, so that its turn comes.

use std::{sync::Arc, time::Duration};

use storm_shared::services::store::StoreError;
use tracing::warn;

use super::{
    callback_worker::{CallbackWorker, ClaimSource},
    intake::{PAUSE_AFTER_ERROR, Rounds},
    pulse::Pulse,
};

/// The most suspects that are looked at, and so claimed, at a time.
const BATCH: usize = 512;

/// How long places are waited for the first time.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long at the most: the longest report and its callback take less.
const MOST_PATIENCE: Duration = Duration::from_mins(30);

/// Takes on suspects as long as the worker is not told to end.
pub async fn take_on(worker: Arc<CallbackWorker>, rounds: Rounds, pulse: Pulse) {
    let mut patience = PATIENCE;
    loop {
        let pause = match take_some(&worker, patience, &pulse).await {
            Ok(Taken::Some) => {
                patience = PATIENCE;
                Duration::ZERO
            }
            Ok(Taken::None) => {
                patience = PATIENCE;
                rounds.interval
            }
            Ok(Taken::TooLong) => {
                let others = patience;
                patience = (patience * 2).min(MOST_PATIENCE);
                others
            }
            Err(error) => {
                warn!(%error, "jobs that workers died with could not be claimed");
                PAUSE_AFTER_ERROR
            }
        };
        let pause = worker.unless_told(tokio::time::sleep(pause));
        if pulse.during(pause).await.is_none() {
            return;
        }
    }
}

enum Taken {
    /// There was at least one.
    Some,
    /// There is none.
    None,
    /// There were not places enough in time.
    TooLong,
}

/// Takes on as many of the least suspicious as may run together.
async fn take_some(
    worker: &Arc<CallbackWorker>,
    patience: Duration,
    pulse: &Pulse,
) -> Result<Taken, StoreError> {
    let suspects = worker.store.suspects(BATCH).await?;
    let Some(alike) = suspects
        .chunk_by(|one, next| one.lost_claims == next.lost_claims)
        .next()
    else {
        return Ok(Taken::None);
    };
    let lost_claims = u32::try_from(alike[0].lost_claims).unwrap_or(u32::MAX);
    let size = worker.slots.size_of(lost_claims);
    let places = tokio::time::timeout(patience, worker.slots.take(size, alike.len()));
    let places = match pulse.during(worker.unless_told(places)).await {
        Some(Ok(Ok(places))) => places,
        Some(_) => return Ok(Taken::TooLong),
        None => return Ok(Taken::None), // told to end
    };
    let together = places.num_permits() / size as usize;
    let source = ClaimSource::Table;
    worker
        .claim(&alike[..together], places, size, source)
        .await?;
    Ok(Taken::Some)
}
