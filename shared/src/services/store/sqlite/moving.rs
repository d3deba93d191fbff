//! The source of a move: marks a database, and reads all that it has, in batches.
//!
//! Once the mark is set, nothing changes any more. So each batch is a read of its own, and no
//! snapshot has to be held for hours.

mod rows;

use std::{
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use rusqlite::{Connection, MAIN_DB, OpenFlags, Transaction, TransactionBehavior, ffi};

pub(in crate::services::store) use super::moved::Mark;
use super::{
    clock::Clock,
    connection::{OpenError, wait_for_locks},
    moved, open,
    schema::{self, SchemaError},
    trouble,
};
use crate::{
    config::SqliteSettings,
    services::store::{
        StoreError, Trouble,
        moving::{Key, Rows, Table},
    },
};

/// How long the mark waits for the write lock.
const PATIENCE: Duration = Duration::from_secs(10);

/// A database that is moved.
pub(in crate::services::store) struct Source {
    path: PathBuf,
    connection: Connection,
}

impl Source {
    /// Opens the database, whether or not it is marked. Blocks.
    ///
    /// # Errors
    /// There is none, its schema is another, or it can't be read or written now.
    pub(in crate::services::store) fn open(settings: &SqliteSettings) -> Result<Self, StoreError> {
        let path = &settings.path;
        if !path.exists() {
            let problem = "there is no database at this path".to_owned();
            return Err(open::command_failed(path, OpenError::Unusable(problem)));
        }
        open::require_database_or_mark(path)?;
        let connection = connect(path).map_err(|error| unchanged(path, error))?;
        Ok(Self {
            path: path.clone(),
            connection,
        })
    }

    /// The store's id.
    pub(in crate::services::store) fn id(&self) -> Result<String, StoreError> {
        self.read(|db| db.query_row("SELECT id FROM store", [], |row| row.get(0)))
    }

    /// The mark, if it is set.
    pub(in crate::services::store) fn mark(&self) -> Result<Option<Mark>, StoreError> {
        self.read(moved::find)
    }

    /// Sets the mark of the move `id` to `target`, and makes it durable: from then on, no process
    /// writes to the database. Returns the mark of an earlier call, if there is one.
    ///
    /// # Errors
    /// The lock is not free, or the write failed. After [`StoreError::Indeterminate`] it may be
    /// set.
    pub(in crate::services::store) fn set_mark(
        &mut self,
        id: String,
        target: String,
    ) -> Result<Mark, StoreError> {
        // Before the mark refuses writes: after a boot, the clock has to be set.
        let clock = match self.mark()? {
            Some(mark) => return Ok(mark),
            None => Clock::start(&mut self.connection),
        };
        let clock = clock.map_err(|error| unchanged(&self.path, error))?;
        let failed = |error| unchanged(&self.path, error);
        let tx = self.lock()?;
        if let Some(mark) = moved::find(&tx).map_err(failed)? {
            return Ok(mark);
        }
        let mark = Mark {
            id,
            target,
            store_time: clock.now().millis(),
            wall: Timestamp::now().as_millisecond(),
            is_complete: false,
        };
        moved::set(&tx, &mark).map_err(failed)?;
        tx.commit().map_err(|error| {
            let is_open = !self.connection.is_autocommit();
            match trouble::commit_failed(&error, is_open) {
                StoreError::Failed { .. } => failed(error),
                unknown => unknown,
            }
        })?;
        self.checkpoint();
        Ok(mark)
    }

    /// Begins a write transaction.
    fn lock(&self) -> Result<Transaction<'_>, StoreError> {
        let begun = Instant::now();
        loop {
            let tried =
                Transaction::new_unchecked(&self.connection, TransactionBehavior::Immediate);
            match tried {
                Ok(transaction) => return Ok(transaction),
                Err(error) if trouble::of(&error) != Trouble::Busy => {
                    return Err(open::command_failed(&self.path, error));
                }
                Err(_) if begun.elapsed() < PATIENCE => thread::sleep(Duration::from_millis(1)),
                Err(_) => return Err(self.is_locked()),
            }
        }
    }

    fn is_locked(&self) -> StoreError {
        StoreError::Failed {
            trouble: Trouble::Busy,
            message: format!(
                "{}: another process has held its write lock for {} s; stop it, and run the \
                 command again: nothing was changed",
                self.path.display(),
                PATIENCE.as_secs()
            )
            .into(),
        }
    }

    /// Takes the mark into the file itself, for whoever copies that alone. A reader of another
    /// process can prevent it: the mark is in the log then, and counts all the same.
    fn checkpoint(&self) {
        let checkpoint = "PRAGMA wal_checkpoint(TRUNCATE)";
        if let Err(error) = self.connection.query_row(checkpoint, [], |_| Ok(())) {
            tracing::debug!(%error, "the log was not truncated");
        }
    }

    /// Notes that the target has everything.
    pub(in crate::services::store) fn complete(&self) -> Result<(), StoreError> {
        self.read(moved::complete)?;
        self.checkpoint();
        Ok(())
    }

    /// When everything was resumed last, by the store's clock.
    pub(in crate::services::store) fn resumed(&self) -> Result<i64, StoreError> {
        self.read(|db| db.query_row("SELECT resumed FROM store", [], |row| row.get(0)))
    }

    /// The number of rows of each table.
    pub(in crate::services::store) fn count(&self) -> Result<Vec<(Table, u64)>, StoreError> {
        let count = |table: Table| {
            let sql = format!("SELECT count(*) FROM {}", table.name());
            let rows = self.read(|db| db.query_row(&sql, [], |row| row.get::<_, i64>(0)))?;
            Ok((table, u64::try_from(rows).unwrap_or(0)))
        };
        Table::ALL.into_iter().map(count).collect()
    }

    /// Reads the batch of rows after `after`. A moment by the store's clock comes `clock`
    /// milliseconds later by the clock of the target.
    pub(in crate::services::store) fn batch(
        &self,
        table: Table,
        after: Option<&Key>,
        clock: i64,
    ) -> Result<Rows, StoreError> {
        self.read(|db| rows::read(db, table, after, clock))
    }

    fn read<T>(
        &self,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        read(&self.connection).map_err(|error| open::command_failed(&self.path, error))
    }
}

