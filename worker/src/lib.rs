//! The worker: claim, run, deliver, settle.
//!
//! * [`workers`]: the job pipeline, the loops that feed it, and the lease that holds its jobs.
//! * [`Builder`]: a worker as a program. [`handler`]: the work of jobs. [`handlers`]: the handlers
//!   of a worker, and those that come with it.
//! * [`delivery`]: one callback attempt, with the SSRF policy where the connection is made.
//! * [`check_url`]: the subcommand that explains the SSRF policy's verdict on a URL.
//! * [`metrics`], [`monitor`]: `/metrics`, `/healthz`, `/livez` and `/readyz`.
//! * [`descriptors`]: how a worker spends file descriptors.

mod breaker;
mod builder;
pub mod check_url;
pub mod delivery;
pub mod descriptors;
pub mod handler;
pub mod handlers;
pub mod metrics;
pub mod monitor;
mod room;
mod schedule;
pub mod workers;

use std::{sync::Arc, time::Duration};

use storm_shared::{
    config::{self, Settings, StoreSettings},
    live::Live,
    program::ListenSetting,
    server,
    services::{
        queue::{Queue, QueueError},
        readiness::Readiness,
        store::{Store, StoreError},
    },
};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::info;

pub use builder::Builder;
use delivery::{CallbackClient, ClientError, Network, Resolve, SocketLimit};
use handlers::{CodeByName, Handlers, MissingCode, http::HttpClient};
use metrics::Metrics;
use monitor::{Monitor, Vitals};
use workers::Running;

/// Where a worker's process listens.
pub const LISTEN: ListenSetting = ListenSetting {
    setting: "WORKER_ADDR",
    addr: |settings| settings.worker.addr,
    check: |_| Ok(()),
};

/// The settings that a worker rereads.
pub const REREADS: &[&str] = &[
    "CALLBACK_SIGNING_SECRETS",
    config::HANDLERS,
    "METRICS_TOKEN",
];

