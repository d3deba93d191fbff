//! The API: `POST /sync` does the slow report while the client waits, `POST /async` accepts it.
//!
//! In the order in which a request meets them:
//!
//! * [`routes`]: which path and method lead where; no rejection leaves them.
//! * [`body`]: a request's body, bounded in size and time.
//! * [`validation`]: from bytes to a checked submission, or to every fault in them.
//! * [`controllers`]: one module for each endpoint.
//! * [`sync_pool`]: the threads behind `/sync`.
//! * [`reply`]: everything that is ever answered, and its wording.
//!
//! [`app`] holds what the controllers share, from start to end. Before there is one, requests meet the
//! `waiting_room`.

pub mod app;
pub mod body;
pub mod controllers;
pub mod reply;
pub mod routes;
pub mod sync_pool;
pub mod validation;
mod waiting_room;

use std::io;

use storm_shared::{
    config::Settings,
    services::{queue::QueueError, store::StoreError},
};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use app::App;

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
    /// The system has no thread left for `/sync`.
    #[error("a thread for /sync can't be started: {0}")]
    Thread(#[from] io::Error),
}

/// Serves the API on `listener` until `shutdown` is cancelled, then ends in order: it stops
/// listening, answers what is open within the drain timeout, flushes the doorbell, and closes the
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
    let limits = app::limits(&settings);
    let opening = waiting_room::beside(&listener, limits, App::start(settings));
    let Some(app) = shutdown.run_until_cancelled(opening).await else {
        return Ok(()); // told to end while it waited for the database
    };
    app?.serve(listener, shutdown).await
}
