//! The databases of tests that run a program: one for each test's folder.
//!
//! They are `SQLite` files in these folders. With `TEST_STORE=postgres` each is a new database of
//! the server at `TEST_POSTGRES` instead, and the tests must be built with the feature `postgres`.
//! Tests of what only one engine has are in modules with its name, and ask for it: see
//! [`folder_on_sqlite`].

#![allow(clippy::unused_async, reason = "async for engines behind a network")]

use std::{
    collections::BTreeMap,
    env,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use rusqlite::types::ValueRef;
use tempfile::TempDir;

#[cfg(feature = "postgres")]
use self::on_postgres::OnPostgres;

/// The databases by their folders.
static DATABASES: Mutex<BTreeMap<PathBuf, ProgramDatabase>> = Mutex::new(BTreeMap::new());

#[derive(Clone)]
enum ProgramDatabase {
    Sqlite(PathBuf),
    #[cfg(feature = "postgres")]
    Postgres(OnPostgres),
}

/// `DB_URL` of the database of this folder, which is made at the first call.
pub(crate) fn url(folder: &Path) -> String {
    match of(folder) {
        ProgramDatabase::Sqlite(file) => format!("sqlite:{}", file.display()),
        #[cfg(feature = "postgres")]
        ProgramDatabase::Postgres(database) => database.url(),
    }
}

/// A folder whose database is `SQLite`'s, whatever `TEST_STORE` says.
pub(crate) fn folder_on_sqlite() -> TempDir {
    let folder = TempDir::new().unwrap();
    let database = ProgramDatabase::Sqlite(folder.path().join("storm.db"));
    insert(folder, database)
}

/// A folder whose database is that at `url`, of a `PostgreSQL` server of the test's own.
#[cfg(feature = "postgres")]
pub(crate) fn folder_at(url: String) -> TempDir {
    let database = ProgramDatabase::Postgres(OnPostgres::at(url));
    insert(TempDir::new().unwrap(), database)
}

fn insert(folder: TempDir, database: ProgramDatabase) -> TempDir {
    let mut databases = DATABASES.lock().unwrap_or_else(PoisonError::into_inner);
    databases.insert(folder.path().to_owned(), database);
    folder
}

fn of(folder: &Path) -> ProgramDatabase {
    let mut databases = DATABASES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = databases.get(folder) {
        return known.clone();
    }
    // Those of tests that are over: nothing else tells their end.
    databases.retain(|folder, _| folder.exists());
    let database = fresh(folder);
    databases.insert(folder.to_owned(), database.clone());
    database
}

fn fresh(folder: &Path) -> ProgramDatabase {
    let store = env::var("TEST_STORE").unwrap_or_default();
    match store.as_str() {
        "" | "sqlite" => ProgramDatabase::Sqlite(folder.join("storm.db")),
        #[cfg(feature = "postgres")]
        "postgres" => ProgramDatabase::Postgres(OnPostgres::fresh()),
        #[cfg(not(feature = "postgres"))]
        "postgres" => panic!("TEST_STORE=postgres: build the tests with --features postgres"),
        _ => panic!("TEST_STORE={store}: expected sqlite or postgres"),
    }
}

/// Another program's connection to a database.
pub(crate) enum Direct {
    Sqlite(rusqlite::Connection),
    #[cfg(feature = "postgres")]
    Postgres(tokio_postgres::Client),
}

/// A row, as text.
pub(crate) type Row = Vec<Option<String>>;

impl Direct {
    /// Connects to the database of this folder.
    pub(crate) async fn open(folder: &Path) -> Self {
        match of(folder) {
            ProgramDatabase::Sqlite(file) => {
                let connection = rusqlite::Connection::open(file).unwrap();
                connection.busy_timeout(Duration::from_secs(30)).unwrap();
                Self::Sqlite(connection)
            }
            #[cfg(feature = "postgres")]
            ProgramDatabase::Postgres(database) => Self::Postgres(database.connect().await),
        }
    }

    /// What of these the engine understands.
    pub(crate) fn either(&self, sqlite: &'static str, postgres: &'static str) -> &'static str {
        let _ = postgres;
        match self {
            Self::Sqlite(_) => sqlite,
            #[cfg(feature = "postgres")]
            Self::Postgres(_) => postgres,
        }
    }

    /// Runs statements.
    pub(crate) async fn run(&self, sql: &str) {
        match self {
            Self::Sqlite(database) => database.execute_batch(sql).unwrap(),
            #[cfg(feature = "postgres")]
            Self::Postgres(client) => client.batch_execute(sql).await.unwrap(),
        }
    }

    /// Runs a statement that changes `rows` rows.
    pub(crate) async fn change(&self, rows: u64, sql: &str) {
        let changed: u64 = match self {
            Self::Sqlite(database) => database.execute(sql, []).unwrap().try_into().unwrap(),
            #[cfg(feature = "postgres")]
            Self::Postgres(client) => client.execute(sql, &[]).await.unwrap(),
        };
        assert_eq!(changed, rows, "{sql}");
    }

    /// The rows of a query.
    pub(crate) async fn rows(&self, sql: &str) -> Vec<Row> {
        match self {
            Self::Sqlite(database) => {
                let mut query = database.prepare(sql).unwrap();
                let columns = query.column_count();
                let rows = query.query_map([], |row| {
                    (0..columns)
                        .map(|column| row.get_ref(column).map(text))
                        .collect()
                });
                rows.unwrap().map(Result::unwrap).collect()
            }
            #[cfg(feature = "postgres")]
            Self::Postgres(client) => on_postgres::rows(client, sql).await,
        }
    }

    /// The first column of a query.
    pub(crate) async fn column(&self, sql: &str) -> Vec<String> {
        let rows = self.rows(sql).await;
        rows.into_iter()
            .map(|mut row| row.swap_remove(0).unwrap())
            .collect()
    }

    /// The only value of a query.
    pub(crate) async fn value(&self, sql: &str) -> String {
        let mut values = self.column(sql).await;
        assert_eq!(values.len(), 1, "{sql}");
        values.remove(0)
    }

    /// How many rows there are of `rows`: a table, and a condition.
    pub(crate) async fn count(&self, rows: &str) -> usize {
        let count = self.value(&format!("SELECT count(*) FROM {rows}")).await;
        count.parse().unwrap()
    }

    /// Lets no other write, until [`Direct::unlock`] or the end of the connection. The tables must
    /// be there.
    pub(crate) async fn lock(&self) {
        match self {
            Self::Sqlite(database) => database.execute_batch("BEGIN IMMEDIATE").unwrap(),
            #[cfg(feature = "postgres")]
            Self::Postgres(client) => {
                // Programs that write to these tables take them in another order: of two that wait
                // for each other, the server fails one.
                while let Err(error) = client.batch_execute(crate::postgres_database::LOCK).await {
                    assert_eq!(
                        error.code(),
                        Some(&tokio_postgres::error::SqlState::T_R_DEADLOCK_DETECTED),
                        "{error}"
                    );
                    client.batch_execute("ROLLBACK").await.unwrap();
                }
            }
        }
    }

    /// Lets no program open the database.
    pub(crate) async fn lock_opening(&self) {
        let lock = self.either(
            "BEGIN EXCLUSIVE",
            "BEGIN; SELECT pg_advisory_xact_lock(x'53745271'::bigint)",
        );
        self.run(lock).await;
    }

    pub(crate) async fn unlock(&self) {
        self.run("ROLLBACK").await;
    }
}