/// Why the worker did not start, or had to stop.
#[derive(Debug, Error)]
pub enum Error {
    /// The database.
    #[error("DB_URL: {0}")]
    Store(#[from] StoreError),
    /// The settings of the queue. A Redis that is down stops no worker.
    #[error("REDIS_URL: {0}")]
    Queue(#[from] QueueError),
    /// The settings of the callback client; the error names the setting.
    #[error("{0}")]
    Client(#[from] ClientError),
    /// The settings name a handler in Rust that the program does not have.
    #[error(transparent)]
    Handler(#[from] MissingCode),
    /// A loop of the worker or a thread of the store has ended. The log says why.
    #[error("a part of the worker has stopped; see the log")]
    PartEnded,
}

/// [`Builder::run`], with `code` by the names of the handlers in Rust.
async fn run_with(
    code: CodeByName,
    listener: TcpListener,
    settings: Settings,
    resolver: Arc<dyn Resolve>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let metrics = Metrics::new();
    let metrics_token = Live::new(settings.access.metrics_token);
    let reread = metrics_token.clone();
    let update = move |settings: &Settings| reread.set(settings.access.metrics_token);
    settings.updates.pass_to(update);
    let monitor = Monitor::new(
        Readiness::new(shutdown.clone()),
        metrics.clone(),
        metrics_token,
        settings.access.hosts.clone(),
    );
    let limits = server::Limits {
        connections: settings.http.connections,
        refusals: settings.http.refusals,
        header_timeout: settings.http.timeout,
        drain_timeout: MONITOR_DRAIN,
    };
    let over = CancellationToken::new();
    let listening = monitor.clone();
    let listening = listening.serve(listener, limits, over.clone().cancelled_owned());
    let listening = tokio::spawn(listening);
    let outcome = work(&settings, code, resolver, &metrics, &monitor, shutdown).await;
    if outcome.is_ok() {
        // Only now, so that the drain can be observed.
        over.cancel();
        let _ = listening.await; // it has no state to save
    }
    // A failure is told at once: no client may delay the end of the process.
    outcome
}

async fn work(
    settings: &Settings,
    code: CodeByName,
    resolver: Arc<dyn Resolve>,
    metrics: &Metrics,
    monitor: &Monitor,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let relaxed = without_fsync(&settings.store);
    let Some(store) = shutdown.run_until_cancelled(Store::open(&relaxed)).await else {
        return Ok(());
    };
    let store = store?;
    let started = Worker::start(
        store.clone(),
        settings,
        code,
        resolver,
        metrics,
        monitor,
        &shutdown,
    );
    let mut worker = match started {
        Ok(worker) => worker,
        Err(error) => {
            // Its threads must not be cut off by the end of the process: that panics in them.
            store.close().await;
            return Err(error);
        }
    };
    let outcome = worker.until_shutdown(&shutdown).await;
    shutdown.cancel(); // drain even after an error
    worker.drain().await;
    outcome
}

/// A worker waits for no fsync. After a power cut it may repeat its most recent callbacks, as after
/// any crash; the fsync of the next accepted job covers what the worker wrote before.
fn without_fsync(settings: &StoreSettings) -> StoreSettings {
    StoreSettings {
        database: settings.database.clone().without_fsync(),
        ..settings.clone()
    }
}

/// Time for the last answers about a worker that has drained. A client that does not end its
/// request must not delay the process much beyond `DRAIN_TIMEOUT`.
const MONITOR_DRAIN: Duration = Duration::from_secs(1);

/// The parts of a worker's process.
struct Worker {
    store: Store,
    running: Running,
}

impl Worker {
    fn start(
        store: Store,
        settings: &Settings,
        code: CodeByName,
        resolver: Arc<dyn Resolve>,
        metrics: &Metrics,
        monitor: &Monitor,
        shutdown: &CancellationToken,
    ) -> Result<Self, Error> {
        let queue = settings.queue.as_ref();
        let queue = queue
            .map(|queue| Queue::new(queue, store.id()))
            .transpose()?;
        let ca_file = settings.callback.ca_file.as_deref();
        let limit = SocketLimit::new(descriptors::sockets(settings));
        metrics.watch_sockets(limit.permits());
        // With a resolver of their own: a tenant's hanging name servers delay no handler.
        let endpoints = HttpClient::new(Network::system().within(&limit), ca_file)?;
        let handlers = Handlers::of(settings, code, endpoints)?;
        metrics.serves(&handlers.names());
        let (updated, counted) = (handlers.clone(), metrics.clone());
        settings.updates.pass_to(move |settings: &Settings| {
            updated.update(settings);
            counted.serves(&updated.names());
        });
        let client = Arc::new(client(settings, resolver, &limit)?);
        metrics.watch_store(&store);
        if let Some(queue) = &queue {
            metrics.watch_queue(queue.status());
        }
        let running = Running::start(
            &store,
            queue.as_ref(),
            client,
            settings,
            handlers,
            metrics,
            shutdown.clone(),
        );
        let owner = running.lease().term().owner;
        let secrets = settings.callback.signer.secrets();
        info!(%owner, store = store.id(), secrets, "started");
        let vitals = Vitals::new(running.lease(), running.watchdogs());
        monitor.started(&store, queue.as_ref(), vitals);
        Ok(Self { store, running })
    }

    /// Completes at shutdown, or with an error as soon as a part stops by itself.
    async fn until_shutdown(&mut self, shutdown: &CancellationToken) -> Result<(), Error> {
        let in_order = tokio::select! {
            in_order = self.running.part_ended() => in_order && shutdown.is_cancelled(),
            () = self.store.ended() => {
                self.running.cut_off(); // nothing that runs could be stored
                false
            }
        };
        if in_order {
            Ok(())
        } else {
            Err(Error::PartEnded)
        }
    }

    async fn drain(self) {
        // The jobs, and the release of those left over, write to the store, so it closes last.
        self.running.finish().await;
        self.store.close().await;
        info!("stopped");
    }
}

fn client(
    settings: &Settings,
    resolver: Arc<dyn Resolve>,
    limit: &SocketLimit,
) -> Result<CallbackClient, ClientError> {
    let callback = &settings.callback;
    let client = CallbackClient::new(
        callback.policy.clone(),
        Network::with_resolver(resolver).within(limit),
        callback.timeout,
        callback.ca_file.as_deref(),
    )?;
    let signer = Live::new(callback.signer.clone());
    let reread = signer.clone();
    let update = move |settings: &Settings| reread.set(settings.callback.signer.clone());
    settings.updates.pass_to(update);
    Ok(client.signing_with_live(signer))
}
