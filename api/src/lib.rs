//! The API: `POST /sync` makes a report while the client waits, `POST /async` accepts it as a job.
//!
//! The modules, in the order in which a request passes them:
//!
//! * [`serving`]: the listeners and the graceful shutdown. Until the database is open and its
//!   backlog counted, `startup` answers `503`. [`descriptors`]: how it spends file descriptors.
//! * [`request_check`]: refuses requests for another host or from another origin, and callbacks.
//! * [`auth`]: authentication, tenant, scope and rate limit; [`limiter`] is the rate limiter.
//! * [`assets`]: the files of the pages in a browser, which need no token, and the description of
//!   the API, which [`openapi`] makes.
//! * [`routes`]: maps path and method to a controller, or to `404` or `405`.
//! * [`body`]: reads a request's body, bounded in size and time.
//! * [`trace`], [`idempotency`] and [`prefer`]: read the headers `traceparent`, `Idempotency-Key`
//!   and `Prefer`.
//! * [`validation`]: parses a body to a valid submission, or lists all of its faults.
//! * [`handlers`]: which handlers there are, and the payloads that they take.
//! * [`controllers`]: one module for each endpoint.
//! * [`admission`]: admission control, which refuses jobs while too many are unfinished.
//!   [`backlog_limit`] refuses a tenant's jobs for a receiver whose backlog is full. `polling`:
//!   how both read the store.
//! * [`pauses`]: what operators have paused, for the health check and the metrics.
//! * [`sync_pool`]: the concurrency limit and bounded queue of `/sync`.
//! * [`waiters`]: those who wait for the result of a request.
//! * [`overview`]: samples what the live page shows, while somebody watches.
//! * `repeat`: repeats a write whose outcome is unknown.
//! * [`reply`]: all responses and their wording.
//!
//! [`app`] holds the services that the controllers share. [`metrics`] are the API's metrics;
//! [`due_watch`] measures one of them, the age of the oldest due job, and [`handler_watch`] counts
//! the jobs of each handler. [`token`] is the subcommand
//! that makes tokens, and [`cli`] has those for operators.

pub mod admission;
pub mod app;
pub mod assets;
pub mod auth;
pub mod backlog_limit;
pub mod body;
pub mod cli;
mod closing;
pub mod controllers;
pub mod descriptors;
pub mod due_watch;
pub mod error;
pub mod handler_watch;
pub mod handlers;
pub mod idempotency;
pub mod limiter;
pub mod metrics;
pub mod openapi;
pub mod overview;
pub mod pauses;
mod polling;
pub mod prefer;
mod repeat;
pub mod reply;
pub mod request_check;
pub mod routes;
pub mod serving;
mod startup;
pub mod sync_pool;
pub mod token;
pub mod trace;
pub mod validation;
pub mod waiters;

use storm_shared::{config::Settings, server, shutdown::Shutdown};
use tokio::net::TcpListener;
use tracing::info;

pub use app::App;
pub use error::Error;

use auth::AuthLayer;
use metrics::Metrics;

/// Serves the API on `listener` until `shutdown`, which begins with the API not being ready. At its
/// closing the API shuts down gracefully: it answers the connections in the listener's queue, stops
/// listening, answers open requests within the drain timeout, closes the store, which commits its
/// queued writes, and flushes the notifier.
///
/// Until the database is open and the backlog counted, every answer but that of `/livez` is `503`.
/// A `shutdown` that begins during that time ends it.
///
/// # Errors
/// The API could not start, or the store stopped while the API was running.
pub async fn run(
    listener: TcpListener,
    settings: Settings,
    shutdown: impl Into<Shutdown>,
) -> Result<(), Error> {
    let shutdown = shutdown.into();
    // Shared by startup and serving, so that counters and rate limits carry over.
    let metrics = Metrics::new();
    let auth = AuthLayer::for_api(&settings, metrics.clone());
    // Served from here on, so that a scrape has an answer also while the database cannot be opened.
    if let Some(listener) = metrics_listener(&settings)? {
        // Not awaited at the end: the task has no state to save.
        let metrics = metrics.clone();
        let serving = serving::serve_metrics(&settings, metrics, listener, shutdown.clone());
        tokio::spawn(serving);
    }
    let limits = serving::limits(&settings);
    let connections = metrics.connections.clone();
    let opening = Box::pin(App::start(settings, metrics));
    serving::serve_opening(opening, auth, listener, limits, connections, shutdown).await
}

/// Binds the listener of `METRICS_ADDR`, if that is set.
fn metrics_listener(settings: &Settings) -> Result<Option<TcpListener>, Error> {
    let Some(addr) = settings.access.metrics_addr else {
        return Ok(None);
    };
    let listener = server::bind("METRICS_ADDR", addr).map_err(Error::Metrics)?;
    let addr = listener.local_addr().map_err(Error::Metrics)?;
    info!(%addr, "metrics");
    Ok(Some(listener))
}
