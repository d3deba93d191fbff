//! The services that the controllers share: their start and their shutdown.

use std::{sync::Arc, time::Duration};

use storm_shared::{
    config::Settings,
    memory::MemoryBudget,
    services::{
        queue::{NOTIFICATION_GRACE, Notifier, Queue},
        store::Store,
    },
};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use tracing::warn;

use crate::{
    admission::Admission, backlog_limit::BacklogLimit, due_watch::DueWatch, error::Error,
    handler_watch::HandlerWatch, handlers::KnownHandlers, metrics::Metrics, overview::OverviewFeed,
    pauses::PauseWatch, sync_pool::SyncPool, waiters::Waiters,
};

/// How long the records of `/sync` may take at the end. Their clients have been answered, and the
/// process must exit before its supervisor kills it.
const RECORDS_TIMEOUT: Duration = Duration::from_secs(5);

/// The running API: its settings and its services.
pub struct App {
    /// Every setting.
    pub settings: Settings,
    /// The handlers that jobs can be submitted for.
    pub handlers: KnownHandlers,
    /// How many jobs they have.
    pub handler_watch: HandlerWatch,
    /// The source of truth for every request.
    pub store: Store,
    /// For health checks only; the notifier has its own handle. `None` if `REDIS_URL` is `none`.
    pub queue: Option<Queue>,
    /// The bytes of bodies that requests may hold together.
    pub memory: MemoryBudget,
    /// Admission control for all jobs.
    pub admission: Admission,
    /// Admission control for each origin.
    pub backlog_limit: BacklogLimit,
    /// What operators have paused.
    pub pauses: PauseWatch,
    /// Measures the oldest due job, for the metrics.
    pub due_watch: DueWatch,
    /// Notifies workers of accepted jobs. `None` if `REDIS_URL` is `none`.
    pub notifier: Option<Notifier>,
    /// Those who wait for the result of a request.
    pub waiters: Waiters,
    /// The figures of the live page.
    pub overview: OverviewFeed,
    /// Runs the reports of `/sync`.
    pub pool: SyncPool,
    /// The API's counters.
    pub metrics: Metrics,
    /// Tracks sync requests until they are recorded, also if their client has disconnected.
    pub sync_requests: TaskTracker,
}

impl App {
    /// Opens the store, without a time limit, and starts the notifier and the pool of `/sync`.
    ///
    /// # Errors
    /// The store or the queue cannot be set up. Redis may be down: connections open on first use.
    pub async fn start(settings: Settings, metrics: Metrics) -> Result<Arc<Self>, Error> {
        let store = Store::open(&settings.store).await?;
        let queue = settings.queue.as_ref();
        let queue = match queue.map(|queue| Queue::new(queue, store.id())).transpose() {
            Ok(queue) => queue,
            Err(error) => {
                // Its threads must not be cut off by the end of the process: that panics in them.
                store.close().await;
                return Err(error.into());
            }
        };
        if let Some(queue) = &queue {
            metrics.watch_queue(queue.status());
        }
        let notifier = queue.clone().map(Notifier::start);
        let pool = SyncPool::new(settings.api.sync_threads, settings.api.sync_queue);
        let memory = MemoryBudget::new(settings.memory_budget);
        metrics.watch_memory(&memory);
        let admission = Admission::watch(
            store.clone(),
            &settings,
            notification_grace(notifier.as_ref()),
            metrics.clone(),
        );
        let pauses = PauseWatch::start(store.clone(), metrics.clone());
        metrics.watch_store(&store);
        metrics.watch_pool(&pool);
        let due_watch = DueWatch::start(store.clone(), metrics.clone());
        let backlog_limit = BacklogLimit::watch(store.clone(), settings.callback.max_parked);
        let handlers = KnownHandlers::follow(&settings, metrics.clone());
        let waiters = Waiters::watch(store.clone(), &settings, metrics.clone());
        let handler_watch = HandlerWatch::start(store.clone(), metrics.clone());
        let overview = OverviewFeed::start(
            store.clone(),
            &settings,
            metrics.clone(),
            &pauses,
            handlers.clone(),
            &handler_watch,
        );
        Ok(Arc::new(Self {
            settings,
            handlers,
            handler_watch,
            store,
            queue,
            memory,
            admission,
            backlog_limit,
            pauses,
            due_watch,
            notifier,
            waiters,
            overview,
            pool,
            metrics,
            sync_requests: TaskTracker::new(),
        }))
    }

    /// How long a new job is left to its notification.
    pub fn notification_grace(&self) -> Duration {
        notification_grace(self.notifier.as_ref())
    }

    /// Shuts the services down. When this returns, every queued write is committed, unless the
    /// database hangs.
    pub async fn close(self: Arc<Self>) {
        // The order of a sync request: its work in the pool ends, its record is written, and the
        // store commits the writes that are queued when it closes.
        self.pool.close().await;
        self.sync_requests.close();
        if timeout(RECORDS_TIMEOUT, self.sync_requests.wait())
            .await
            .is_err()
        {
            let requests = self.sync_requests.len();
            warn!(
                requests,
                "requests of /sync could not be recorded: the database has not answered in time"
            );
        }
        let (store, notifier) = (self.store.clone(), self.notifier.clone());
        // The notifier's task ends when its last handle is dropped, and the app holds one. So does
        // each job that the store has yet to commit, and to notify of.
        drop(self);
        store.close().await;
        if let Some(notifier) = notifier {
            notifier.close().await;
        }
    }
}

fn notification_grace(notifier: Option<&Notifier>) -> Duration {
    notifier.map_or(Duration::ZERO, |_| NOTIFICATION_GRACE)
}
