//! What the controllers share, from its start to its end.

use std::sync::Arc;

use storm_shared::{
    config::Settings,
    services::{
        queue::{Notifier, Queue},
        store::Store,
    },
};
use tokio_util::task::TaskTracker;

use crate::{backlog_limit::BacklogLimit, error::Error, metrics::Metrics, sync_pool::SyncPool};

/// The running API: its settings and its services.
pub struct App {
    /// Every setting.
    pub settings: Settings,
    /// The source of truth about every request.
    pub store: Store,
    /// Used for health checks only: the notifier pushes. `None` if `REDIS_URL` is `none`.
    pub queue: Option<Queue>,
    /// The origins whose backlog is full.
    pub backlog_limit: BacklogLimit,
    /// Notifies workers of accepted jobs. `None` if `REDIS_URL` is `none`.
    pub notifier: Option<Notifier>,
    /// Runs the reports of `/sync`.
    pub pool: SyncPool,
    /// The API's counters.
    pub metrics: Metrics,
    /// Sync requests that are not recorded yet. A request outlives its client until it is.
    pub sync_requests: TaskTracker,
}

impl App {
    /// Opens the store, however long that takes, and starts the notifier and the pool behind
    /// `/sync`.
    ///
    /// # Errors
    /// The store or the queue cannot be set up. Redis may be down: connections are made on use.
    pub async fn start(settings: Settings, metrics: Metrics) -> Result<Arc<Self>, Error> {
        let store = Store::open(&settings.store).await?;
        let queue = settings.queue.as_ref();
        let queue = queue
            .map(|queue| Queue::new(queue, store.id()))
            .transpose()?;
        let notifier = queue.clone().map(Notifier::start);
        let pool = SyncPool::new(settings.api.sync_threads, settings.api.sync_queue);
        let backlog_limit = BacklogLimit::watch(store.clone(), settings.callback.max_parked);
        Ok(Arc::new(Self {
            settings,
            store,
            queue,
            backlog_limit,
            notifier,
            pool,
            metrics,
            sync_requests: TaskTracker::new(),
        }))
    }

    /// Ends what [`App::start`] started: the writers first, then what they write to.
    pub async fn close(self: Arc<Self>) {
        self.pool.close().await;
        self.sync_requests.close();
        self.sync_requests.wait().await;
        let (store, notifier) = (self.store.clone(), self.notifier.clone());
        // The notifier's task ends when its last handle is dropped, and the app holds one.
        drop(self);
        if let Some(notifier) = notifier {
            notifier.close().await;
        }
        store.close().await;
    }
}
