//! How a connection to the database is opened and set up.

use std::{
    cell::Cell,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use rusqlite::{Connection, ErrorCode, MAIN_DB, OpenFlags, config::DbConfig, ffi};

use super::{
    error::StoreError,
    readers,
    schema::{self, SchemaError},
};
use crate::config::{StoreSettings, Synchronous};

/// `SQLite`'s own handler waits in steps that grow to 100 ms, which then show as that in the 99th
/// percentile. Ours tries again after a fifth of a millisecond, up to a bound.
const BUSY_STEP: Duration = Duration::from_micros(200);
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);

/// The bound while it is being opened: a process that is told to end meanwhile waits for it.
const BUSY_TIMEOUT_OPENING: Duration = Duration::from_millis(100);

thread_local! {
    /// When the wait that this thread is in began. A connection stays on its thread.
    static BUSY_SINCE: Cell<Instant> = Cell::new(Instant::now());
}

/// Pages in the log at which the writer moves them into the database: 32 MiB. A checkpoint costs
/// two fsyncs whatever it moves, and a page that was written often is moved once.
const CHECKPOINT_PAGES: u32 = 8192;

/// The log file is cut back to this size after a checkpoint under load.
const LOG_SIZE_LIMIT: u32 = 64 << 20;

/// Every connection of a store, and its id.
pub(super) struct Opened {
    pub(super) writer: Connection,
    pub(super) readers: [Connection; readers::CONNECTIONS],
    pub(super) id: String,
}

/// Opens the connections, migrating the database. Waits for no lock for long.
///
/// # Errors
/// [`StoreError::Unusable`] for a file that is not to be used; else `SQLite`'s own words.
pub(super) fn open(settings: &StoreSettings) -> Result<Opened, StoreError> {
    let (writer, id) = open_writer(settings)?;
    let mut readers = Vec::with_capacity(readers::CONNECTIONS);
    for _ in 0..readers::CONNECTIONS {
        readers.push(open_reader(&settings.path)?);
    }
    let readers = readers
        .try_into()
        .unwrap_or_else(|_| unreachable!("as many as asked for"));
    Ok(Opened {
        writer,
        readers,
        id,
    })
}

fn open_writer(settings: &StoreSettings) -> Result<(Connection, String), StoreError> {
    let path = &settings.path;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags)?;
    if connection.is_readonly(MAIN_DB)? {
        // SQLite makes do with reading where it can't write.
        let read_only = ffi::Error::new(ffi::SQLITE_READONLY);
        return Err(rusqlite::Error::SqliteFailure(read_only, None).into());
    }
    connection.busy_handler(Some(wait_for_opening))?;
    // Until we know that the file is ours, closing it doesn't move a log that was found into it.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    schema::check(&connection).map_err(|error| at(path, error))?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;

    let mode: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    if mode != "wal" {
        let problem = format!("can't be switched to WAL (it stays in `{mode}`)");
        return Err(unusable(path, problem));
    }
    connection.pragma_update(
        None,
        "synchronous",
        match settings.synchronous {
            Synchronous::Full => "FULL",
            Synchronous::Normal => "NORMAL",
        },
    )?;
    connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    connection.pragma_update(None, "journal_size_limit", LOG_SIZE_LIMIT)?;
    keep_temporaries_in_memory(&connection)?;
    connection.set_prepared_statement_cache_capacity(32);

    schema::migrate(&mut connection).map_err(|error| at(path, error))?;
    let id = connection.query_row("SELECT id FROM store", [], |row| row.get(0))?;
    wait_for_locks(&connection)?;
    Ok((connection, id))
}

/// Opens a connection that can only read. The writer's must have been opened before.
fn open_reader(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    keep_temporaries_in_memory(&connection)?;
    wait_for_locks(&connection)?;
    Ok(connection)
}

/// A container has no folder for them.
fn keep_temporaries_in_memory(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "temp_store", "MEMORY")
}

/// Has a connection wait for locks as it should while it is in use.
pub(super) fn wait_for_locks(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_handler(Some(wait_in_small_steps))
}

fn wait_in_small_steps(step: i32) -> bool {
    wait_a_step(step, BUSY_TIMEOUT)
}

fn wait_for_opening(step: i32) -> bool {
    wait_a_step(step, BUSY_TIMEOUT_OPENING)
}

fn wait_a_step(step: i32, limit: Duration) -> bool {
    if step == 0 {
        BUSY_SINCE.set(Instant::now());
    }
    thread::sleep(BUSY_STEP);
    BUSY_SINCE.get().elapsed() < limit
}

pub(super) fn unusable(path: &Path, problem: impl Into<String>) -> StoreError {
    StoreError::Unusable {
        path: path.to_owned(),
        problem: problem.into(),
    }
}

/// Names the file in a problem that the schema's checks found.
pub(super) fn at(path: &Path, error: SchemaError) -> StoreError {
    match error {
        SchemaError::Sqlite(error) if is_no_database(&error) => {
            unusable(path, "is no SQLite database; point DB_URL at another file")
        }
        SchemaError::Sqlite(error) => error.into(),
        other => unusable(path, other.to_string()),
    }
}

/// Whether the file doesn't even begin like a database.
pub(super) fn is_no_database(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::NotADatabase)
}
