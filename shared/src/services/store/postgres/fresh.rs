//! A database for a test of the engine's own parts, on the server at `TEST_POSTGRES`.

use std::{
    env, process,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use tokio_postgres::{Client, NoTls};

use super::{
    connect,
    moving::Target,
    open,
    session::{Session, Sessions},
};
use crate::config::{DatabaseSettings, PostgresSettings, Settings, StoreSettings};

/// The databases that this process has made.
static DATABASES: AtomicU32 = AtomicU32::new(0);

/// A database with the schema.
pub(in crate::services::store) struct Fresh {
    name: String,
    pub(super) sessions: Arc<Sessions>,
}

impl Fresh {
    pub(in crate::services::store) async fn open() -> Self {
        let number = DATABASES.fetch_add(1, Ordering::Relaxed);
        let name = format!("test_lib_{}_{number}", process::id());
        direct(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await;
        direct(&format!("CREATE DATABASE {name}")).await;
        let (settings, postgres) = settings(&name);
        let sessions = sessions(&settings, &postgres);
        open::open(&sessions, &postgres).await.unwrap();
        Self { name, sessions }
    }

    /// Other connections to it.
    pub(super) fn again(&self) -> Arc<Sessions> {
        let (settings, postgres) = settings(&self.name);
        sessions(&settings, &postgres)
    }

    /// It, as the target of a move.
    pub(in crate::services::store) fn target(&self) -> Target {
        let (settings, postgres) = settings(&self.name);
        Target::of(&postgres, &settings).unwrap()
    }

    /// Runs statements without parameters.
    pub(in crate::services::store) async fn execute(&self, sql: &'static str) {
        let run = move |session: Session| async move { session.execute_all(sql).await };
        self.sessions.write(run).await.unwrap();
    }

    /// Another program's connection to it.
    pub(super) async fn client(&self) -> Client {
        connect_to(&self.name).await
    }

    pub(in crate::services::store) async fn drop(self) {
        self.sessions.close().await;
        direct(&format!("DROP DATABASE {} WITH (FORCE)", self.name)).await;
    }
}

fn settings(database: &str) -> (StoreSettings, PostgresSettings) {
    let url = format!("{}/{database}", server());
    let settings = Settings::with([("DB_URL", url.as_str())]).unwrap().store;
    let DatabaseSettings::Postgres(postgres) = settings.database.clone() else {
        panic!("{url}");
    };
    (settings, postgres)
}

fn sessions(settings: &StoreSettings, postgres: &PostgresSettings) -> Arc<Sessions> {
    let pool = connect::pool(postgres).unwrap();
    Arc::new(Sessions::of(pool, settings.write_queue))
}

/// The address of the server, without a database.
fn server() -> String {
    env::var("TEST_POSTGRES").expect("TEST_POSTGRES is the address of a server for tests")
}

/// Runs a statement outside of the database.
async fn direct(sql: &str) {
    let client = connect_to("postgres").await;
    client.batch_execute(sql).await.unwrap();
}

async fn connect_to(database: &str) -> Client {
    let url = format!("{}/{database}", server());
    let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}
