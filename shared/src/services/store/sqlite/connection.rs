//! Opening and configuring connections to the database.

use std::{
    cell::Cell,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use rusqlite::{Connection, ErrorCode, MAIN_DB, OpenFlags, config::DbConfig, ffi};

use thiserror::Error;

use super::{
    clock::Clock,
    durability::Durability,
    files::OpenFiles,
    readers,
    schema::{self, SchemaError},
    sizes,
};
use crate::{
    config::{SqliteSettings, Synchronous},
    services::store::metrics::Sizes,
};

/// The busy handler retries at this interval. `SQLite`'s own handler backs off to 100 ms, which
/// then shows as 100 ms in the 99th percentile.
const BUSY_STEP: Duration = Duration::from_micros(200);

/// How long an operation waits for another process's lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);

/// The same while opening. Shorter, because shutdown has to wait for it.
const BUSY_TIMEOUT_OPENING: Duration = Duration::from_millis(100);

thread_local! {
    /// Start of this thread's current wait. A connection stays on its thread.
    // rusqlite takes a plain function as the busy handler, which can't carry state of its own.
    static BUSY_SINCE: Cell<Instant> = Cell::new(Instant::now());
}

/// WAL size, in pages, that triggers a checkpoint: 32 MiB. A checkpoint costs two fsyncs
/// however much it copies, and copies a page that was written often only once.
const CHECKPOINT_PAGES: u32 = 8192;

/// A WAL file larger than this, in bytes, is truncated to it after a checkpoint.
const LOG_SIZE_LIMIT: u32 = 64 << 20;

/// All connections of a store, and the store's id.
pub(super) struct Opened {
    pub(super) opener: Opener,
    pub(super) writer: Connection,
    pub(super) readers: [Connection; readers::CONNECTIONS],
    pub(super) id: String,
    pub(super) clock: Clock,
    pub(super) files: OpenFiles,
    pub(super) durability: Durability,
    pub(super) sizes: Sizes,
}

/// Who opens the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opener {
    /// A service, which creates and migrates it.
    Service,
    /// An operator's command, which finds it as the services left it.
    Command,
}

/// Why a file was not opened.
#[derive(Debug, Error)]
pub(super) enum OpenError {
    /// The file must not be used. The text follows the file's path.
    #[error("{0}")]
    Unusable(String),
    #[error("{0}")]
    Sqlite(#[from] rusqlite::Error),
}

impl From<SchemaError> for OpenError {
    fn from(error: SchemaError) -> Self {
        match error {
            SchemaError::Sqlite(error) if is_no_database(&error) => {
                Self::Unusable("is not an SQLite database; use another file".to_owned())
            }
            SchemaError::Sqlite(error) => Self::Sqlite(error),
            other => Self::Unusable(other.to_string()),
        }
    }
}

/// Opens all connections; for a service, migrates the database. Waits for locks only briefly.
pub(super) fn open(settings: &SqliteSettings, opener: Opener) -> Result<Opened, OpenError> {
    let (writer, id, clock) = open_writer(settings, opener)?;
    let mut readers = Vec::with_capacity(readers::CONNECTIONS);
    for _ in 0..readers::CONNECTIONS {
        readers.push(open_reader(&settings.path)?);
    }
    #[expect(
        clippy::expect_used,
        reason = "the loop above pushed exactly readers::CONNECTIONS connections"
    )]
    let readers = readers.try_into().expect("one connection per reader");
    // Moved since it was opened: as if that had failed, which is tried again.
    let moved = |_| {
        let missing = ffi::Error::new(ffi::SQLITE_CANTOPEN);
        rusqlite::Error::SqliteFailure(missing, None)
    };
    let files = OpenFiles::of(&settings.path).map_err(moved)?;
    let durability = match settings.synchronous {
        Synchronous::Full => Durability::full(files.open_log().map_err(moved)?),
        Synchronous::Normal => Durability::normal(),
    };
    Ok(Opened {
        opener,
        sizes: sizes::of(&writer)?,
        writer,
        readers,
        id,
        clock,
        files,
        durability,
    })
}

