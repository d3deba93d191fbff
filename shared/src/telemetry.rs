//! Logging: `tracing` events on standard error, as text on a terminal and as JSON elsewhere.

use std::io::{self, IsTerminal};

use tracing_subscriber::{EnvFilter, fmt};

/// Starts logging with `filter`, a `tracing` filter from the settings. A second call has no effect.
pub fn start(filter: &str) {
    // The settings have checked the filter, so the fallback is never used.
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    // A log line that cannot be written, for example to a full disk, is dropped. By default the
    // subscriber would report that on standard error, and panic when that fails too.
    let builder = fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .log_internal_errors(false);
    // An error means that a subscriber is already set, and it stays.
    let _ = if io::stderr().is_terminal() {
        builder.try_init()
    } else {
        builder.json().flatten_event(true).try_init()
    };
}
