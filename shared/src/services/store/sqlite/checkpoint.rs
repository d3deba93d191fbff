//! The write-ahead log (WAL) file at rest. Under load it keeps its size, because extending a file
//! costs more than overwriting it. Once few writes arrive, it is truncated.

use std::{ffi::OsString, fs, path::PathBuf, time::Duration};

use rusqlite::Connection;

use super::connection::wait_for_locks;

/// How often the size is checked.
pub(super) const PERIOD: Duration = Duration::from_secs(5);

/// At most this many writes per period count as idle. It leaves room for a worker's heartbeats and
/// the API's health checks.
pub(super) const IDLE_WRITES: usize = 50;

/// A WAL file up to this size is left alone, in bytes, unless something was erased.
pub(super) const SMALL: u64 = 1 << 20;

/// Checkpoints a WAL of more than `limit` bytes and truncates the file to zero. Returns false if
/// another connection reads or writes at this moment: then the file may stay as it is.
pub(super) fn truncate(connection: &Connection, limit: u64) -> rusqlite::Result<bool> {
    if log_bytes(connection) <= limit {
        return Ok(true);
    }
    // No busy handler: while the checkpoint waits for a reader, every writer waits for it.
    connection.busy_handler(None)?;
    let truncated =
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get("busy"));
    // Before an error is returned: the connection goes on to commit writes.
    wait_for_locks(connection)?;
    truncated.map(|is_busy: bool| !is_busy)
}

/// The size of the WAL file. One that can't be inspected counts as empty: only housekeeping depends
/// on it.
pub(super) fn log_bytes(connection: &Connection) -> u64 {
    fs::metadata(path(connection)).map_or(0, |log| log.len())
}

fn path(connection: &Connection) -> PathBuf {
    let mut path = OsString::from(connection.path().unwrap_or_default());
    path.push("-wal");
    path.into()
}
