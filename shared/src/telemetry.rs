//! How a process speaks: `tracing` events on standard error, as text for people, JSON for machines.

use std::io::{self, IsTerminal};

use tracing_subscriber::{EnvFilter, fmt};

/// Starts logging with a `tracing` filter that the settings have checked.
///
/// Logs are JSON where standard error is no terminal. A second call changes nothing.
pub fn start(filter: &str) {
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    // A line that can't be written, because the disk that takes the log is full, is lost. It would be
    // told on standard error otherwise, and that it can't be told there either ends the thread.
    let builder = fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .log_internal_errors(false);
    // An error here says that a subscriber is set already: that one stays.
    let _ = if io::stderr().is_terminal() {
        builder.try_init()
    } else {
        builder.json().flatten_event(true).try_init()
    };
}
