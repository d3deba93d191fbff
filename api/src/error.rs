//! The errors that stop the API.

use std::io;

use storm_shared::services::{queue::QueueError, store::StoreError};
use thiserror::Error;

/// Why the API could not start, or had to stop.
#[derive(Debug, Error)]
pub enum Error {
    /// The database cannot be used.
    #[error("DB_URL: {0}")]
    Store(#[from] StoreError),
    /// The queue cannot be set up. A Redis that is only down does not cause this.
    #[error("REDIS_URL: {0}")]
    Queue(#[from] QueueError),
    /// A thread of the store has stopped; the log has the reason.
    #[error("the database is gone; a new process is needed")]
    StoreEnded,
    /// The API cannot listen on `METRICS_ADDR`; the error names the setting.
    #[error("{0}")]
    Metrics(io::Error),
}
