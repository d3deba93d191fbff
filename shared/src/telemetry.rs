//! Logging: `tracing` events on standard error, as text on a terminal and as JSON elsewhere.

mod rate_limit;

use std::io::{self, IsTerminal as _};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::{
    Layer as _, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

use self::rate_limit::RateLimit;
use crate::config::LogFilter;

/// The target of the error that ends the process. No filter hides it.
pub(crate) const FATAL: &str = "fatal";

/// The target of the answers to an operator's signal. No filter hides them, and they are not
/// limited: their number is that of the signals.
pub(crate) const OPERATOR: &str = "operator";

/// What the clients of the database's server say of each connection: that it was closed, and what
/// the server told it. The store says it once for all of them.
const OF_CONNECTIONS: [&str; 2] = ["deadpool.postgres", "tokio_postgres::connection"];

/// The log of a process.
pub struct Log(RateLimit);

/// Starts logging with `filter`. A second call has no effect.
pub fn start(filter: &LogFilter) -> Log {
    let limit = RateLimit::default();
    // A log line that cannot be written, for example to a full disk, is dropped. By default the
    // subscriber would report that on standard error, and panic when that fails too.
    let lines = fmt::layer()
        .with_writer(io::stderr)
        .log_internal_errors(false);
    let lines = if io::stderr().is_terminal() {
        lines.boxed()
    } else {
        lines.json().flatten_event(true).boxed()
    };
    let always = [
        (FATAL, LevelFilter::ERROR),
        (OPERATOR, LevelFilter::INFO),
        (rate_limit::COUNTS, LevelFilter::WARN),
    ];
    let never = OF_CONNECTIONS.map(|target| (target, LevelFilter::OFF));
    let targets = always.into_iter().chain(never);
    // An error means that a subscriber is already set, and it stays.
    let _ = tracing_subscriber::registry()
        .with(filter.with(targets))
        .with(lines.with_filter(limit.clone()))
        .try_init();
    Log(limit)
}

impl Log {
    /// From now on, writes a few lines a minute of each kind, and one that counts the others. Lines
    /// at the levels `debug` and `trace` are not limited.
    pub fn bound(&self) {
        self.0.begin();
    }

    /// Logs how many lines were left out so far. For the end of the process.
    pub fn count(&self) {
        self.0.count();
    }
}
