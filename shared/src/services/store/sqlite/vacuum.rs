//! Gives free pages back to the file system: `VACUUM`.

use std::path::Path;

use rusqlite::{Connection, OpenFlags};
use rustix::fs::statvfs;

use super::{
    connection::{OpenError, wait_for_locks},
    open, schema, stats, trouble,
};
use crate::services::store::{FileStats, StoreError, Trouble};

/// Writes the database at `path` anew. Returns the sizes before and after.
pub(in crate::services::store) fn vacuum(
    path: &Path,
    beside_services: bool,
) -> Result<(FileStats, FileStats), StoreError> {
    open::require_database(path)?;
    let failed = |error: rusqlite::Error| open::command_failed(path, error);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(failed)?;
    wait_for_locks(&connection).map_err(failed)?;
    if !beside_services {
        // Before the first read, which then needs the lock that every open connection shares: it
        // fails while another process has the database open, and keeps new ones out until the end.
        let exclusive = connection.pragma_update(None, "locking_mode", "EXCLUSIVE");
        exclusive.map_err(failed)?;
    }
    let found = schema::check(&connection).map_err(|error| match error {
        schema::SchemaError::Sqlite(error) if trouble::of(&error) == Trouble::Busy => in_use(path),
        error => open::command_failed(path, error),
    })?;
    if found.is_new() {
        let problem = found.needs_a_start();
        return Err(open::command_failed(path, OpenError::Unusable(problem)));
    }
    let before = stats::files(&connection, path).map_err(failed)?;
    require_room(path, &before)?;
    rewrite(&connection, path).map_err(failed)?;
    let after = stats::files(&connection, path).map_err(failed)?;
    Ok((before, after))
}

fn rewrite(connection: &Connection, path: &Path) -> rusqlite::Result<()> {
    // The copy that VACUUM makes is as large as the data: not in memory, and not in /tmp, which may
    // be memory. The directory of the database has been checked for room.
    connection.pragma_update(None, "temp_store", "FILE")?;
    if let Some(directory) = path.parent().and_then(Path::to_str) {
        connection.pragma_update(None, "temp_store_directory", directory)?;
    }
    connection.execute_batch("VACUUM")?;
    // The file shrinks when the log has been copied into it. If a reader prevents that now, the
    // next checkpoint of a service does it.
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
}

/// VACUUM writes the data twice: into a temporary file, and from there into the log.
fn require_room(path: &Path, files: &FileStats) -> Result<(), StoreError> {
    let needed = 2 * (files.database_bytes - files.free_bytes);
    // Where the system does not tell, VACUUM itself fails, and changes nothing.
    let Ok(system) = statvfs(path) else {
        return Ok(());
    };
    let available = system.f_bavail.saturating_mul(system.f_frsize);
    if available >= needed {
        return Ok(());
    }
    Err(StoreError::Failed {
        trouble: Trouble::Full,
        message: format!(
            "{}: there is too little disk: up to {needed} bytes are needed, and {available} are free",
            path.display()
        )
        .into(),
    })
}

fn in_use(path: &Path) -> StoreError {
    StoreError::Failed {
        trouble: Trouble::Busy,
        message: format!(
            "{}: the database is in use: stop the API and the workers first, or pass \
             --while-running: then no request is accepted and no job is settled until the end",
            path.display()
        )
        .into(),
    }
}
