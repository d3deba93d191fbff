//! Tests of the load generator against a scripted fake API, over real sockets.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a failed test panics"
)]

mod binary;
mod chaos;
mod demo;
mod fake_api;
mod files;
mod interrupts;
mod process;
mod receivers;
mod report;
mod screen;
mod storm;
mod storm_handlers;
mod terminal;
mod thresholds;
