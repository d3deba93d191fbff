//! What the controllers share, from start to end.

use std::sync::Arc;

use hyper_util::service::TowerToHyperService;
use storm_shared::{
    config::Settings,
    server::{self, Limits},
    services::{
        queue::{Notifier, Queue},
        store::Store,
    },
};
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Error, auth::AuthLayer, backlog_limit::BacklogLimit, metrics::Metrics, routes,
    sync_pool::SyncPool,
};

/// The running API: its settings and its services.
pub struct App {
    /// Every setting.
    pub settings: Settings,
    /// The truth about every request.
    pub store: Store,
    /// Asked for its health only; the notifier does the pushing. Nothing where there is no Redis.
    pub queue: Option<Queue>,
    /// For whom no more jobs are accepted at the moment.
    pub backlog_limit: BacklogLimit,
    /// Rings for accepted jobs, where there is a Redis to ring through.
    pub notifier: Option<Notifier>,
    /// The threads behind `/sync`.
    pub pool: SyncPool,
    /// What it counts.
    pub metrics: Metrics,
    /// Sync requests under way. They outlive their clients until they are recorded.
    pub sync_requests: TaskTracker,
}

impl App {
    /// Opens the store, however long that takes, and starts the notifier and the threads behind `/sync`.
    ///
    /// # Errors
    /// One of them can't be had. Redis may be down: it is connected to when it is needed.
    pub async fn start(settings: Settings, metrics: Metrics) -> Result<Arc<Self>, Error> {
        let store = Store::open(&settings.store).await?;
        let queue = settings.queue.as_ref();
        let queue = queue
            .map(|queue| Queue::new(queue, store.id()))
            .transpose()?;
        let notifier = queue.clone().map(Notifier::start);
        let pool = SyncPool::start(settings.api.sync_threads, settings.api.sync_queue)?;
        let backlog_limit = BacklogLimit::watch(store.clone(), settings.callback.max_parked);
        Ok(Arc::new(Self {
            settings,
            store,
            backlog_limit,
            queue,
            notifier,
            pool,
            metrics,
            sync_requests: TaskTracker::new(),
        }))
    }

    /// Serves on `listener` until `shutdown` is cancelled, then ends everything in order.
    ///
    /// # Errors
    /// The store ended first.
    pub async fn serve(
        self: Arc<Self>,
        listener: TcpListener,
        auth: AuthLayer,
        shutdown: CancellationToken,
    ) -> Result<(), Error> {
        let limits = limits(&self.settings);
        let service = TowerToHyperService::new(warp::service(routes::all(&self)));
        let service = auth.before(service);
        let stopping = async {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = self.store.ended() => {}
            }
            self.pool.stop();
        };
        server::serve(listener, service, limits, stopping).await;
        self.close().await;
        if shutdown.is_cancelled() {
            Ok(())
        } else {
            Err(Error::StoreEnded)
        }
    }

    /// Serves `/metrics` alone on `listener` until `shutdown` is cancelled.
    pub fn serve_metrics(
        &self,
        listener: TcpListener,
        shutdown: CancellationToken,
    ) -> impl Future<Output = ()> + Send + use<> {
        let limits = limits(&self.settings);
        let auth = AuthLayer::for_metrics(&self.settings, self.metrics.clone());
        let routes = warp::service(routes::metrics_alone(self.metrics.clone()));
        let service = auth.before(TowerToHyperService::new(routes));
        async move { server::serve(listener, service, limits, shutdown.cancelled()).await }
    }

    /// Ends what [`App::start`] started: first who writes, then what is written to.
    async fn close(self: Arc<Self>) {
        self.pool.close().await;
        self.sync_requests.close();
        self.sync_requests.wait().await;
        let (store, notifier) = (self.store.clone(), self.notifier.clone());
        // The notifier has rung its last when every handle is gone, and the app holds one.
        drop(self);
        if let Some(notifier) = notifier {
            notifier.close().await;
        }
        store.close().await;
    }
}

/// The bounds of the API's listener.
pub(crate) fn limits(settings: &Settings) -> Limits {
    Limits {
        connections: settings.http.connections,
        header_timeout: settings.http.timeout,
        drain_timeout: settings.drain_timeout,
        one_answer_each: false,
    }
}
