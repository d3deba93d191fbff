//! What can go wrong with the store.

use std::{path::PathBuf, sync::Arc};

use thiserror::Error;

/// Why an operation on the store did not happen. Cheap to clone: a batch's writes share one.
#[derive(Clone, Debug, Error)]
pub enum StoreError {
    /// `DB_WRITE_QUEUE` writes, or as many reads as are allowed, wait already.
    #[error("too many operations wait for the database")]
    QueueFull,
    /// The row is no longer this claim's: it was taken over, given back, or ended.
    #[error("the claim on this row was lost")]
    ClaimLost,
    /// The worker was silent for a whole lease, and was declared dead.
    #[error("the worker's lease was lost")]
    LeaseLost,
    /// The process is ending.
    #[error("the store is closed")]
    Closed,
    /// The file is no store of ours, or of a version that this program doesn't know.
    #[error("{path}: {problem}", path = path.display())]
    Unusable {
        /// The database file.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        problem: String,
    },
    /// `SQLite`'s own words.
    #[error("{0}")]
    Sqlite(Arc<rusqlite::Error>),
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(Arc::new(error))
    }
}

impl From<tokio_rusqlite::Error<StoreError>> for StoreError {
    fn from(error: tokio_rusqlite::Error<StoreError>) -> Self {
        match error {
            tokio_rusqlite::Error::Error(error) => error,
            tokio_rusqlite::Error::Close((_, error)) => error.into(),
            _ => Self::Closed,
        }
    }
}

/// Whether `error` only says that another connection holds the lock right now.
pub(super) fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked)
    )
}
