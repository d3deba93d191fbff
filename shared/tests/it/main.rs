//! The shared crate against real databases and a real Redis.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests fail by panicking"
)]

#[cfg(feature = "postgres")]
mod postgres_failover;
#[cfg(feature = "postgres")]
mod postgres_faults;
#[cfg(feature = "postgres")]
mod postgres_limits;
#[cfg(feature = "postgres")]
mod postgres_locks;
#[cfg(feature = "postgres")]
mod postgres_moving;
#[cfg(feature = "postgres")]
mod postgres_network;
#[cfg(feature = "postgres")]
mod postgres_plans;
#[cfg(feature = "postgres")]
mod postgres_pooler;
#[cfg(feature = "postgres")]
mod postgres_settings;
#[cfg(feature = "postgres")]
mod postgres_tls;
mod promises;
mod queue;
mod redis_acl;
mod redis_faults;
mod server;
mod sqlite_faults;
mod ssrf;

#[path = "../support/database.rs"]
mod database;
#[cfg(feature = "postgres")]
#[path = "../support/faketime.rs"]
#[allow(dead_code, reason = "the tests of the worker need more of it")]
mod faketime;
#[path = "../support/hostile.rs"]
mod hostile;
#[path = "../support/iana.rs"]
mod iana;
#[path = "../support/jobs.rs"]
mod jobs;
#[path = "../support/moving_name.rs"]
mod moving_name;
#[cfg(feature = "postgres")]
#[path = "../support/pgbouncer.rs"]
mod pgbouncer;
#[cfg(feature = "postgres")]
#[path = "../support/postgres_database.rs"]
mod postgres_database;
#[cfg(feature = "postgres")]
#[path = "../support/postgres_proxy.rs"]
mod postgres_proxy;
#[cfg(feature = "postgres")]
#[path = "../support/postgres_server.rs"]
mod postgres_server;
#[path = "../support/redis_server.rs"]
mod redis_server;
