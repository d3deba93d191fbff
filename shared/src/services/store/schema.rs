//! The database schema: numbered migrations, applied by whichever process starts first.

use rusqlite::{Connection, TransactionBehavior};
use thiserror::Error;

use super::rows;

/// Migration `n` takes a database from version `n - 1` to `n`; `user_version` holds the version.
const MIGRATIONS: [&str; 5] = [
    include_str!("../../../migrations/0001_requests.sql"),
    include_str!("../../../migrations/0002_leases.sql"),
    include_str!("../../../migrations/0003_deliveries.sql"),
    include_str!("../../../migrations/0004_internal_detail.sql"),
    include_str!("../../../migrations/0005_resends.sql"),
];

/// Marks a database file as ours: `StRq` in ASCII.
const APPLICATION_ID: i32 = 0x5374_5271;

/// Why a database is refused.
#[derive(Debug, Error)]
pub(super) enum SchemaError {
    #[error("belongs to another program (application_id {0:#x}); use another file")]
    AnotherProgram(i32),
    #[error("has tables but is not a database of this service; use another file")]
    NotOurs,
    #[error("has schema version {found}; this version supports {known}: run a newer version")]
    TooNew { found: usize, known: usize },
    #[error("{0}")]
    Sqlite(#[from] rusqlite::Error),
}

/// Refuses another program's database and a newer schema. Writes nothing.
pub(super) fn check(connection: &Connection) -> Result<(), SchemaError> {
    let application = integer(connection, "application_id")?;
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    match application {
        APPLICATION_ID => {}
        0 if tables == 0 => return Ok(()), // new: the first migration sets the application_id
        // 0 is SQLite's default. These tables belong to a program that sets no id.
        0 => return Err(SchemaError::NotOurs),
        other => return Err(SchemaError::AnotherProgram(other)),
    }
    let found = version(connection)?;
    if found > MIGRATIONS.len() {
        return Err(SchemaError::TooNew {
            found,
            known: MIGRATIONS.len(),
        });
    }
    Ok(())
}

/// Migrates the database to the newest version, in one transaction.
pub(super) fn migrate(connection: &mut Connection) -> Result<(), SchemaError> {
    // Without the write lock: an ordinary start then waits for no writer.
    if version(connection)? == MIGRATIONS.len() {
        return Ok(());
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Another process may have migrated while this one waited for the lock.
    check(&transaction)?;
    for migration in &MIGRATIONS[version(&transaction)?..] {
        transaction.execute_batch(migration)?;
    }
    // Both are in the file's header and commit with the transaction, so a crash leaves no database
    // that is only half marked.
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", rows::integer(MIGRATIONS.len()))?;
    transaction.commit()?;
    Ok(())
}

fn version(connection: &Connection) -> Result<usize, SchemaError> {
    Ok(usize::try_from(integer(connection, "user_version")?).unwrap_or(0))
}

fn integer(connection: &Connection, pragma: &str) -> rusqlite::Result<i32> {
    connection.pragma_query_value(None, pragma, |row| row.get(0))
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::{MIGRATIONS, check, migrate, version};

    #[test]
    fn a_new_database_is_migrated_exactly_once() {
        let mut db = Connection::open_in_memory().unwrap();
        migrate(&mut db).unwrap();
        let id: String = db
            .query_row("SELECT id FROM store", [], |row| row.get(0))
            .unwrap();
        migrate(&mut db).unwrap();
        let after: String = db
            .query_row("SELECT id FROM store", [], |row| row.get(0))
            .unwrap();
        assert_eq!((version(&db).unwrap(), id.len()), (MIGRATIONS.len(), 32));
        assert_eq!(id, after);
    }

    #[test]
    fn another_programs_database_is_refused() {
        let db = Connection::open_in_memory().unwrap();
        db.execute_batch("CREATE TABLE theirs (x)").unwrap();
        assert!(
            check(&db)
                .unwrap_err()
                .to_string()
                .contains("not a database of this service")
        );
        db.pragma_update(None, "application_id", 7).unwrap();
        assert!(
            check(&db)
                .unwrap_err()
                .to_string()
                .contains("another program")
        );
    }

    #[test]
    fn a_newer_schema_is_refused() {
        let mut db = Connection::open_in_memory().unwrap();
        migrate(&mut db).unwrap();
        db.pragma_update(None, "user_version", 99).unwrap();
        assert!(
            check(&db)
                .unwrap_err()
                .to_string()
                .contains("schema version 99")
        );
    }
}
