//! The shared crate against a real `SQLite` file and a real Redis.

mod queue;
mod store;

#[path = "../support/redis_server.rs"]
mod redis_server;
