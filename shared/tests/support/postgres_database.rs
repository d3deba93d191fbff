//! A database of the server at `TEST_POSTGRES`. It is dropped with its handle.

use std::{
    env, process,
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use tokio::{runtime::Builder, task::JoinHandle};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

/// The databases that this process has made.
static DATABASES: AtomicU32 = AtomicU32::new(0);

/// Begins a transaction that lets others read, and write nothing. The tables must be there.
pub(crate) const LOCK: &str =
    "BEGIN; LOCK TABLE requests, redeliveries, workers, store, pauses, audit, health,
     idempotency_keys IN EXCLUSIVE MODE";

/// A database, empty at first.
pub(crate) struct PostgresDatabase {
    name: String,
}

impl PostgresDatabase {
    pub(crate) async fn fresh() -> Self {
        let number = DATABASES.fetch_add(1, Ordering::Relaxed);
        let name = format!("test_{}_{number}", process::id());
        let (client, _connection) = connect(&url("postgres")).await;
        for statement in [
            format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"),
            format!("CREATE DATABASE {name}"),
        ] {
            client.batch_execute(&statement).await.unwrap();
        }
        Self { name }
    }

    /// Its address, for `DB_URL`.
    pub(crate) fn url(&self) -> String {
        url(&self.name)
    }

    /// The same through the pooler at `TEST_POOLER`, if there is one.
    #[allow(dead_code, reason = "tests of the programs have no pooler")]
    pub(crate) fn pooled_url(&self) -> String {
        env::var("TEST_POOLER")
            .map_or_else(|_| self.url(), |pooler| format!("{pooler}/{}", self.name))
    }

    /// What a query says of its only row, as `psql` would print it; nothing if it fails, such as
    /// before there are tables. Blocks.
    #[allow(dead_code, reason = "other tests wait for the answer")]
    pub(crate) fn ask(&self, query: &str) -> String {
        let rows = run(self.url(), query.to_owned()).unwrap_or_default();
        let row = rows.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        let columns = row.map(|row| (0..row.len()).map(|at| row.get(at).unwrap_or_default()));
        columns.map_or_else(String::new, |it| it.collect::<Vec<_>>().join("|"))
    }
}

impl Drop for PostgresDatabase {
    fn drop(&mut self) {
        let drop = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
        let _ = run(url("postgres"), drop); // the server is thrown away after the run
    }
}

/// Runs `sql` in a runtime of its own, where the test's can't be waited for. `None` if it failed.
/// Blocks.
fn run(url: String, sql: String) -> Option<Vec<SimpleQueryMessage>> {
    let running = thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(async {
            let (client, _connection) = connect(&url).await;
            client.simple_query(&sql).await
        })
    });
    running.join().ok()?.ok()
}

fn url(database: &str) -> String {
    let server = env::var("TEST_POSTGRES").expect(
        "TEST_POSTGRES is not set: it is the address of a PostgreSQL server for tests, such as \
         postgres://storm@127.0.0.1:5432",
    );
    format!("{server}/{database}")
}

/// A connection to `url`, and the task that ends with it.
pub(crate) async fn connect(url: &str) -> (Client, JoinHandle<()>) {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    let connection = tokio::spawn(async move {
        let _ = connection.await; // its end is seen by the client
    });
    (client, connection)
}
