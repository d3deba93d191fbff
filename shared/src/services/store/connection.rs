//! How a connection to the database is opened and set up.

use std::{
    cell::Cell,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use rusqlite::{Connection, OpenFlags};

use super::{
    error::{StoreError, is_busy},
    schema,
};
use crate::config::{StoreSettings, Synchronous};

/// `SQLite`'s own handler waits in steps that grow to 100 ms, which then show as that in the 99th
/// percentile. Ours tries again after a fifth of a millisecond, up to a bound.
const BUSY_STEP: Duration = Duration::from_micros(200);
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);

thread_local! {
    /// When the wait that this thread is in began. A connection stays on its thread.
    static BUSY_SINCE: Cell<Instant> = Cell::new(Instant::now());
}

/// How long opening, switching to WAL and migrating are tried again while the file is busy: another
/// process may be doing the same.
const OPENING: Duration = Duration::from_secs(30);
const OPENING_STEP: Duration = Duration::from_millis(20);

/// Pages in the log at which the writer moves them into the database: 32 MiB. A checkpoint costs
/// two fsyncs whatever it moves, and a page that was written often is moved once.
const CHECKPOINT_PAGES: u32 = 8192;

/// The log file is cut back to this size after a checkpoint.
const LOG_SIZE_LIMIT: u32 = 64 << 20;

/// Opens the writer's connection, migrating the database; also the store's id.
pub(super) async fn open_writer(
    settings: &StoreSettings,
) -> Result<(tokio_rusqlite::Connection, String), StoreError> {
    let settings = settings.clone();
    let opened = tokio::task::spawn_blocking(move || {
        if let Some(folder) = settings.path.parent() {
            std::fs::create_dir_all(folder).map_err(|error| {
                unusable(&settings.path, format!("its folder can't be made: {error}"))
            })?;
        }
        retry_while_busy(|| prepare_writer(&settings)).map_err(|error| match error {
            StoreError::Sqlite(error) => unusable(&settings.path, error.to_string()),
            named => named,
        })
    });
    let (connection, id) = opened.await.map_err(|_| StoreError::Closed)??;
    Ok((connection.into(), id))
}

/// Opens a connection that can only read. The writer's must have been opened before.
pub(super) fn open_reader(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_handler(Some(wait_in_small_steps))?;
    Ok(connection)
}

fn prepare_writer(settings: &StoreSettings) -> Result<(Connection, String), StoreError> {
    let path = &settings.path;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags)
        .map_err(|error| unusable(path, format!("can't be opened: {error}")))?;
    connection.busy_handler(Some(wait_in_small_steps))?;
    schema::check(&connection).map_err(|error| at(path, error))?;

    let mode: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    if mode != "wal" {
        return Err(unusable(
            path,
            format!("can't be switched to WAL (it stays in `{mode}`)"),
        ));
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
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.set_prepared_statement_cache_capacity(32);

    schema::migrate(&mut connection).map_err(|error| at(path, error))?;
    let id = connection.query_row("SELECT id FROM store", [], |row| row.get(0))?;
    Ok((connection, id))
}

fn retry_while_busy<T>(
    mut operation: impl FnMut() -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let start = Instant::now();
    loop {
        match operation() {
            Err(StoreError::Sqlite(error)) if is_busy(&error) && start.elapsed() < OPENING => {
                thread::sleep(OPENING_STEP);
            }
            done => return done,
        }
    }
}

fn wait_in_small_steps(step: i32) -> bool {
    if step == 0 {
        BUSY_SINCE.set(Instant::now());
    }
    thread::sleep(BUSY_STEP);
    BUSY_SINCE.get().elapsed() < BUSY_TIMEOUT
}

fn unusable(path: &Path, problem: String) -> StoreError {
    StoreError::Unusable {
        path: path.to_owned(),
        problem,
    }
}

/// Names the file in a problem that the schema's checks found.
fn at(path: &Path, error: schema::SchemaError) -> StoreError {
    match error {
        schema::SchemaError::Sqlite(error) if is_busy(&error) => error.into(),
        other => unusable(path, other.to_string()),
    }
}
