//! The database schema: numbered migrations, applied by whichever process starts first.

mod restored;

use rusqlite::{Connection, TransactionBehavior};
use thiserror::Error;

use super::{columns, moved};

/// Migration `n` takes a database from version `n - 1` to `n`; `user_version` holds the version.
const MIGRATIONS: [&str; 26] = [
    include_str!("../../../../migrations/sqlite/0001_requests.sql"),
    include_str!("../../../../migrations/sqlite/0002_leases.sql"),
    include_str!("../../../../migrations/sqlite/0003_deliveries.sql"),
    include_str!("../../../../migrations/sqlite/0004_internal_detail.sql"),
    include_str!("../../../../migrations/sqlite/0005_resends.sql"),
    include_str!("../../../../migrations/sqlite/0006_health.sql"),
    include_str!("../../../../migrations/sqlite/0007_origins.sql"),
    include_str!("../../../../migrations/sqlite/0008_attempt_claims.sql"),
    include_str!("../../../../migrations/sqlite/0009_clock.sql"),
    include_str!("../../../../migrations/sqlite/0010_redeliveries.sql"),
    include_str!("../../../../migrations/sqlite/0011_fair_shares.sql"),
    include_str!("../../../../migrations/sqlite/0012_idempotency_keys.sql"),
    include_str!("../../../../migrations/sqlite/0013_list.sql"),
    include_str!("../../../../migrations/sqlite/0014_cancel.sql"),
    include_str!("../../../../migrations/sqlite/0015_retention.sql"),
    include_str!("../../../../migrations/sqlite/0016_bodies.sql"),
    include_str!("../../../../migrations/sqlite/0017_admission.sql"),
    include_str!("../../../../migrations/sqlite/0018_operators.sql"),
    include_str!("../../../../migrations/sqlite/0019_erase.sql"),
    include_str!("../../../../migrations/sqlite/0020_compatibility.sql"),
    include_str!("../../../../migrations/sqlite/0021_resumption.sql"),
    include_str!("../../../../migrations/sqlite/0022_ended_long.sql"),
    include_str!("../../../../migrations/sqlite/0023_handlers.sql"),
    include_str!("../../../../migrations/sqlite/0024_breakers.sql"),
    include_str!("../../../../migrations/sqlite/0025_cheaper_writes.sql"),
    include_str!("../../../../migrations/sqlite/0026_worker_reports.sql"),
];

/// The oldest schema version whose programs can work with the newest one: they may start on it. A
/// release sets it to the version of the previous release, so that a process of that one can start
/// again during the upgrade. Adding a migration leaves it alone; raising it shuts out the releases
/// below: `docs/ARCHITECTURE.md`, Rolling upgrades. Programs older than 20 don't read it.
const OLDEST: usize = 20;

/// Marks a database file as ours: `StRq` in ASCII.
const APPLICATION_ID: i32 = 0x5374_5271;

/// Why a database is refused.
#[derive(Debug, Error)]
pub(super) enum SchemaError {
    #[error("belongs to another program (application_id {0:#x}); use another file")]
    AnotherProgram(i32),
    #[error("has tables but is not a database of this service; use another file")]
    NotOurs,
    #[error("has no schema version and not the tables of this service: restore it from a backup")]
    Unmarked,
    #[error("{}", moved::refusal(.0))]
    Moved(String),
    #[error("has schema version {found}; this version supports {known}: run a newer version")]
    TooNew { found: usize, known: usize },
    #[error("{0}")]
    Sqlite(#[from] rusqlite::Error),
}

/// What a file contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// The migrations that have been applied; 0 for a new file.
    version: usize,
    /// Whether the header says so. A file that was made from a dump has no such marks.
    is_marked: bool,
}

impl Found {
    /// Whether a start has nothing to write.
    pub(super) fn is_current(self) -> bool {
        // A newer schema is one that works with this program: others are refused.
        self.is_marked && self.version >= MIGRATIONS.len()
    }

    /// Whether the file has no tables yet.
    pub(super) fn is_new(self) -> bool {
        self.version == 0
    }

