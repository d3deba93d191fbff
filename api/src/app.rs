//! What the controllers share, from start to end.

use std::sync::Arc;

use hyper_util::service::TowerToHyperService;
use storm_shared::{
    config::Settings,
    server::{self, Limits},
    services::{
        queue::{Doorbell, Queue},
        store::Store,
    },
};
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{Error, access::Door, crowd::Crowd, metrics::Metrics, routes, sync_pool::SyncPool};

/// The running API: its settings and its services.
pub struct App {
    /// Every setting.
    pub settings: Settings,
    /// The truth about every request.
    pub store: Store,
    /// Asked for its health only; the doorbell does the pushing. Nothing where there is no Redis.
    pub queue: Option<Queue>,
    /// For whom no more jobs are accepted at the moment.
    pub crowd: Crowd,
    /// Rings for accepted jobs, where there is a Redis to ring through.
    pub doorbell: Option<Doorbell>,
    /// The threads behind `/sync`.
    pub pool: SyncPool,
    /// What it counts.
    pub metrics: Metrics,
    /// Sync requests under way. They outlive their clients until they are recorded.
    pub visits: TaskTracker,
}

impl App {
    /// Opens the store, however long that takes, and starts the doorbell and the threads behind `/sync`.
    ///
    /// # Errors
    /// One of them can't be had. Redis may be down: it is connected to when it is needed.
    pub async fn start(settings: Settings) -> Result<Arc<Self>, Error> {
        let store = Store::open(&settings.store).await?;
        let queue = settings.queue.as_ref();
        let queue = queue
            .map(|queue| Queue::new(queue, store.id()))
            .transpose()?;
        let doorbell = queue.clone().map(Doorbell::start);
        let pool = SyncPool::start(settings.api.sync_threads, settings.api.sync_queue)?;
        let crowd = Crowd::watch(store.clone(), settings.callback.max_parked);
        Ok(Arc::new(Self {
            settings,
            store,
            crowd,
            queue,
            doorbell,
            pool,
            metrics: Metrics::new(),
            visits: TaskTracker::new(),
        }))
    }

    /// Serves on `listener` until `shutdown` is cancelled, then ends everything in order.
    ///
    /// # Errors
    /// The store ended first.
    pub async fn serve(
        self: Arc<Self>,
        listener: TcpListener,
        shutdown: CancellationToken,
    ) -> Result<(), Error> {
        let limits = limits(&self.settings);
        let service = TowerToHyperService::new(warp::service(routes::all(&self)));
        let service = Door::of_api(&self.settings, self.metrics.clone()).before(service);
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
        let door = Door::of_metrics(&self.settings, self.metrics.clone());
        let routes = warp::service(routes::metrics_alone(self.metrics.clone()));
        let service = door.before(TowerToHyperService::new(routes));
        async move { server::serve(listener, service, limits, shutdown.cancelled()).await }
    }

    /// Ends what [`App::start`] started: first who writes, then what is written to.
    async fn close(self: Arc<Self>) {
        self.pool.close().await;
        self.visits.close();
        self.visits.wait().await;
        let (store, doorbell) = (self.store.clone(), self.doorbell.clone());
        // The doorbell has rung its last when every handle is gone, and the app holds one.
        drop(self);
        if let Some(doorbell) = doorbell {
            doorbell.close().await;
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
