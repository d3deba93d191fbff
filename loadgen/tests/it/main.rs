//! The load generator against an API that does right or wrong by script, over real sockets.

// A test, and what it needs, may panic.
#![allow(clippy::unwrap_used)]

mod binary;
mod chaos;
mod demo;
mod fake_api;
mod process;
mod receivers;
mod storm;
