//! Admission control by origin: the backlog limit, `MAX_PARKED_PER_ORIGIN`.

use std::{
    collections::HashSet,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use storm_shared::{outage::Outage, services::store::Store};
use tokio::time::{Instant, sleep};
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

/// The interval between counts. Jobs accepted in between can overshoot the limit.
const PERIOD: Duration = Duration::from_millis(250);

/// A count takes at most this fraction of the time: after a slow one the pause is longer.
const SHARE: u32 = 20;

/// The origins whose backlog had reached the limit at the last count.
pub struct BacklogLimit {
    origins: Arc<RwLock<HashSet<String>>>,
    _watch: AbortOnDropHandle<()>,
}

impl BacklogLimit {
    /// Counts the origins with at least `limit` scheduled jobs, until this value is dropped.
    pub fn watch(store: Store, limit: usize) -> Self {
        let origins = Arc::default();
        let watch = tokio::spawn(watch(store, limit, Arc::clone(&origins)));
        Self {
            origins,
            _watch: AbortOnDropHandle::new(watch),
        }
    }

    /// Whether the backlog of `origin` is full.
    pub fn is_full(&self, origin: &str) -> bool {
        let origins = self.origins.read().unwrap_or_else(PoisonError::into_inner);
        origins.contains(origin)
    }
}

async fn watch(store: Store, limit: usize, origins: Arc<RwLock<HashSet<String>>>) {
    let mut outage = Outage::default();
    loop {
        let began = Instant::now();
        match store.origins_over_limit(limit).await {
            Ok(origins_over_limit) => {
                if outage.recovered() {
                    info!("the receivers' backlogs are counted again");
                }
                update(&origins, origins_over_limit.into_iter().collect(), limit);
            }
            Err(error) => {
                if outage.failed() {
                    warn!(%error, "the receivers' backlogs can't be counted; the last counts stay");
                }
            }
        }
        sleep(PERIOD.max(began.elapsed() * SHARE)).await;
    }
}

fn update(origins: &RwLock<HashSet<String>>, full: HashSet<String>, limit: usize) {
    let mut known = origins.write().unwrap_or_else(PoisonError::into_inner);
    for origin in full.difference(&known) {
        warn!(%origin, limit, "the backlog of this origin is full: its jobs are refused");
    }
    *known = full;
}
