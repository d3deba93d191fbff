//! What `SQLite`'s errors mean in the store's terms. No error of `SQLite` leaves the engine.

use std::io;

use rusqlite::ffi;

use super::moved;
use crate::services::store::{StoreError, Trouble};

/// The store's error for an error of `SQLite`.
pub(super) fn failed(error: &rusqlite::Error) -> StoreError {
    StoreError::Failed {
        trouble: of(error),
        message: error.to_string().into(),
    }
}

/// The store's error for an error of COMMIT itself. `is_open`: it left the transaction open, so
/// that it can be rolled back.
///
/// In WAL mode a commit writes the transaction's pages to the log, one frame after the other. The
/// last frame carries the commit mark, and a checksum over its page. Then the log's index gets the
/// new frames (`walFrames` in sqlite3.c).
pub(super) fn commit_failed(error: &rusqlite::Error, is_open: bool) -> StoreError {
    if is_open || proves_no_commit(error) {
        return failed(error);
    }
    // The index could not grow, with the commit mark in the log already. While a process has the
    // database open, nobody sees these frames, and the next transaction overwrites them. But if all
    // processes end before that, the next start recovers them. Any code that is not known counts as
    // such.
    StoreError::Indeterminate {
        trouble: of(error),
        message: error.to_string().into(),
    }
}

/// Whether a COMMIT with this error can't have left a commit mark.
fn proves_no_commit(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode as Code;
    let Some(error) = error.sqlite_error() else {
        return false;
    };
    // A frame was not written whole. The last frame is the last write of a commit, so the commit
    // mark is missing, or its checksum is wrong and a recovery stops before it. (Padding would be
    // written after it: SQLite pads only without SQLITE_POWERSAFE_OVERWRITE, which is its default.)
    let is_incomplete =
        error.code == Code::DiskFull || error.extended_code == ffi::SQLITE_IOERR_WRITE;
    // No lock, or a constraint: SQLite has written nothing.
    is_incomplete || matches!(error.code, Code::DatabaseBusy | Code::ConstraintViolation)
}

/// The error of a write that was dropped with the writer's thread.
pub(super) fn unanswered() -> StoreError {
    StoreError::Indeterminate {
        trouble: Trouble::Other,
        message: "the database writer thread ended during the transaction".into(),
    }
}

/// The error of a write to a file that is no longer at its path: the next start will not find it.
pub(super) fn moved() -> StoreError {
    StoreError::Failed {
        trouble: Trouble::Moved,
        message: "the open database file is no longer at its path".into(),
    }
}

/// The store's error for that of a call on a connection's thread.
pub(super) fn call_failed(error: tokio_rusqlite::Error<StoreError>) -> StoreError {
    match error {
        tokio_rusqlite::Error::Error(error) => error,
        tokio_rusqlite::Error::Close((_, error)) => failed(&error),
        // What remains is a connection that was closed or whose thread ended.
        _ => StoreError::Closed,
    }
}

/// The condition behind an error of `SQLite`.
pub(super) fn of(error: &rusqlite::Error) -> Trouble {
    use rusqlite::ErrorCode as Code;
    if moved::has_refused(error) {
        return Trouble::Migrated;
    }
    let Some(error) = error.sqlite_error() else {
        return Trouble::Other;
    };
    match error.extended_code {
        // A full disk is SQLITE_FULL. A file at its size limit and a used-up quota are
        // errors of a write, or of growing the WAL's index.
        ffi::SQLITE_IOERR_WRITE | ffi::SQLITE_IOERR_SHMSIZE => return Trouble::Full,
        ffi::SQLITE_IOERR_CORRUPTFS | ffi::SQLITE_IOERR_DATA => return Trouble::Corrupt,
        _ => {}
    }
    match error.code {
        // SQLITE_PROTOCOL: it lost the race to begin a WAL transaction for seconds.
        Code::DatabaseBusy | Code::DatabaseLocked | Code::FileLockingProtocolFailed => {
            Trouble::Busy
        }
        Code::DiskFull => Trouble::Full,
        // Only the WAL can fail to open here: its directory is not writable.
        Code::ReadOnly | Code::PermissionDenied | Code::CannotOpen => Trouble::ReadOnly,
        Code::DatabaseCorrupt | Code::NotADatabase => Trouble::Corrupt,
        Code::SystemIoFailure => Trouble::Io,
        _ => Trouble::Other,
    }
}

/// The condition behind an error of a file.
pub(super) fn of_file(error: &io::Error) -> Trouble {
    use io::ErrorKind as Kind;
    match error.kind() {
        Kind::StorageFull | Kind::QuotaExceeded | Kind::FileTooLarge => Trouble::Full,
        Kind::PermissionDenied | Kind::ReadOnlyFilesystem => Trouble::ReadOnly,
        _ => Trouble::Io,
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::ffi;

    use super::{StoreError, Trouble, commit_failed, of};

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
            assert_eq!(of(&error), trouble, "{code}");
        }
    }

    #[test]
    fn a_commit_is_known_to_have_failed_only_if_its_mark_can_not_be_in_the_log() {
        let error = |code| rusqlite::Error::SqliteFailure(ffi::Error::new(code), None);
        for code in [
            ffi::SQLITE_FULL,
            ffi::SQLITE_IOERR_WRITE,
            ffi::SQLITE_BUSY,
            ffi::SQLITE_CONSTRAINT_COMMITHOOK,
        ] {
            let failed = commit_failed(&error(code), false);
            assert!(matches!(failed, StoreError::Failed { .. }), "{code}");
        }
        for (code, trouble) in [
            (ffi::SQLITE_IOERR_FSYNC, Trouble::Io),
            (ffi::SQLITE_IOERR_SHMSIZE, Trouble::Full),
            (ffi::SQLITE_IOERR_SHMMAP, Trouble::Io),
            (ffi::SQLITE_NOMEM, Trouble::Other),
            (ffi::SQLITE_CORRUPT, Trouble::Corrupt),
        ] {
            let unknown = commit_failed(&error(code), false);
            assert!(unknown.is_indeterminate(), "{code}");
            assert_eq!(unknown.trouble(), Some(trouble), "{code}");
            let open = commit_failed(&error(code), true);
            assert!(matches!(open, StoreError::Failed { .. }), "{code}");
        }
    }
}