fn text(value: ValueRef<'_>) -> Option<String> {
    match value {
        ValueRef::Null => None,
        ValueRef::Integer(number) => Some(number.to_string()),
        ValueRef::Real(number) => Some(number.to_string()),
        ValueRef::Text(text) | ValueRef::Blob(text) => {
            Some(String::from_utf8(text.to_vec()).unwrap())
        }
    }
}

#[cfg(feature = "postgres")]
mod on_postgres {
    use std::{sync::Arc, thread};

    use tokio::runtime::Builder;
    use tokio_postgres::{Client, SimpleQueryMessage};

    use super::Row;
    use crate::postgres_database::{PostgresDatabase, connect};

    #[derive(Clone)]
    pub(super) struct OnPostgres {
        url: String,
        /// The database is dropped with its handle.
        _database: Option<Arc<PostgresDatabase>>,
    }

    impl OnPostgres {
        /// In a thread and a runtime of its own: its callers can't all wait.
        pub(super) fn fresh() -> Self {
            let made = thread::spawn(|| {
                let runtime = Builder::new_current_thread().enable_all().build();
                runtime.unwrap().block_on(PostgresDatabase::fresh())
            });
            let database = made.join().unwrap();
            Self {
                url: database.url(),
                _database: Some(Arc::new(database)),
            }
        }

        pub(super) fn at(url: String) -> Self {
            Self {
                url,
                _database: None,
            }
        }

        pub(super) fn url(&self) -> String {
            self.url.clone()
        }

        pub(super) async fn connect(&self) -> Client {
            connect(&self.url).await.0
        }
    }

    pub(super) async fn rows(client: &Client, sql: &str) -> Vec<Row> {
        let messages = client.simple_query(sql).await.unwrap();
        let rows = messages.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(
                (0..row.len())
                    .map(|column| row.get(column).map(str::to_owned))
                    .collect(),
            ),
            _ => None,
        });
        rows.collect()
    }
}
