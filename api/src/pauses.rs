//! What operators have paused, as `/healthz` and the metrics show it, and a `202` expects it.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use storm_shared::{
    models::Origin,
    services::store::{Pauses, Store, StoreError},
};
use tokio::{sync::Mutex, time::sleep};
use tokio_util::task::AbortOnDropHandle;

use crate::metrics::Metrics;

/// The interval between looks: another process may have paused or resumed something.
const PERIOD: Duration = Duration::from_secs(1);

/// A job that is held by a pause is expected to wait for at least this long: nobody knows how long
/// the pause lasts, and a client that polls should not do so meanwhile.
pub const EXPECTED_PAUSE: Duration = Duration::from_mins(1);

/// The pauses as of the last look. It decides nothing: the store and the workers do.
pub struct PauseWatch {
    known: Known,
    _watch: AbortOnDropHandle<()>,
}

#[derive(Clone)]
struct Known {
    store: Store,
    pauses: Arc<RwLock<Pauses>>,
    metrics: Metrics,
    /// One look at a time, so that none overwrites what a later one has found.
    turn: Arc<Mutex<()>>,
}

impl PauseWatch {
    /// Looks once a second, until this value is dropped.
    pub fn start(store: Store, metrics: Metrics) -> Self {
        let known = Known {
            store,
            pauses: Arc::default(),
            metrics,
            turn: Arc::default(),
        };
        // In the background: `/healthz` is open to anybody and must not be a way to force reads.
        let watch = tokio::spawn(watch(known.clone()));
        Self {
            known,
            _watch: AbortOnDropHandle::new(watch),
        }
    }

    /// All that is paused.
    pub fn current(&self) -> Pauses {
        self.reader()()
    }

    /// Returns all that is paused, each time that it is called.
    pub fn reader(&self) -> impl Fn() -> Pauses + Send + Sync + use<> {
        let pauses = Arc::clone(&self.known.pauses);
        move || {
            let pauses = pauses.read();
            pauses.unwrap_or_else(PoisonError::into_inner).clone()
        }
    }

    /// Whether a job with a callback to `origin` has to wait for the end of a pause.
    pub fn hold(&self, origin: Option<&Origin>) -> bool {
        let pauses = self.known.pauses.read();
        let pauses = pauses.unwrap_or_else(PoisonError::into_inner);
        pauses.everything || origin.is_some_and(|origin| pauses.origins.contains(origin))
    }

    /// Looks now, so that this process shows what it has just done.
    pub async fn look(&self) {
        // An error is met again by the next look.
        let _ = self.known.look().await;
    }
}

impl Known {
    async fn look(&self) -> Result<(), StoreError> {
        let _turn = self.turn.lock().await;
        let pauses = self.store.pauses().await?.into_iter();
        let pauses: Pauses = pauses.map(|pause| pause.what).collect();
        self.metrics.paused(&pauses);
        // Only ever replaced as a whole, so a poisoned lock still guards complete ones.
        let mut known = self.pauses.write().unwrap_or_else(PoisonError::into_inner);
        *known = pauses;
        Ok(())
    }
}

async fn watch(known: Known) {
    // The health check and the log tell of a database that can't be read.
    while !matches!(known.look().await, Err(StoreError::Closed)) {
        sleep(PERIOD).await;
    }
}
