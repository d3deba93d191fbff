//! The API over real sockets, with a real database and, where it matters, a real Redis.
//!
//! The database is `SQLite`; with `TEST_STORE=postgres`, `PostgreSQL`. The modules whose names
//! begin with an engine are about this engine.
//!
//! Each test starts its own server on a free port, so tests run in parallel.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

mod acceptance;
mod admin;
mod admission;
mod assets;
mod auth;
mod cli;
mod client;
mod contract;
#[cfg(target_os = "linux")]
mod descriptors;
mod erase;
#[cfg(target_os = "linux")]
mod fairness;
mod handlers;
mod health;
#[cfg(target_os = "linux")]
mod healthcheck;
mod help;
mod idempotency;
mod list;
#[cfg(target_os = "linux")]
mod log;
mod long_poll;
mod memory;
mod memory_budget;
mod metrics;
mod origins;
mod overview;
#[cfg(feature = "postgres")]
mod postgres;
mod prefer;
mod process;
mod readiness;
mod redelivery;
mod refusals;
mod requests;
mod reread;
mod server;
mod service;
mod setting_errors;
mod shutdown;
mod sqlite_cli;
mod sqlite_faults;
#[cfg(feature = "postgres")]
mod sqlite_migrate;
#[cfg(target_os = "linux")]
mod sqlite_unknown_outcome;
mod sync;
#[cfg(target_os = "linux")]
mod threads;
mod waiters;
mod waiting;

#[cfg(feature = "postgres")]
#[path = "../../../shared/tests/support/faketime.rs"]
#[allow(dead_code, reason = "the tests of the worker need more of it")]
mod faketime;
#[cfg(feature = "postgres")]
#[path = "../../../shared/tests/support/postgres_database.rs"]
mod postgres_database;
#[cfg(feature = "postgres")]
#[path = "../../../shared/tests/support/postgres_server.rs"]
#[allow(dead_code, reason = "tests of the engine need more of it")]
mod postgres_server;
#[path = "../../../shared/tests/support/program_database.rs"]
mod program_database;
#[path = "../../../shared/tests/support/redis_server.rs"]
mod redis_server;

use std::time::Duration;

use tokio::time::{sleep, timeout};

/// Timeout of every wait in these tests. Generous, so that a busy machine does not fail them.
const PATIENCE: Duration = Duration::from_mins(1);

/// Waits until `holds` returns true; panics after [`PATIENCE`].
async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(PATIENCE, waiting)
        .await
        .unwrap_or_else(|_| panic!("never came true: {what}"));
}