    /// Whether this is the very schema of this program.
    ///
    /// # Errors
    /// It is not, with what to do.
    #[cfg(feature = "postgres")]
    pub(super) fn require_exactly_this(self) -> Result<(), String> {
        let (found, known) = (self.version, MIGRATIONS.len());
        if found > known {
            return Err(SchemaError::TooNew { found, known }.to_string());
        }
        if self.is_current() {
            Ok(())
        } else {
            Err(self.needs_a_start())
        }
    }

    /// Why a program that must not migrate can't use a file that is not current.
    pub(super) fn needs_a_start(self) -> String {
        const START: &str = "start the API or a worker of this version, which migrates it";
        let (found, known) = (self.version, MIGRATIONS.len());
        match self {
            Self { version: 0, .. } => format!("is empty; {START}"),
            Self {
                is_marked: false, ..
            } => format!("was made from a dump and not used since; {START}"),
            _ => format!(
                "has schema version {found}, and this program needs {known}; {START}, or use the \
                 program of the version that runs"
            ),
        }
    }
}

/// The version of this program's schema.
#[cfg(feature = "postgres")]
pub(super) fn newest() -> i64 {
    columns::integer(MIGRATIONS.len())
}

/// Identifies the file. Refuses another program's database, and a newer schema that does not work
/// with this program. Writes nothing.
pub(super) fn check(connection: &Connection) -> Result<Found, SchemaError> {
    // One snapshot: between two statements, another process could create the tables and the marks.
    let snapshot = connection.unchecked_transaction()?;
    identify(&snapshot)
}

/// Identifies and migrates the database to the newest version, in one transaction.
pub(super) fn migrate(connection: &mut Connection) -> Result<(), SchemaError> {
    // SQLite checks each row of a STRICT table whenever a column is added. Most of that time goes
    // to the CHECKs, which the rows have passed.
    connection.pragma_update(None, "ignore_check_constraints", true)?;
    let migrated = apply(connection);
    connection.pragma_update(None, "ignore_check_constraints", false)?;
    migrated
}

fn apply(connection: &mut Connection) -> Result<(), SchemaError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Again, under the write lock: another process may have been first.
    let found = identify(&transaction)?;
    if found.is_current() {
        return Ok(());
    }
    for migration in MIGRATIONS.iter().skip(found.version) {
        transaction.execute_batch(migration)?;
    }
    // Lost with its page, if sqlite3's `.recover` has made the file. A new id is safe: the old
    // one's notifications are ignored, and their jobs are found in the table.
    transaction.execute_batch(
        "INSERT INTO store (id) SELECT lower(hex(randomblob(16))) WHERE NOT EXISTS (SELECT 1 FROM store)",
    )?;
    // Never lowered: jobs of handlers have raised it, also in a database that is restored.
    transaction.execute(
        "UPDATE store SET oldest = max(coalesce(oldest, 0), ?1)",
        [columns::integer(OLDEST)],
    )?;
    // Both are in the file's header and commit with the transaction, so a crash leaves no database
    // that is only half marked.
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", columns::integer(MIGRATIONS.len()))?;
    transaction.commit()?;
    if found.version > 0 && !found.is_marked {
        tracing::info!(
            "the database was restored from a dump; it is marked as this service's again"
        );
    }
    Ok(())
}

/// The caller holds a transaction: all of this must be of one snapshot.
fn identify(connection: &Connection) -> Result<Found, SchemaError> {
    let application = integer(connection, "application_id")?;
    if application != APPLICATION_ID && application != 0 {
        return Err(SchemaError::AnotherProgram(application));
    }
    // Before the version, which is one that no program knows then.
    if let Some(target) = moved::target(connection)? {
        return Err(SchemaError::Moved(target));
    }
    let marked = usize::try_from(integer(connection, "user_version")?).unwrap_or(0);
    let is_marked = application == APPLICATION_ID && marked > 0;
    let version = if is_marked {
        Some(marked)
    } else {
        version_by_tables(connection)?
    };
    match version {
        Some(_) if marked > MIGRATIONS.len() && !works_with_this_program(connection)? => {
            Err(SchemaError::TooNew {
                found: marked,
                known: MIGRATIONS.len(),
            })
        }
        // A file that counts versions, but not ours.
        Some(0) if marked > 0 => Err(SchemaError::NotOurs),
        Some(version) => Ok(Found { version, is_marked }),
        // 0 is SQLite's default. These tables belong to a program that sets no id.
        None if application == 0 => Err(SchemaError::NotOurs),
        None => Err(SchemaError::Unmarked),
    }
}

