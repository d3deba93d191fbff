//! The API over real sockets, with real `SQLite` files and, where it matters, a real Redis.
//!
//! Each test starts its own server on a free port, so tests run in parallel.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

mod acceptance;
mod admin;
mod admission;
mod auth;
mod cli;
mod client;
#[cfg(target_os = "linux")]
mod descriptors;
mod erase;
#[cfg(target_os = "linux")]
mod fairness;
mod faults;
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
#[cfg(feature = "postgres")]
mod migrate;
mod origins;
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
mod sync;
#[cfg(target_os = "linux")]
mod threads;
#[cfg(target_os = "linux")]
mod unknown_outcome;
mod waiters;
mod waiting;

#[cfg(feature = "postgres")]
#[path = "../../../shared/tests/support/empty_database.rs"]
mod empty_database;
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
