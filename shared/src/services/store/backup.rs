//! Backups: a copy of the database at one moment. Value types, no SQL.

use thiserror::Error;

use super::StoreError;

/// A finished backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackedUp {
    /// The size of the copy, in bytes.
    pub bytes: u64,
}

/// Why there is no backup.
#[derive(Debug, Error)]
pub enum BackupError {
    /// The database can't be read.
    #[error("{0}")]
    Database(#[from] StoreError),
    /// The copy can't be written. The text names the file, the problem, and what to change.
    #[error("{0}")]
    Target(String),
    /// A signal came first.
    #[error("cancelled; nothing was written")]
    Cancelled,
}
