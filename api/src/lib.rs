//! The API: `POST /sync` does the slow report while the client waits, `POST /async` accepts it.
//!
//! In the order in which a request meets them:
//!
//! * [`auth`]: who is let in, and how often.
//! * [`routes`]: which path and method lead where; no rejection leaves them.
//! * [`body`]: a request's body, bounded in size and time.
//! * [`trace`]: which trace it belongs to.
//! * [`validation`]: from bytes to a checked submission, or to every fault in them.
//! * [`controllers`]: one module for each endpoint.
//! * [`backlog_limit`]: for which receivers too much waits already.
//! * [`sync_pool`]: the threads behind `/sync`.
//! * [`reply`]: everything that is ever answered, and its wording.
//!
//! [`app`] holds what the controllers share, from start to end. Before there is one, requests meet the
//! `startup`. [`metrics`] are what the API says of itself, [`token`] makes what lets clients in.

pub mod app;
pub mod auth;
pub mod backlog_limit;
pub mod body;
pub mod controllers;
pub mod metrics;
pub mod reply;
pub mod routes;
mod startup;
pub mod sync_pool;
pub mod token;
pub mod trace;
pub mod validation;

use std::io;

use storm_shared::{
    config::Settings,
    server,
    services::{queue::QueueError, store::StoreError},
};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::info;

pub use app::App;
use auth::AuthLayer;
use metrics::Metrics;

/// Why the API could not start, or had to end.
#[derive(Debug, Error)]
pub enum Error {
    /// The database can't be used.
    #[error("DB_URL: {0}")]
    Store(#[from] StoreError),
    /// The queue can't be set up; a Redis that is down is no reason.
    #[error("REDIS_URL: {0}")]
    Queue(#[from] QueueError),
    /// A thread of the store has ended; the log says why.
    #[error("the database is gone; a new process is needed")]
    StoreEnded,
    /// `METRICS_ADDR` can't be listened on.
    #[error("{0}")]
    Metrics(io::Error),
    /// The system has no thread left for `/sync`.
    #[error("a thread for /sync can't be started: {0}")]
    Thread(#[from] io::Error),
}

/// Serves the API on `listener` until `shutdown` is cancelled, then ends in order: it stops
/// listening, answers what is open within the drain timeout, flushes the notifier, and closes the
/// store, which commits what waits.
///
/// Until the database can be opened every answer is a 503 that says so, and `shutdown` still ends it.
///
/// # Errors
/// The API could not start, or the store has ended under it.
pub async fn run(
    listener: TcpListener,
    settings: Settings,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let metrics_listener = metrics_listener(&settings).await?;
    let limits = app::limits(&settings);
    // Made once, so that what the startup responder counts and admits stays counted.
    let metrics = Metrics::new();
    let auth = AuthLayer::for_api(&settings, metrics.clone());
    let starting = App::start(settings, metrics);
    let opening = startup::beside(&listener, limits, auth.clone(), starting);
    let Some(app) = shutdown.run_until_cancelled(opening).await else {
        return Ok(()); // told to end while it waited for the database
    };
    let app = app?;
    if let Some(listener) = metrics_listener {
        // It ends with the process at the latest, for it holds nothing that could be lost.
        tokio::spawn(app.serve_metrics(listener, shutdown.clone()));
    }
    app.serve(listener, auth, shutdown).await
}

/// The listener of `METRICS_ADDR`, where there is one.
async fn metrics_listener(settings: &Settings) -> Result<Option<TcpListener>, Error> {
    let Some(addr) = settings.access.metrics_addr else {
        return Ok(None);
    };
    let listener = server::bind("METRICS_ADDR", addr)
        .await
        .map_err(Error::Metrics)?;
    let addr = listener.local_addr().map_err(Error::Metrics)?;
    info!(%addr, "metrics");
    Ok(Some(listener))
}