/// Whether a newer schema says that this program's version can work with it.
fn works_with_this_program(connection: &Connection) -> rusqlite::Result<bool> {
    let has_tables = integer(connection, "application_id")? == APPLICATION_ID
        && connection.table_exists(None, "store")?;
    if !has_tables {
        return Ok(false);
    }
    // Without a row, the page of the store's id is damaged.
    let oldest = connection.query_row("SELECT max(oldest) FROM store", [], |row| {
        row.get::<_, Option<i64>>(0)
    })?;
    Ok(oldest.is_some_and(|oldest| oldest <= columns::integer(MIGRATIONS.len())))
}

/// A dump contains neither of the marks, so our tables have to be known by their columns.
fn version_by_tables(connection: &Connection) -> rusqlite::Result<Option<usize>> {
    let objects: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if objects == 0 {
        return Ok(Some(0));
    }
    restored::version(connection)
}

fn integer(connection: &Connection, pragma: &str) -> rusqlite::Result<i32> {
    connection.pragma_query_value(None, pragma, |row| row.get(0))
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::{super::lease, Found, MIGRATIONS, OLDEST, check, integer, migrate};

    fn refusal(db: &Connection) -> String {
        check(db).unwrap_err().to_string()
    }

    fn migrated() -> Connection {
        let mut db = Connection::open_in_memory().unwrap();
        migrate(&mut db).unwrap();
        db
    }

    fn id(db: &Connection) -> String {
        let id = db.query_row("SELECT id FROM store", [], |row| row.get(0));
        id.unwrap()
    }

    #[test]
    fn a_new_database_is_migrated_exactly_once() {
        let mut db = migrated();
        let before = id(&db);
        migrate(&mut db).unwrap();
        assert_eq!((id(&db).len(), id(&db)), (32, before));
        assert!(check(&db).unwrap().is_current());
    }

    /// The first version whose programs read `store.oldest`.
    const READS_OLDEST: usize = 20;

    #[test]
    fn the_oldest_version_that_may_start_is_one_that_reads_so_and_is_stored() {
        const { assert!(READS_OLDEST <= OLDEST && OLDEST <= MIGRATIONS.len()) };
        let db = migrated();
        let stored = db.query_row("SELECT oldest FROM store", [], |row| row.get::<_, i64>(0));
        assert_eq!(usize::try_from(stored.unwrap()), Ok(OLDEST));
        assert!(MIGRATIONS[READS_OLDEST - 1].contains("ADD COLUMN oldest"));
    }

    /// The first migration after those that took something away.
    const ONLY_ADDS: usize = 11;

    #[test]
    fn migrations_only_add() {
        for (index, migration) in MIGRATIONS.iter().enumerate().skip(ONLY_ADDS - 1) {
            let statements = migration.lines().filter(|line| !line.starts_with("--"));
            for line in statements {
                // What the previous release no longer used may go, and what is replaced: name it.
                let may_go = [
                    "DROP INDEX suspects;",
                    "DROP INDEX waiting_by_origin;",
                    "DROP TRIGGER due_of_status;",
                ];
                let takes = ["DROP ", "RENAME ", "DELETE FROM "];
                assert!(
                    may_go.contains(&line) || !takes.iter().any(|word| line.contains(word)),
                    "migration {}: {line}",
                    index + 1
                );
            }
        }
    }

    #[test]
    fn another_programs_database_is_refused() {
        let db = Connection::open_in_memory().unwrap();
        db.execute_batch("CREATE TABLE theirs (x)").unwrap();
        assert!(refusal(&db).contains("not a database of this service"));
        db.pragma_update(None, "application_id", 7).unwrap();
        assert!(refusal(&db).contains("another program"));
    }

    #[test]
    fn a_newer_schema_is_refused_also_in_an_empty_database() {
        let newer = migrated();
        newer.execute_batch("UPDATE store SET oldest = 98").unwrap();
        for db in [newer, Connection::open_in_memory().unwrap()] {
            db.pragma_update(None, "user_version", 99).unwrap();
            assert!(refusal(&db).contains("schema version 99"));
            let mut db = db;
            assert!(migrate(&mut db).is_err());
        }
        let empty = Connection::open_in_memory().unwrap();
        empty.pragma_update(None, "user_version", 2).unwrap();
        assert!(refusal(&empty).contains("not a database of this service"));
    }

    #[test]
    fn a_newer_schema_that_works_with_this_version_is_used_as_it_is() {
        let mut db = migrated();
        db.pragma_update(None, "user_version", 99).unwrap();
        let newest = format!("UPDATE store SET oldest = {}", MIGRATIONS.len());
        db.execute_batch(&newest).unwrap();
        assert!(check(&db).unwrap().is_current());
        migrate(&mut db).unwrap();
        assert_eq!(integer(&db, "user_version").unwrap(), 99);
        db.execute_batch("UPDATE store SET oldest = oldest + 1")
            .unwrap();
        assert!(refusal(&db).contains("schema version 99"));
        db.execute_batch("DELETE FROM store").unwrap();
        assert!(refusal(&db).contains("schema version 99"));
    }

    #[test]
    fn once_a_job_of_a_handler_is_stored_the_release_before_starts_no_more() {
        let mut db = migrated();
        let starts = |db: &Connection, version: i64| {
            let oldest = "SELECT max(oldest) <= ?1 FROM store";
            db.query_row(oldest, [version], |row| row.get::<_, bool>(0))
                .unwrap()
        };
        assert!(starts(&db, 20));
        assert!(lease::shut_out_release_before(&db).unwrap());
        assert!(!starts(&db, 20) && starts(&db, 23));
        // Nor after a restore from a dump, which has no marks.
        db.pragma_update(None, "application_id", 0).unwrap();
        db.pragma_update(None, "user_version", 0).unwrap();
        migrate(&mut db).unwrap();
        assert!(!starts(&db, 20) && starts(&db, 23));
    }

    #[test]
    fn a_database_without_its_marks_is_known_by_its_tables_at_every_version() {
        for version in 1..=MIGRATIONS.len() {
            let mut db = Connection::open_in_memory().unwrap();
            db.execute_batch(&MIGRATIONS[..version].concat()).unwrap();
            db.execute_batch("CREATE TABLE lost_and_found (x)").unwrap();
            let before = id(&db);
            let is_marked = false;
            assert_eq!(check(&db).unwrap(), Found { version, is_marked });
            migrate(&mut db).unwrap();
            assert!(check(&db).unwrap().is_current());
            assert_eq!(id(&db), before);
        }
        let mut db = migrated();
        // As `.recover` leaves it if the page of the id was damaged.
        db.execute_batch("PRAGMA application_id = 0; DELETE FROM store")
            .unwrap();
        migrate(&mut db).unwrap();
        assert_eq!(id(&db).len(), 32);
    }

    #[test]
    fn tables_that_only_resemble_ours_are_refused_and_stay_unmarked() {
        for change in [
            "ALTER TABLE requests ADD COLUMN of_a_newer_version TEXT",
            "ALTER TABLE requests DROP COLUMN completed_at",
            "DROP TABLE store",
            "DROP INDEX requests_by_client",
        ] {
            let mut db = migrated();
            db.execute_batch("PRAGMA application_id = 0; PRAGMA user_version = 0")
                .unwrap();
            db.execute_batch(change).unwrap();
            assert!(
                refusal(&db).contains("not a database of this service"),
                "{change}"
            );
            assert!(migrate(&mut db).is_err());
            assert_eq!(integer(&db, "application_id").unwrap(), 0);
        }
        let db = Connection::open_in_memory().unwrap();
        let marked = "PRAGMA application_id = 0x53745271; CREATE TABLE theirs (x)";
        db.execute_batch(marked).unwrap();
        assert!(refusal(&db).contains("not the tables of this service"));
    }
}
