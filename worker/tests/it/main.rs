//! The worker's integration tests.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failed precondition fails the test"
)]

mod backup;
mod cancel;
mod check_url;
mod clock;
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
mod process;
mod readiness;
mod receiver;
mod receiver_shares;
mod redelivery;
mod redis_faults;
mod reread;
mod resends;
mod retention;
mod rows;
mod setting_errors;
mod shortages;
mod signature;
mod slot_shares;
mod stack;
mod table;
mod worker;

#[path = "../../../shared/tests/support/hostile.rs"]
mod hostile;
#[path = "../../../shared/tests/support/iana.rs"]
mod iana;
#[path = "../../../shared/tests/support/redis_server.rs"]
mod redis_server;
