//! Errors of the store.

use std::{io, path::PathBuf, sync::Arc};

use rusqlite::ffi;
use thiserror::Error;

/// Why a store operation failed. Cheap to clone: all writes of a failed group commit share one.
#[derive(Clone, Debug, Error)]
pub enum StoreError {
    /// The write queue (`DB_WRITE_QUEUE`) or the read queue is full.
    #[error("too many database operations are queued")]
    QueueFull,
    /// The row has a newer fencing token, was released, or is finished.
    #[error("the claim on this row was lost")]
    ClaimLost,
    /// The worker's lease expired, and its jobs were reclaimed.
    #[error("the worker's lease was lost")]
    LeaseLost,
    /// The store was closed, because the process shuts down or a database thread ended.
    #[error("the store is closed")]
    Closed,
    /// The write is in a file that is no longer at its path: the next start will not find it.
    #[error("the open database file is no longer at its path")]
    Moved,
    /// The file is not a database of this service, or has a schema it doesn't support.
    #[error("{path}: {problem}", path = path.display())]
    Unusable {
        /// The database file.
        path: PathBuf,
        /// The problem, and what to do about it.
        problem: String,
    },
    /// An error of `SQLite`.
    #[error("{0}")]
    Sqlite(Arc<rusqlite::Error>),
}

impl StoreError {
    /// The state of the database, if the error says something about it.
    pub fn trouble(&self) -> Option<Trouble> {
        match self {
            Self::Sqlite(error) => Some(Trouble::from(error.as_ref())),
            Self::Moved => Some(Trouble::Moved),
            _ => None,
        }
    }
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
            // What remains is a connection that was closed or whose thread ended.
            _ => Self::Closed,
        }
    }
}

/// Database failures, by what an operator can do about them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Another process holds the lock.
    Busy,
    /// The disk is full, a quota is used up, or a file reached its size limit.
    Full,
    /// The file or its directory is not writable.
    ReadOnly,
    /// The file is damaged.
    Corrupt,
    /// The open file was deleted, renamed or replaced.
    Moved,
    /// Another I/O error.
    Io,
    /// Any other error; the log has `SQLite`'s message.
    Other,
}

impl Trouble {
    /// The name in `/healthz` and in the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Busy => "locked",
            Self::Full => "full",
            Self::ReadOnly => "read-only",
            Self::Corrupt => "corrupt",
            Self::Moved => "file moved or deleted",
            Self::Io => "failing",
            Self::Other => "unreachable",
        }
    }

    /// Whether the condition can clear without a change to the file, so that retrying makes sense.
    pub(super) fn may_pass(self) -> bool {
        match self {
            Self::Busy | Self::Full | Self::ReadOnly | Self::Io => true,
            Self::Corrupt | Self::Moved | Self::Other => false,
        }
    }
}

impl From<&rusqlite::Error> for Trouble {
    fn from(error: &rusqlite::Error) -> Self {
        use rusqlite::ErrorCode as Code;
        let Some(error) = error.sqlite_error() else {
            return Self::Other;
        };
        match error.extended_code {
            // A full disk is SQLITE_FULL. A file at its size limit and a used-up quota are
            // errors of a write, or of growing the WAL's index.
            ffi::SQLITE_IOERR_WRITE | ffi::SQLITE_IOERR_SHMSIZE => return Self::Full,
            ffi::SQLITE_IOERR_CORRUPTFS | ffi::SQLITE_IOERR_DATA => return Self::Corrupt,
            _ => {}
        }
        match error.code {
            // SQLITE_PROTOCOL: it lost the race to begin a WAL transaction for seconds.
            Code::DatabaseBusy | Code::DatabaseLocked | Code::FileLockingProtocolFailed => {
                Self::Busy
            }
            Code::DiskFull => Self::Full,
            // Only the WAL can fail to open here: its directory is not writable.
            Code::ReadOnly | Code::PermissionDenied | Code::CannotOpen => Self::ReadOnly,
            Code::DatabaseCorrupt | Code::NotADatabase => Self::Corrupt,
            Code::SystemIoFailure => Self::Io,
            _ => Self::Other,
        }
    }
}

impl From<&io::Error> for Trouble {
    fn from(error: &io::Error) -> Self {
        use io::ErrorKind as Kind;
        match error.kind() {
            Kind::StorageFull | Kind::QuotaExceeded | Kind::FileTooLarge => Self::Full,
            Kind::PermissionDenied | Kind::ReadOnlyFilesystem => Self::ReadOnly,
            _ => Self::Io,
        }
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::ffi;

    use super::{StoreError, Trouble};

    #[test]
    fn sqlite_error_codes_map_to_troubles() {
        for (code, trouble) in [
            (ffi::SQLITE_BUSY, Trouble::Busy),
            (ffi::SQLITE_BUSY_RECOVERY, Trouble::Busy),
            (ffi::SQLITE_PROTOCOL, Trouble::Busy),
            (ffi::SQLITE_FULL, Trouble::Full),
            (ffi::SQLITE_IOERR_WRITE, Trouble::Full),
            (ffi::SQLITE_IOERR_SHMSIZE, Trouble::Full),
            (ffi::SQLITE_READONLY_DIRECTORY, Trouble::ReadOnly),
            (ffi::SQLITE_CANTOPEN, Trouble::ReadOnly),
            (ffi::SQLITE_CORRUPT_INDEX, Trouble::Corrupt),
            (ffi::SQLITE_NOTADB, Trouble::Corrupt),
            (ffi::SQLITE_IOERR_FSYNC, Trouble::Io),
            (ffi::SQLITE_CONSTRAINT_UNIQUE, Trouble::Other),
        ] {
            let error = rusqlite::Error::SqliteFailure(ffi::Error::new(code), None);
            assert_eq!(StoreError::from(error).trouble(), Some(trouble), "{code}");
        }
    }

    #[test]
    fn a_full_queue_and_a_lost_claim_are_no_database_trouble() {
        assert_eq!(StoreError::QueueFull.trouble(), None);
        assert_eq!(StoreError::ClaimLost.trouble(), None);
    }
}
