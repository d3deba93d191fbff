//! Measures how long the oldest due job has been due, for the metrics.
//!
//! The API does it, and not the workers: it also tells when no worker is left.

use std::time::Duration;

use storm_shared::{
    outage::Outage,
    services::store::{Store, StoreError},
};
use tokio::time::{Instant, sleep};
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use crate::metrics::Metrics;

/// The interval between measurements.
const PERIOD: Duration = Duration::from_secs(5);

/// The pause after a measurement is at least this multiple of its duration.
const PAUSE_FACTOR: u32 = 100;

/// Measures until it is dropped.
pub struct DueWatch {
    _watch: AbortOnDropHandle<()>,
}

impl DueWatch {
    /// Shows the age of the oldest due job of `store` in `metrics`.
    pub fn start(store: Store, metrics: Metrics) -> Self {
        let watch = tokio::spawn(watch(store, metrics));
        Self {
            _watch: AbortOnDropHandle::new(watch),
        }
    }
}

async fn watch(store: Store, metrics: Metrics) {
    let mut outage = Outage::default();
    loop {
        let began = Instant::now();
        match store.oldest_due_age().await {
            Ok(age) => {
                if outage.recovered() {
                    info!("the oldest due job can be read again");
                }
                metrics.oldest_due_age(age);
            }
            // The readers are busy for a moment, or the API is shutting down.
            Err(StoreError::QueueFull | StoreError::Closed) => {}
            Err(error) => {
                if outage.failed() {
                    warn!(%error, "cannot read the oldest due job; the metric keeps its last value");
                }
            }
        }
        sleep(PERIOD.max(began.elapsed() * PAUSE_FACTOR)).await;
    }
}
