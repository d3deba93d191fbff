//! The write-ahead log (WAL) file at rest. Under load it keeps its size, because extending a file
//! costs more than overwriting it. Once few writes arrive, it is truncated.

use std::{ffi::OsString, fs, path::PathBuf, time::Duration};

use rusqlite::Connection;
use tokio::time::Instant;

use super::connection::wait_for_locks;

/// How often the size is checked.
pub(super) const PERIOD: Duration = Duration::from_secs(5);

/// At most this many writes per period count as idle. It leaves room for a worker's heartbeats and
/// the API's health checks.
const IDLE_WRITES: usize = 50;

/// How often a log with something that was erased is truncated under load.
const UNDER_LOAD: Duration = Duration::from_mins(1);

/// A WAL file up to this size is left alone, in bytes, unless something was erased.
pub(super) const SMALL: u64 = 1 << 20;

/// When the log is truncated.
#[derive(Debug)]
pub(super) struct Schedule {
    /// The writes of the current period.
    writes: usize,
    /// When the last truncation was due.
    last: Instant,
}

impl Schedule {
    pub(super) fn start() -> Self {
        Self {
            writes: 0,
            last: Instant::now(),
        }
    }

    /// Whether a truncation is due after a commit of so many `writes`, or after a period's end
    /// (`None`).
    pub(super) fn is_due(&mut self, writes: Option<usize>, is_erased: bool) -> bool {
        let is_idle = writes.is_none() && self.writes <= IDLE_WRITES;
        self.writes = writes.map_or(0, |writes| self.writes + writes);
        let is_due = is_idle || is_erased && self.last.elapsed() >= UNDER_LOAD;
        if is_due {
            self.last = Instant::now();
        }
        is_due
    }
}

/// Checkpoints a WAL of more than `limit` bytes and truncates the file to zero. Returns false if
/// another connection reads or writes at this moment: then the file may stay as it is.
pub(super) fn truncate(connection: &Connection, limit: u64) -> rusqlite::Result<bool> {
    if log_bytes(connection) <= limit {
        return Ok(true);
    }
    // No busy handler: while the checkpoint waits for a reader, every writer waits for it.
    connection.busy_handler(None)?;
    let truncated = complete(connection);
    // Before an error is returned: the connection goes on to commit writes.
    wait_for_locks(connection)?;
    truncated
}

/// Checkpoints the whole WAL, syncs the database file, and truncates the log to zero. Waits for
/// other connections as the busy handler does. Returns false if one is still in the way.
pub(super) fn complete(connection: &Connection) -> rusqlite::Result<bool> {
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| {
        row.get("busy").map(|is_busy: bool| !is_busy)
    })
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

#[cfg(test)]
mod tests {
    use super::{IDLE_WRITES, PERIOD, Schedule, UNDER_LOAD};

    /// After how many periods under load a truncation is due.
    async fn periods(schedule: &mut Schedule, is_erased: bool) -> Option<u32> {
        for period in 0..1000 {
            if schedule.is_due(Some(IDLE_WRITES + 1), is_erased) || schedule.is_due(None, is_erased)
            {
                return Some(period);
            }
            tokio::time::advance(PERIOD).await;
        }
        None
    }

    #[tokio::test(start_paused = true)]
    async fn a_log_is_truncated_when_idle_and_under_load_only_if_something_was_erased() {
        let mut schedule = Schedule::start();
        assert_eq!(periods(&mut schedule, false).await, None);
        assert!(!schedule.is_due(Some(IDLE_WRITES), false));
        assert!(schedule.is_due(None, false));
        for _ in 0..3 {
            let expected = UNDER_LOAD.as_secs() / PERIOD.as_secs();
            let periods = periods(&mut schedule, true).await;
            assert_eq!(periods.map(u64::from), Some(expected));
        }
    }
}
