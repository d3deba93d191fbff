//! The mark of a store that was moved to another database: nothing is written here any more.
//!
//! A row of the table `moved_to` says where it went, so that a dump has the mark, too. A trigger on
//! each other table refuses every write, from the commit of the mark on, also of a process that has
//! the database open, and of the previous release: a statement sees a change of the schema when it
//! begins. And the schema's version is one that no program knows, so that the previous release,
//! which does not know the table, does not start. Without the mark, nothing of this costs anything.

use rusqlite::{Connection, OptionalExtension, ffi};

/// The table.
pub(super) const TABLE: &str = "moved_to";

/// How the text of each refusal begins. The target follows.
const REFUSAL: &str = "this store was moved to ";

/// Where the store was moved; `None` if it was not. The caller holds a transaction.
pub(super) fn target(connection: &Connection) -> rusqlite::Result<Option<String>> {
    if !connection.table_exists(None, TABLE)? {
        return Ok(None);
    }
    connection
        .query_row("SELECT target FROM moved_to", [], |row| row.get(0))
        .optional()
}

/// What a process says that finds the mark at its start.
pub(super) fn refusal(target: &str) -> String {
    format!("{REFUSAL}{target}: set DB_URL to that database")
}

/// Whether the mark has refused this write.
pub(super) fn has_refused(error: &rusqlite::Error) -> bool {
    matches!(error, rusqlite::Error::SqliteFailure(code, Some(text))
        if code.extended_code == ffi::SQLITE_CONSTRAINT_TRIGGER && text.starts_with(REFUSAL))
}

#[cfg(feature = "postgres")]
pub(in crate::services::store) use self::marking::Mark;
#[cfg(feature = "postgres")]
pub(super) use self::marking::{complete, find, set};

#[cfg(feature = "postgres")]
mod marking {
    //! Setting the mark, and reading it.

    use rusqlite::{Connection, OptionalExtension, params};

    use super::{
        super::{clock::StoreTime, columns},
        TABLE, refusal,
    };

    /// A schema version and an `oldest` that no program knows.
    const NEVER: i64 = 1_000_000_000;

    /// The mark of a store.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub(in crate::services::store) struct Mark {
        /// The random id of the move.
        pub(in crate::services::store) id: String,
        /// The target, without a password.
        pub(in crate::services::store) target: String,
        /// When it was set, by the store's clock …
        pub(in crate::services::store) store_time: i64,
        /// … and by the wall clock: Unix milliseconds.
        pub(in crate::services::store) wall: i64,
        /// Whether the target has everything.
        pub(in crate::services::store) is_complete: bool,
    }

    /// The mark, if there is one.
    pub(in super::super) fn find(connection: &Connection) -> rusqlite::Result<Option<Mark>> {
        if !connection.table_exists(None, TABLE)? {
            return Ok(None);
        }
        connection
            .query_row(
                "SELECT id, target, store_time, wall, completed IS NOT NULL FROM moved_to",
                [],
                |row| {
                    Ok(Mark {
                        id: row.get(0)?,
                        target: row.get(1)?,
                        store_time: row.get(2)?,
                        wall: row.get(3)?,
                        is_complete: row.get(4)?,
                    })
                },
            )
            .optional()
    }

    /// Releases what workers hold, and sets the mark: all in the caller's transaction.
    ///
    /// A claim keeps its number, and the row has no owner: so no worker writes under that number
    /// any more, neither here nor in the target. Each has an event, since the attempt under way may
    /// be made twice.
    pub(in super::super) fn set(tx: &Connection, mark: &Mark) -> rusqlite::Result<()> {
        for table in ["requests", "redeliveries"] {
            tx.execute(
                &format!(
                    "INSERT INTO events (request_id, number, at, event, claim)
                     SELECT id, 1 + (SELECT coalesce(max(number), 0) FROM events
                                     WHERE request_id = held.id),
                         ?1, 'claim_lost', claim
                     FROM {table} AS held WHERE status = 'PROCESSING'"
                ),
                [columns::time(jiff::Timestamp::now())],
            )?;
            tx.execute(
                &format!(
                    "UPDATE {table} SET status = 'PENDING', owner = NULL, due = ?1
                     WHERE status = 'PROCESSING'"
                ),
                [StoreTime::stored(mark.store_time).millis()],
            )?;
        }
        tx.execute_batch("DELETE FROM workers; DELETE FROM cancellations")?;
        let before: i64 = tx.pragma_query_value(None, "user_version", |row| row.get(0))?;
        tx.execute_batch(
            "CREATE TABLE moved_to (
                 one        INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
                 id         TEXT    NOT NULL,  -- of the move
                 target     TEXT    NOT NULL,  -- without the password
                 store_time INTEGER NOT NULL,  -- when the mark was set, by the store's clock …
                 wall       INTEGER NOT NULL,  -- … and by the wall clock (Unix ms)
                 version    INTEGER NOT NULL,  -- the schema's, before the mark
                 oldest     INTEGER NOT NULL,
                 completed  TEXT               -- when the target had everything
             ) STRICT, WITHOUT ROWID",
        )?;
        tx.execute(
            "INSERT INTO moved_to (one, id, target, store_time, wall, version, oldest)
             SELECT 1, ?1, ?2, ?3, ?4, ?5, max(oldest) FROM store",
            params![mark.id, mark.target, mark.store_time, mark.wall, before],
        )?;
        tx.execute("UPDATE store SET oldest = ?1", [NEVER])?;
        refuse_writes(tx, &mark.target)?;
        tx.pragma_update(None, "user_version", NEVER)
    }

    fn refuse_writes(tx: &Connection, target: &str) -> rusqlite::Result<()> {
        // A literal: RAISE takes nothing else in older versions, such as that of `sqlite3`.
        let text = refusal(target).replace('\'', "''");
        let tables: Vec<String> = tx
            .prepare(
                "SELECT name FROM sqlite_schema
                 WHERE type = 'table' AND name NOT GLOB 'sqlite_*' AND name <> ?1",
            )?
            .query_map([TABLE], |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        for table in tables {
            let table = table.replace('"', "\"\"");
            for write in ["INSERT", "UPDATE", "DELETE"] {
                tx.execute_batch(&format!(
                    "CREATE TRIGGER \"moved_{write}_{table}\" BEFORE {write} ON \"{table}\"
                     BEGIN SELECT RAISE(ABORT, '{text}'); END"
                ))?;
            }
        }
        Ok(())
    }

    /// Notes that the target has everything.
    pub(in super::super) fn complete(connection: &Connection) -> rusqlite::Result<()> {
        let now = columns::time(jiff::Timestamp::now());
        connection
            .execute(
                "UPDATE moved_to SET completed = ?1 WHERE completed IS NULL",
                [now],
            )
            .map(drop)
    }
}
