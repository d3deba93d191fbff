//! Counts the jobs of each handler, for `GET /handlers` and the metrics.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use storm_shared::{
    live::Live,
    models::HandlerName,
    services::store::{HandlerLoad, Store},
};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    metrics::Metrics,
    polling::{Pace, poll},
};

/// The interval between counts.
const PERIOD: Duration = Duration::from_secs(1);

/// The load of each handler but the report.
pub type Loads = BTreeMap<HandlerName, HandlerLoad>;

/// The load as of the last count. Counts until it is dropped.
pub struct HandlerWatch {
    last: Live<Option<Loads>>,
    _watch: AbortOnDropHandle<()>,
}

impl HandlerWatch {
    /// Counts in `store`, and shows the load in `metrics`.
    pub fn start(store: Store, metrics: Metrics) -> Self {
        let last = Live::new(None);
        let known = last.clone();
        // In the background: `GET /handlers` must not be a way to force reads.
        let watch = tokio::spawn(async move {
            let count = || store.handlers_load();
            let update = |load: Loads| {
                metrics.handlers_load(&load);
                known.set(Some(load));
            };
            let pace = Pace::of_counts(PERIOD);
            poll("the handlers' jobs", pace, count, update).await;
        });
        Self {
            last,
            _watch: AbortOnDropHandle::new(watch),
        }
    }

    /// The load, which follows the counts.
    pub fn live(&self) -> Live<Option<Loads>> {
        self.last.clone()
    }

    /// The load as of the last count; `None` before the first.
    pub fn current(&self) -> Arc<Option<Loads>> {
        self.last.get()
    }
}
