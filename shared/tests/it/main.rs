//! The shared crate against a real `SQLite` file and a real Redis.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests fail by panicking"
)]

mod backup;
mod faults;
mod first_start;
mod interleavings;
mod lease;
mod queue;
mod redelivery;
mod redis_acl;
mod redis_faults;
mod server;
mod ssrf;
mod store;
mod tenancy;

#[path = "../support/hostile.rs"]
mod hostile;
#[path = "../support/iana.rs"]
mod iana;
#[path = "../support/moving_name.rs"]
mod moving_name;
#[path = "../support/redis_server.rs"]
mod redis_server;
