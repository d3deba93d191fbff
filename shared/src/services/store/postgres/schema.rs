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
const MIGRATIONS: [&str; 2] = [
    include_str!("../../../../migrations/postgres/0001_schema.sql"),
    include_str!("../../../../migrations/postgres/0002_worker_reports.sql"),
];

/// The oldest schema version whose programs can work with the newest one.
const OLDEST: i32 = 1;

/// The key of the advisory lock under which a process migrates: `StRq` in ASCII.
const LOCK: i64 = 0x5374_5271;

/// Why no service may use a database that a store is moved to.
const INCOMPLETE: &str = "a store is being moved to this database, and not all of it is there: run \
    `storm-api migrate` to its end";

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

/// The oldest server that is supported, as `server_version_num`.
const OLDEST_SERVER: i32 = 140_000;

/// Which of our tables are in the schema in which the role creates tables. Another schema of the
/// `search_path` may have those of another program, or of another store.
pub(super) struct Tables {
    pub(super) store: bool,
    pub(super) requests: bool,
    pub(super) moved_in: bool,
    /// That schema has none of them, and the second one, which comes later in the path, has some.
    elsewhere: Option<[String; 2]>,
    /// The server's version, if it is too old.
    old_server: Option<String>,
}

impl Tables {
    /// Those that there are.
    pub(super) async fn of(session: &Session) -> Result<Self, Error> {
        const FIND: &str = "
            WITH here AS (
                SELECT relname FROM pg_class JOIN pg_namespace AS n ON n.oid = relnamespace
                WHERE nspname = current_schema() AND relname IN ('store', 'requests', 'moved_in')
            )
            SELECT 'store' IN (SELECT relname FROM here),
                'requests' IN (SELECT relname FROM here),
                'moved_in' IN (SELECT relname FROM here),
                current_schema()::text,
                (SELECT nspname::text FROM pg_class JOIN pg_namespace AS n ON n.oid = relnamespace
                 WHERE pg_class.oid = to_regclass('store') AND to_regclass('requests') IS NOT NULL
                   AND NOT EXISTS (SELECT FROM here)),
                CASE WHEN current_setting('server_version_num')::int < $1
                    THEN current_setting('server_version') END";
        let row = session.find(FIND, &[(&OLDEST_SERVER, Type::INT4)]).await?;
        let row = row.ok_or_else(|| Error::Row("the catalog says nothing".to_owned()))?;
        let (here, other): (Option<String>, Option<String>) = (row.try_get(3)?, row.try_get(4)?);
        Ok(Self {
            store: row.try_get(0)?,
            requests: row.try_get(1)?,
            moved_in: row.try_get(2)?,
            elsewhere: here.zip(other).map(|(here, other)| [here, other]),
            old_server: row.try_get(5)?,
        })
    }

    /// Why the schema is not used, whatever it holds.
    pub(super) fn problem(&self) -> Option<String> {
        if let Some(version) = &self.old_server {
            return Some(format!(
                "the server is PostgreSQL {version}; this program needs {} or newer",
                OLDEST_SERVER / 10_000
            ));
        }
        let [here, other] = self.elsewhere.as_ref()?;
        Some(format!(
            "the schema {here} has no tables of the service, and {other}, which comes later in the \
             search_path of the role, has tables `store` and `requests`: let the search_path be \
             the schema of the store alone (ALTER ROLE ... SET search_path = ...)"
        ))
    }
}

/// The version of the schema, 0 if there is none; or why this program can't work with it.
async fn version(session: &Session) -> Result<Result<i32, String>, Error> {
    let tables = Tables::of(session).await?;
    if let Some(problem) = tables.problem() {
        return Ok(Err(problem));
    }
    if tables.moved_in && !is_complete(session).await? {
        return Ok(Err(INCOMPLETE.to_owned()));
    }
    match (tables.store, tables.requests) {
        (false, false) => return Ok(Ok(0)),
        (false, true) => {
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

/// Whether all of the store that is moved here is there.
async fn is_complete(session: &Session) -> Result<bool, Error> {
    let done = session.find("SELECT done IS NOT NULL FROM moved_in", &[]);
    Ok(match done.await? {
        Some(row) => row.try_get(0)?,
        None => false,
    })
}

/// Creates the tables in an empty database, for the store `id`. The caller has [`lock`].
pub(super) async fn create(session: &Session, id: &str) -> Result<(), Error> {
    upgrade(session, 0, id).await.map(drop)
}

/// Brings the tables from `version` to the newest one. Returns the store's id, which is `new_id` if
/// it has none yet.
async fn upgrade(session: &Session, version: i32, new_id: &str) -> Result<String, Error> {
    let applied = usize::try_from(version).unwrap_or(0);
    for migration in MIGRATIONS.iter().skip(applied) {
        session.execute_all(migration).await?;
    }
    let note = "INSERT INTO store (id, version, oldest) VALUES ($1, $2, $3)
         ON CONFLICT (one) DO UPDATE SET version = greatest(store.version, excluded.version),
             oldest = greatest(store.oldest, excluded.oldest)
         RETURNING id";
    let values = [
        (&new_id as _, Type::TEXT),
        (&newest() as _, Type::INT4),
        (&OLDEST as _, Type::INT4),
    ];
    let noted = session.find(note, &values).await?;
    Ok(noted.ok_or_else(missing)?.try_get(0)?)
}

/// Waits for others that create or migrate the tables, until the end of the transaction.
pub(super) async fn lock(session: &Session) -> Result<(), Error> {
    let lock = "SELECT pg_advisory_xact_lock($1)";
    session.query(lock, &[(&LOCK, Type::INT8)]).await.map(drop)
}

fn missing() -> Error {
    Error::Row("the row of the store is missing".to_owned())
}

/// `id` is that of a new store.
async fn apply(session: Session, id: String) -> Result<Found, Error> {
    // Two processes that start at once must not both create the tables.
    lock(&session).await?;
    let version = match version(&session).await? {
        Ok(version) => version,
        Err(why) => return Ok(Found::Unusable(why)),
    };
    let id = upgrade(&session, version, &id).await?;
    create_functions(&session).await?;
    Ok(Found::Current(id))
}

/// Creates the functions of this release that are not there: in the schema of the tables, where a
/// call finds them first. Those of other releases stay.
async fn create_functions(session: &Session) -> Result<(), Error> {
    let functions: [&Function; 4] = [
        &accept::INSERT,
        claim::function(Work::Job),
        claim::function(Work::Redelivery),
        &settle::SETTLE,
    ];
    let signatures = functions.map(Function::signature);
    let find = "
        SELECT quote_ident(current_schema()),
            to_regprocedure(quote_ident(current_schema()) || '.' || signature) IS NULL
        FROM unnest($1) WITH ORDINALITY AS it (signature, place) ORDER BY place";
    let rows = session
        .query(find, &[(&&signatures[..], Type::TEXT_ARRAY)])
        .await?;
    for (function, row) in functions.iter().zip(rows) {
        if row.try_get(1)? {
            let create = function.definition(row.try_get(0)?);
            session.execute_all(&create).await?;
        }
    }
    Ok(())
}

/// The version of this program's schema.
pub(super) fn newest() -> i32 {
    i32::try_from(MIGRATIONS.len()).unwrap_or(i32::MAX)
}
