//! Admission control for each origin: the backlog limit (`MAX_PARKED_PER_ORIGIN`).
//!
//! An origin's backlog is its jobs that are parked or have a scheduled attempt. New jobs for an
//! origin whose backlog has reached the limit are refused with `503`, so that one dead receiver
//! cannot fill the database.

use std::{
    collections::HashSet,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use storm_shared::{
    models::Origin,
    outage::Outage,
    services::store::{Store, StoreError},
};
use tokio::time::{Instant, sleep};
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

/// The interval between counts. A backlog can exceed the limit by the jobs accepted in between.
const PERIOD: Duration = Duration::from_millis(250);

/// The pause after a count is at least this multiple of its duration, so that a slow database
/// spends at most some 5% of the time on counts.
const PAUSE_FACTOR: u32 = 20;

/// The origins whose backlog had reached the limit at the last count.
pub struct BacklogLimit {
    origins: Arc<RwLock<HashSet<Origin>>>,
    _watch: AbortOnDropHandle<()>,
}

impl BacklogLimit {
    /// Keeps finding the origins with a backlog of at least `limit` jobs, until this value is
    /// dropped.
    pub fn watch(store: Store, limit: usize) -> Self {
        let origins = Arc::default();
        // In the background: a count at each accept would be a cost of every job.
        let watch = tokio::spawn(watch(store, limit, Arc::clone(&origins)));
        Self {
            origins,
            _watch: AbortOnDropHandle::new(watch),
        }
    }

    /// Whether the backlog of `origin` is full.
    pub fn is_full(&self, origin: &Origin) -> bool {
        // The set is only ever replaced as a whole, so a poisoned lock still guards a complete one.
        let origins = self.origins.read().unwrap_or_else(PoisonError::into_inner);
        origins.contains(origin)
    }
}

async fn watch(store: Store, limit: usize, origins: Arc<RwLock<HashSet<Origin>>>) {
    let mut outage = Outage::default();
    loop {
        let began = Instant::now();
        match store.origins_over_limit(limit).await {
            Ok(origins_over_limit) => {
                if outage.recovered() {
                    info!("counting the backlogs works again");
                }
                update(&origins, origins_over_limit.into_iter().collect(), limit);
            }
            // The readers are busy for a moment, or the API is shutting down: the next count tells.
            Err(StoreError::QueueFull | StoreError::Closed) => {}
            Err(error) => {
                if outage.failed() {
                    warn!(%error, "cannot count the backlogs; the last counts stay in force");
                }
            }
        }
        sleep(PERIOD.max(began.elapsed() * PAUSE_FACTOR)).await;
    }
}

fn update(origins: &RwLock<HashSet<Origin>>, full: HashSet<Origin>, limit: usize) {
    let mut known = origins.write().unwrap_or_else(PoisonError::into_inner);
    for origin in full.difference(&known) {
        warn!(%origin, limit, "this origin's backlog is full: new jobs for it are refused");
    }
    *known = full;
}