/// The error of an operation before the mark.
fn unchanged(path: &Path, error: impl Into<OpenError>) -> StoreError {
    match error.into() {
        OpenError::Sqlite(error) if trouble::of(&error) == Trouble::Full => StoreError::Failed {
            trouble: Trouble::Full,
            message: format!(
                "{}: its disk is full, or a limit is reached; nothing was changed",
                path.display()
            )
            .into(),
        },
        error => open::command_failed(path, error),
    }
}

fn connect(path: &Path) -> Result<Connection, OpenError> {
    // NO_MUTEX: one thread at a time uses it.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    if connection.is_readonly(MAIN_DB)? {
        let read_only = ffi::Error::new(ffi::SQLITE_READONLY);
        return Err(rusqlite::Error::SqliteFailure(read_only, None).into());
    }
    wait_for_locks(&connection)?;
    match schema::check(&connection) {
        // Only the columns that this program knows would be moved.
        Ok(found) => found.require_exactly_this().map_err(OpenError::Unusable)?,
        Err(SchemaError::Moved(_)) => require_version_of_mark(&connection)?,
        Err(error) => return Err(error.into()),
    }
    // The mark must be durable before the first row is written to the target.
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "ignore_check_constraints", true)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    Ok(connection)
}

/// A mark hides the version of the schema, and has it.
fn require_version_of_mark(connection: &Connection) -> Result<(), OpenError> {
    let version: i64 =
        connection.query_row("SELECT version FROM moved_to", [], |row| row.get(0))?;
    if version == schema::newest() {
        return Ok(());
    }
    Err(OpenError::Unusable(format!(
        "its move was begun by a program with schema version {version}, and this one has {}: \
         complete it with that program",
        schema::newest()
    )))
}
