//! A database for one test, on the server at `TEST_POSTGRES`.

use std::{
    env,
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use url::Url;

use crate::chaos::audit::Login;

/// The databases that this process has made.
static DATABASES: AtomicU32 = AtomicU32::new(0);

/// A database, which is dropped with this.
pub(super) struct Database {
    login: Login,
}

impl Database {
    pub(super) async fn create() -> Self {
        let number = DATABASES.fetch_add(1, Ordering::Relaxed);
        let database = format!("audit_{}_{number}", std::process::id());
        execute(&format!("CREATE DATABASE {database}")).await;
        Self {
            login: Login {
                database,
                ..login()
            },
        }
    }

    pub(super) fn login(&self) -> &Login {
        &self.login
    }

    /// Its `DB_URL`.
    pub(super) fn url(&self) -> String {
        format!("postgres://{}@{}", self.login.role, self.login)
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let drop = format!("DROP DATABASE {} WITH (FORCE)", self.login.database);
        // A runtime of its own: the test's can't be waited for here.
        let dropped = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.unwrap().block_on(execute(&drop));
        });
        let _ = dropped.join(); // the server is thrown away after the run
    }
}

async fn execute(sql: &str) {
    let (client, _open) = login().open().await.unwrap();
    client.batch_execute(sql).await.unwrap();
}

/// That of the server, and its first database.
fn login() -> Login {
    let server = env::var("TEST_POSTGRES").expect(
        "TEST_POSTGRES is not set: it is the address of a PostgreSQL server for tests, such as \
         postgres://storm@127.0.0.1:5432",
    );
    let server = Url::parse(&server).unwrap();
    let addr = server.socket_addrs(|| None).unwrap()[0];
    Login {
        addr,
        role: "storm",
        database: "postgres".to_owned(),
    }
}
