//! What can go wrong with the store.

use std::{io, path::PathBuf, sync::Arc};

use rusqlite::ffi;
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

impl StoreError {
    /// What is wrong with the database, where that is what it tells of.
    pub fn trouble(&self) -> Option<Trouble> {
        match self {
            Self::Sqlite(error) => Some(Trouble::from(error.as_ref())),
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
            _ => Self::Closed,
        }
    }
}

/// What is wrong with the database, in the kinds that an operator can do something about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Another program holds its lock.
    Busy,
    /// The disk takes no more: it is full, over a quota, or a file would pass its limit.
    Full,
    /// It, or its folder, can't be written to.
    ReadOnly,
    /// What stands in the file is damaged.
    Corrupt,
    /// The disk fails in some other way.
    Io,
    /// None of these: the log has `SQLite`'s own words.
    Other,
}

impl Trouble {
    /// As `/healthz` and the log call it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Busy => "locked",
            Self::Full => "full",
            Self::ReadOnly => "read-only",
            Self::Corrupt => "corrupt",
            Self::Io => "failing",
            Self::Other => "unreachable",
        }
    }

    /// Whether it may pass without anybody touching the file.
    pub(super) fn may_pass(self) -> bool {
        match self {
            Self::Busy | Self::Full | Self::ReadOnly | Self::Io => true,
            Self::Corrupt | Self::Other => false,
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
            // A disk without room is SQLITE_FULL; a file at its limit, or a user over the quota, is an
            // error of the write, or of making room for the log's index.
            ffi::SQLITE_IOERR_WRITE | ffi::SQLITE_IOERR_SHMSIZE => return Self::Full,
            ffi::SQLITE_IOERR_CORRUPTFS | ffi::SQLITE_IOERR_DATA => return Self::Corrupt,
            _ => {}
        }
        match error.code {
            Code::DatabaseBusy | Code::DatabaseLocked | Code::FileLockingProtocolFailed => {
                Self::Busy
            }
            Code::DiskFull => Self::Full,
            // What can't be opened is the log beside the file: its folder can't be written to.
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
    fn sqlites_codes_are_known_by_the_trouble_that_they_tell_of() {
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
    fn a_refusal_that_says_nothing_about_the_database_is_no_trouble() {
        assert_eq!(StoreError::QueueFull.trouble(), None);
        assert_eq!(StoreError::ClaimLost.trouble(), None);
    }
}
