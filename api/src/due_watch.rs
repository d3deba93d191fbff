//! Measures how long the oldest due job has been due, for the metrics and the live page.
//!
//! The API does it, and not the workers: it also tells when no worker is left.

use std::time::Duration;

use storm_shared::services::store::Store;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    metrics::Metrics,
    polling::{Pace, poll},
};

/// Seldom: it is a metric, and a search in each tenant's jobs.
const PACE: Pace = Pace {
    period: Duration::from_secs(5),
    pause_factor: 100,
};

/// Measures until it is dropped.
pub struct DueWatch {
    _watch: AbortOnDropHandle<()>,
}

impl DueWatch {
    /// Shows the age of the oldest due job of `store` in `metrics`.
    pub fn start(store: Store, metrics: Metrics) -> Self {
        let watch = tokio::spawn(async move {
            let update = |age| metrics.oldest_due_age(age);
            let read = || store.oldest_due_age();
            poll("the age of the oldest due job", PACE, read, update).await;
        });
        Self {
            _watch: AbortOnDropHandle::new(watch),
        }
    }
}
