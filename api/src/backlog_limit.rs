//! Which receivers have too many jobs waiting for them: no more are accepted for these until there are fewer.

use std::{
    collections::HashSet,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use storm_shared::{outage::Outage, services::store::Store};
use tokio::time::{Instant, sleep};
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

/// How often the table is asked. What is accepted meanwhile goes past the bound.
const PERIOD: Duration = Duration::from_millis(250);

/// A count of very many jobs takes its time, and has to leave most of it to others: one part in so many.
const SHARE: u32 = 20;

/// The origins for which at least `MAX_PARKED_PER_ORIGIN` jobs wait, as the table had it a moment ago.
pub struct BacklogLimit {
    origins: Arc<RwLock<HashSet<String>>>,
    _watch: AbortOnDropHandle<()>,
}

impl BacklogLimit {
    /// Begins to look for origins for which at least `most` jobs wait; ends with this value.
    pub fn watch(store: Store, most: usize) -> Self {
        let origins = Arc::default();
        let watch = tokio::spawn(watch(store, most, Arc::clone(&origins)));
        Self {
            origins,
            _watch: AbortOnDropHandle::new(watch),
        }
    }

    /// Whether too many jobs wait for that origin.
    pub fn is_before(&self, origin: &str) -> bool {
        let origins = self.origins.read().unwrap_or_else(PoisonError::into_inner);
        origins.contains(origin)
    }
}

async fn watch(store: Store, most: usize, origins: Arc<RwLock<HashSet<String>>>) {
    let mut outage = Outage::default();
    loop {
        let began = Instant::now();
        match store.origins_over_limit(most).await {
            Ok(origins_over_limit) => {
                if outage.recovered() {
                    info!("the receivers' backlogs are counted again");
                }
                learn(&origins, origins_over_limit.into_iter().collect(), most);
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

fn learn(origins: &RwLock<HashSet<String>>, crowded: HashSet<String>, most: usize) {
    let mut known = origins.write().unwrap_or_else(PoisonError::into_inner);
    for origin in crowded.difference(&known) {
        warn!(%origin, most, "too many jobs wait for a receiver: no more are accepted for it");
    }
    *known = crowded;
}
