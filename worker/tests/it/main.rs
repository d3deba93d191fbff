//! The worker's integration tests, on `SQLite`; with `TEST_STORE=postgres`, on `PostgreSQL`. The
//! modules whose names begin with an engine are about this engine.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failed precondition fails the test"
)]

mod cancel;
mod check_url;
mod clock;
#[cfg(feature = "traces")]
mod collector;
mod crashes;
mod delivery;
mod handler_gate;
mod handlers;
mod handlers_http;
mod isolation;
mod lease;
mod line;
mod log;
mod memory_budget;
mod metrics;
mod notifications;
mod pause;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "postgres")]
mod postgres_hosts;
mod process;
mod readiness;
mod receiver;
mod receiver_shares;
mod redelivery;
mod redis_faults;
mod report;
mod reread;
mod resends;
mod retention;
mod rows;
mod setting_errors;
mod shortages;
mod signature;
mod slot_shares;
mod sqlite_backup;
#[cfg(feature = "postgres")]
mod sqlite_migrate;
mod stack;
mod table;
mod traces;
mod worker;

#[path = "../../../shared/tests/support/faketime.rs"]
mod faketime;
#[path = "../../../shared/tests/support/hostile.rs"]
mod hostile;
#[path = "../../../shared/tests/support/iana.rs"]
mod iana;
#[cfg(feature = "postgres")]
#[path = "../../../shared/tests/support/postgres_database.rs"]
mod postgres_database;
#[cfg(feature = "postgres")]
#[path = "../../../shared/tests/support/postgres_proxy.rs"]
#[allow(dead_code, reason = "tests of the engine need more of it")]
mod postgres_proxy;
#[cfg(feature = "postgres")]
#[path = "../../../shared/tests/support/postgres_server.rs"]
#[allow(dead_code, reason = "tests of the engine need more of it")]
mod postgres_server;
#[path = "../../../shared/tests/support/program_database.rs"]
#[allow(dead_code, reason = "the API's tests need more of it")]
mod program_database;
#[path = "../../../shared/tests/support/redis_server.rs"]
mod redis_server;