fn open_writer(
    settings: &SqliteSettings,
    opener: Opener,
) -> Result<(Connection, String, Clock), OpenError> {
    let path = &settings.path;
    // NO_MUTEX: each connection is used by one thread only.
    let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    flags.set(OpenFlags::SQLITE_OPEN_CREATE, opener == Opener::Service);
    let mut connection = Connection::open_with_flags(path, flags)?;
    if connection.is_readonly(MAIN_DB)? {
        // SQLite falls back to read-only if the file is not writable.
        let read_only = ffi::Error::new(ffi::SQLITE_READONLY);
        return Err(rusqlite::Error::SqliteFailure(read_only, None).into());
    }
    // Before the first read: that can already meet another process's lock.
    connection.busy_handler(Some(wait_for_opening))?;
    // Until the file is known to be ours, closing must not checkpoint a WAL found beside it.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    let found = schema::check(&connection)?;
    // Before the switch to WAL, which writes to the file and cannot be a part of a transaction:
    // until a file is identified and marked in one transaction, nothing is written to it.
    if !found.is_current() {
        if opener == Opener::Command {
            return Err(OpenError::Unusable(found.needs_a_start()));
        }
        schema::migrate(&mut connection)?;
    }
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;

    // SQLite reports a mode that it can't switch to by keeping the old one, not by an error.
    let mode: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    if mode != "wal" {
        let problem = format!("can't be switched to WAL (it stays in `{mode}`)");
        return Err(OpenError::Unusable(problem));
    }
    // In WAL mode, it calls fsync for checkpoints only. `Durability` does so for commits.
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    connection.pragma_update(None, "journal_size_limit", LOG_SIZE_LIMIT)?;
    overwrite_freed(&connection, Overwrite::All)?;
    // The CHECKs are for edits by hand: what is written here has types that rule the same out. They
    // would take a quarter of the time of all statements of a job.
    connection.pragma_update(None, "ignore_check_constraints", true)?;
    keep_temporaries_in_memory(&connection)?;
    // The writer's operations prepare more statements than the 16 of rusqlite's default.
    connection.set_prepared_statement_cache_capacity(64);

    let id = connection.query_row("SELECT id FROM store", [], |row| row.get(0))?;
    let clock = Clock::start(&mut connection)?;
    // Last: the longer timeout must not apply while shutdown has to wait for the opening.
    wait_for_locks(&connection)?;
    Ok((connection, id, clock))
}

/// Opens a read-only connection. Requires that the writer's connection is open.
fn open_reader(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    keep_temporaries_in_memory(&connection)?;
    wait_for_locks(&connection)?;
    Ok(connection)
}

/// What of the bytes that a write frees is overwritten with zeros.
#[derive(Clone, Copy, Debug)]
enum Overwrite {
    /// All of them, so that what is erased is gone: also where `SQLite` has moved it from, as it
    /// does when it merges pages. A change of status frees no page that the same transaction does
    /// not use again, so it costs nothing measurable.
    All,
    /// Those within pages that are written anyway. A page that becomes free keeps its contents.
    WithinPages,
}

fn overwrite_freed(connection: &Connection, what: Overwrite) -> rusqlite::Result<()> {
    let mode = match what {
        Overwrite::All => "ON",
        Overwrite::WithinPages => "FAST",
    };
    connection.pragma_update(None, "secure_delete", mode)
}

/// Runs `shorten`, which frees many pages, and leaves their contents: to overwrite them is as much
/// to write as to store them was. It must delete and insert no row: that merges or splits pages,
/// and then a freed page can have a copy of a row that stays, and is erased later.
pub(super) fn leaving_free_pages<T>(
    connection: &Connection,
    shorten: impl FnOnce() -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    overwrite_freed(connection, Overwrite::WithinPages)?;
    let shortened = shorten();
    overwrite_freed(connection, Overwrite::All)?;
    shortened
}

/// Avoids temporary files: a container may have no writable directory for them.
fn keep_temporaries_in_memory(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "temp_store", "MEMORY")
}

/// Installs the busy handler for normal operation.
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
    // SQLite counts the calls for one lock from 0, so 0 begins a new wait.
    if step == 0 {
        BUSY_SINCE.set(Instant::now());
    }
    thread::sleep(BUSY_STEP);
    // By time, not by steps: on a busy machine each sleep takes longer than asked for.
    BUSY_SINCE.get().elapsed() < limit
}

/// Whether the file lacks `SQLite`'s header.
pub(super) fn is_no_database(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::NotADatabase)
}
