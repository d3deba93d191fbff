//! The write-ahead log at rest. Under load it is kept at its size, for to make a file longer costs more
//! than to write it again; when little is written, it is cut back.

use std::{ffi::OsString, fs, path::PathBuf, time::Duration};

use rusqlite::Connection;

use super::connection::wait_for_locks;

/// How often it is looked at.
pub(super) const PERIOD: Duration = Duration::from_secs(5);

/// A writer that had no more to write in a period leaves room for this: the heartbeats of a worker, the
/// health checks of an API.
pub(super) const LITTLE: usize = 50;

/// A log of this size may stay, in bytes.
const SMALL: u64 = 1 << 20;

/// Moves a log that is long into the database, and cuts it to nothing. Where somebody reads or writes
/// there at this moment, it stays as it is until the next time.
pub(super) fn cut_back(connection: &Connection) -> rusqlite::Result<()> {
    if fs::metadata(path(connection)).map_or(0, |log| log.len()) <= SMALL {
        return Ok(());
    }
    // It waits for nobody: while it waits for a reader, every writer waits for it.
    connection.busy_handler(None)?;
    let cut = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
    wait_for_locks(connection)?;
    cut
}

fn path(connection: &Connection) -> PathBuf {
    let mut path = OsString::from(connection.path().unwrap_or_default());
    path.push("-wal");
    path.into()
}
