//! The database schema: numbered migrations, applied by whichever process starts first.

use tokio_postgres::types::Type;

use super::{
    accept, claim,
    error::Error,
    function::Function,
    session::{Session, Sessions},
    settle,
};
use crate::services::store::Work;

/// Migration `n` takes a database from version `n - 1` to `n`; `store.version` holds the version.
const MIGRATIONS: [&str; 1] = [include_str!(
    "../../../../migrations/postgres/0001_schema.sql"
)];

/// The oldest schema version whose programs can work with the newest one.
const OLDEST: i32 = 1;

/// The key of the advisory lock under which a process migrates: `StRq` in ASCII.
const LOCK: i64 = 0x5374_5271;

/// What a start has found.
pub(super) enum Found {
    /// A database that this program can work with, and its store's id.
    Current(String),
    /// Why it can't.
    Unusable(String),
}

/// Migrates the database to the newest version, in one transaction.
pub(super) async fn migrate(sessions: &Sessions) -> Result<Found, Error> {
    let id = uuid::Uuid::new_v4().simple().to_string();
    sessions
        .try_once(&|session| apply(session, id.clone()))
        .await
}

/// The store's id in a database that is there and current. Changes nothing.
pub(super) async fn find(sessions: &Sessions) -> Result<Found, Error> {
    sessions.try_once(&|session| look(session)).await
}

async fn look(session: Session) -> Result<Found, Error> {
    const START: &str = "start the API or a worker of this version";
    let known = newest();
    match version(&session).await? {
        Ok(0) => Ok(Found::Unusable(format!(
            "the database is empty; {START}, which creates the tables"
        ))),
        Ok(found) if found < known => Ok(Found::Unusable(format!(
            "the database has schema version {found}, and this program needs {known}; {START}, \
             which migrates it, or use the program of the version that runs"
        ))),
        Ok(_) => match session.find("SELECT id FROM store", &[]).await? {
            Some(row) => Ok(Found::Current(row.try_get(0)?)),
            None => Err(missing()),
        },
        Err(why) => Ok(Found::Unusable(why)),
    }
}

/// The version of the schema, 0 if there is none; or why this program can't work with it.
async fn version(session: &Session) -> Result<Result<i32, String>, Error> {
    let is_new = "SELECT to_regclass('store') IS NULL, to_regclass('requests') IS NULL";
    let (has_no_store, has_no_requests) = match session.find(is_new, &[]).await? {
        Some(row) => (row.try_get(0)?, row.try_get(1)?),
        None => (true, true),
    };
    match (has_no_store, has_no_requests) {
        (true, true) => return Ok(Ok(0)),
        (true, false) => {
            return Ok(Err(
                "the database has a table `requests` that is not of this service; use another \
                 database"
                    .to_owned(),
            ));
        }
        _ => {}
    }
    let found = session.find("SELECT version, oldest FROM store", &[]);
    let Some(row) = found.await? else {
        return Ok(Ok(0));
    };
    let (version, oldest): (i32, i32) = (row.try_get(0)?, row.try_get(1)?);
    let known = newest();
    if version > known && oldest > known {
        return Ok(Err(format!(
            "the database has schema version {version}; this version supports {known}: run a newer \
             version"
        )));
    }
    Ok(Ok(version))
}

fn missing() -> Error {
    Error::Row("the row of the store is missing".to_owned())
}

/// `id` is that of a new store.
async fn apply(session: Session, id: String) -> Result<Found, Error> {
    // Two processes that start at once must not both create the tables.
    session
        .query("SELECT pg_advisory_xact_lock($1)", &[(&LOCK, Type::INT8)])
        .await?;
    let version = match version(&session).await? {
        Ok(version) => version,
        Err(why) => return Ok(Found::Unusable(why)),
    };
    for migration in MIGRATIONS
        .iter()
        .skip(usize::try_from(version).unwrap_or(0))
    {
        session.execute_all(migration).await?;
    }
    create_functions(&session).await?;
    let stored = session
        .find(
            "INSERT INTO store (id, version, oldest) VALUES ($1, $2, $3)
             ON CONFLICT (one) DO UPDATE SET version = greatest(store.version, excluded.version),
                 oldest = greatest(store.oldest, excluded.oldest)
             RETURNING id",
            &[
                (&id, Type::TEXT),
                (&newest(), Type::INT4),
                (&OLDEST, Type::INT4),
            ],
        )
        .await?;
    match stored {
        Some(row) => Ok(Found::Current(row.try_get(0)?)),
        None => Err(missing()),
    }
}

/// Creates the functions of this release that are not there. Those of others stay.
async fn create_functions(session: &Session) -> Result<(), Error> {
    let functions: [&Function; 4] = [
        &accept::INSERT,
        claim::function(Work::Job),
        claim::function(Work::Redelivery),
        &settle::SETTLE,
    ];
    let names = functions.map(Function::name);
    let missing =
        "SELECT to_regproc(name) IS NULL FROM unnest($1) WITH ORDINALITY AS it (name, place)
        ORDER BY place";
    let rows = session
        .query(missing, &[(&&names[..], Type::TEXT_ARRAY)])
        .await?;
    for (function, row) in functions.iter().zip(rows) {
        if row.try_get(0)? {
            session.execute_all(function.definition()).await?;
        }
    }
    Ok(())
}

fn newest() -> i32 {
    i32::try_from(MIGRATIONS.len()).unwrap_or(i32::MAX)
}
