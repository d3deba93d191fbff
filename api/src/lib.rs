//! The API: `POST /sync` makes a report while the client waits, `POST /async` accepts it as a job.
//!
//! The modules, in the order in which a request meets them:
//!
//! * [`serving`]: the listeners, and the graceful shutdown. Before the database is open, `startup`
//!   answers instead.
//! * [`auth`]: authentication, tenant, scope and rate limit; [`limiter`] is the rate limiter.
//! * [`routes`]: path and method to controller; no rejection leaves them.
//! * [`body`]: reads a request's body, bounded in size and time.
//! * [`trace`]: reads the `traceparent` header.
//! * [`validation`]: bytes to a checked submission, or to every fault in them.
//! * [`controllers`]: one module for each endpoint.
//! * [`backlog_limit`]: sheds load for receivers whose backlog is full.
//! * [`sync_pool`]: the concurrency limit and bounded queue of `/sync`.
//! * [`reply`]: every answer and its wording.
//!
//! [`app`] holds the services that the controllers share. [`metrics`] are the API's counters;
//! [`token`] is the subcommand that makes tokens.

pub mod app;
pub mod auth;
pub mod backlog_limit;
pub mod body;
pub mod controllers;
pub mod error;
pub mod limiter;
pub mod metrics;
pub mod reply;
pub mod routes;
pub mod serving;
mod startup;
pub mod sync_pool;
pub mod token;
pub mod trace;
pub mod validation;

use storm_shared::{config::Settings, server};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::info;

pub use app::App;
pub use error::Error;

use auth::AuthLayer;
use metrics::Metrics;

/// Serves the API on `listener` until `shutdown` is cancelled, then shuts down gracefully: it stops
/// listening, answers open requests within the drain timeout, flushes the notifier, and closes the
/// store, which commits its queued writes.
///
/// Until the database is open every answer is a 503; `shutdown` works then, too.
///
/// # Errors
/// The API could not start, or the store ended while the API was running.
pub async fn run(
    listener: TcpListener,
    settings: Settings,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    // Made once, so that what is counted and spent during startup stays counted and spent.
    let metrics = Metrics::new();
    let auth = AuthLayer::for_api(&settings, metrics.clone());
    if let Some(listener) = metrics_listener(&settings).await? {
        // Nobody waits for this task at the end: it holds nothing that could be lost.
        let metrics = metrics.clone();
        let serving = serving::serve_metrics(&settings, metrics, listener, shutdown.clone());
        tokio::spawn(serving);
    }
    let limits = serving::limits(&settings);
    let starting = App::start(settings, metrics);
    let opening = startup::beside(&listener, limits, auth.clone(), starting);
    let Some(app) = shutdown.run_until_cancelled(opening).await else {
        return Ok(()); // shut down while the database was not open yet
    };
    serving::serve(app?, auth, listener, shutdown).await
}

/// The listener of `METRICS_ADDR`, if that is set.
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
