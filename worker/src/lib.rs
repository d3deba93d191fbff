//! The worker: claim, run, deliver, finalise.
//!
//! * [`workers`]: the line itself, and the two loops that feed it.
//! * [`delivery`]: one callback attempt, and the guard at the place where the connection is made.
//! * [`check_url`]: what the guard would do, told to an operator.
//! * [`metrics`], [`monitor`]: what the worker says of itself.

pub mod check_url;
pub mod delivery;
pub mod metrics;
pub mod monitor;
pub mod workers;

use std::sync::Arc;

use storm_shared::{
    config::{Settings, StoreSettings, Synchronous},
    program::ListenSetting,
    server,
    services::{
        queue::{NotificationReader, Queue, QueueError},
        store::{Store, StoreError},
    },
};
use thiserror::Error;
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::info;

use delivery::{CallbackClient, ClientError, Network, Resolve};
use metrics::Metrics;
use monitor::Vitals;
use workers::{
    CallbackWorker, Drain, Lease,
    intake::{self, Rounds},
    parked, suspects,
};

/// Where a worker's process listens.
pub const LISTEN: ListenSetting = ListenSetting {
    setting: "WORKER_ADDR",
    addr: |settings| settings.worker.addr,
    check: |_| Ok(()),
};

/// Why the worker did not start, or had to stop.
#[derive(Debug, Error)]
pub enum Error {
    /// The database.
    #[error("DB_URL: {0}")]
    Store(#[from] StoreError),
    /// Redis' settings; a Redis that is only down stops nobody.
    #[error("REDIS_URL: {0}")]
    Queue(#[from] QueueError),
    /// The callback client's settings.
    #[error("CALLBACK_CA_FILE: {0}")]
    Client(#[from] ClientError),
    /// A loop of the worker, or a thread of the store, has ended; the log says why.
    #[error("a part of the worker ended by itself")]
    PartEnded,
}

/// Works until `shutdown`, then finishes what ends within `DRAIN_TIMEOUT` and gives the rest back.
///
/// Until the database can be opened it waits, and `shutdown` still ends it.
///
/// `listener` answers `/healthz` and `/metrics`; `resolver` looks names up.
///
/// # Errors
/// Something could not be opened at the start, or a part of the worker died.
pub async fn run(
    listener: TcpListener,
    settings: Settings,
    resolver: Arc<dyn Resolve>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    // A worker waits for no fsync: a power cut can only make it repeat what it did in the last
    // moments, as any crash can, and the next accepted job's fsync covers all that was written before.
    let relaxed = StoreSettings {
        synchronous: Synchronous::Normal,
        ..settings.store.clone()
    };
    let Some(store) = shutdown.run_until_cancelled(Store::open(&relaxed)).await else {
        return Ok(()); // told to end while it waited for the database
    };
    let store = store?;
    let queue = settings.queue.as_ref();
    let queue = queue
        .map(|queue| Queue::new(queue, store.id()))
        .transpose()?;
    let callback = &settings.callback;
    let client = CallbackClient::new(
        callback.policy.clone(),
        Network::with_resolver(resolver),
        callback.timeout,
        callback.ca_file.as_deref(),
    )?
    .signing_with(callback.signer.clone());
    let metrics = Metrics::new();
    let lease = Lease::new(
        store.clone(),
        settings.worker.lease,
        settings.worker.max_claims,
        metrics.clone(),
    );
    let owner = lease.term().owner;
    let worker = CallbackWorker::new(
        store.clone(),
        Arc::new(client),
        lease.clone(),
        &settings,
        metrics.clone(),
        Drain::new(shutdown.clone(), settings.drain_timeout),
    );
    let secrets = callback.signer.secrets();
    info!(%owner, store = store.id(), secrets, "working");

    let mut vitals = Vitals::of(lease.clone());
    let mut loops = JoinSet::new();
    let rounds = match &queue {
        Some(queue) => {
            let reader = NotificationReader::new(queue.clone(), owner.to_string());
            let pulse = vitals.new_pulse();
            loops.spawn(intake::from_notifications(worker.clone(), reader, pulse));
            Rounds::WITH_NOTIFICATIONS
        }
        None => Rounds::alone(settings.worker.poll_interval),
    };
    let (pulse, suspects_pulse) = (vitals.new_pulse(), vitals.new_pulse());
    loops.spawn(intake::from_table(worker.clone(), rounds, pulse));
    loops.spawn(suspects::take_on(worker.clone(), rounds, suspects_pulse));
    loops.spawn(parked::let_go_on(worker.clone()));
    loops.spawn(parked::forget(worker.clone()));
    let given_up = CancellationToken::new();
    let mut heartbeat = JoinSet::new();
    heartbeat.spawn(lease.keep(given_up.clone()));
    let monitor = tokio::spawn(monitor::serve(
        listener,
        (store.clone(), queue, metrics, vitals),
        settings.access.metrics_token,
        server::Limits {
            connections: settings.http.connections,
            header_timeout: settings.http.timeout,
            ..server::Limits::default()
        },
        worker.drained(),
    ));

    let in_order = tokio::select! {
        ended = loops.join_next() => matches!(ended, Some(Ok(()))) && shutdown.is_cancelled(),
        _ = heartbeat.join_next() => false,
        () = store.ended() => {
            worker.cut_off(); // nothing that runs could be stored
            false
        }
    };
    shutdown.cancel();
    // A panic in one of them was reported where it happened.
    while loops.join_next().await.is_some() {}
    worker.finish().await;
    given_up.cancel();
    while heartbeat.join_next().await.is_some() {}
    worker.give_back().await;
    let _ = monitor.await; // it holds nothing that could be lost
    store.close().await;
    info!("stopped");
    if in_order {
        Ok(())
    } else {
        Err(Error::PartEnded)
    }
}
