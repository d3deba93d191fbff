//! Sends the same load to `/sync` and `/async`, receives the callbacks, and compares the two.
//!
//! * [`cli`]: the command line; [`run`] executes it, and `commands` print and save the results.
//! * [`demo`], [`storm`], [`sink`], [`chaos`]: the commands.
//! * [`workload`]: the reports to request, and their expected results.
//! * [`requester`], [`client`]: one measured request, and the API's HTTP client.
//! * [`listen`], [`receiver`], [`ledger`]: the callback listener, and the pairing of each callback
//!   with its `202`.
//! * [`signatures`]: the check of callback signatures.
//! * [`latency`], [`deviation`], [`answers`], [`series`]: the statistics, free of I/O.
//! * [`thresholds`]: the conditions of `--fail-if`.
//! * [`report`]: results as text, tables, JSON, CSV and HTML. [`machine`]: where they were made.
//! * [`layout`], [`output`]: text on standard output, as wide as its terminal.

// A `println!` panics if its reader is gone.
#![warn(clippy::print_stdout, clippy::print_stderr)]

pub mod answers;
pub mod chaos;
pub mod cli;
pub mod client;
mod commands;
pub mod demo;
pub mod deviation;
pub mod http_url;
pub mod latency;
pub mod layout;
pub mod ledger;
pub mod listen;
pub mod machine;
pub mod output;
mod progress;
pub mod receiver;
pub mod report;
pub mod requester;
pub mod series;
pub mod signatures;
pub mod sink;
pub mod storm;
pub mod thresholds;
pub mod workload;

use std::{io, process::ExitCode};

use anyhow::Result;
use tracing_subscriber::filter::LevelFilter;

pub use self::cli::Cli;

/// Runs a command. The exit status is 0 if every check passed, 1 if one failed, 3 if only a
/// threshold failed, and 130 if a signal interrupted the run.
///
/// # Errors
/// The run could not start (no API listens at the address, the callback port is taken), or its
/// result could not be written.
pub async fn run(cli: Cli) -> Result<ExitCode> {
    // The accept loop logs a warning when it can't accept callbacks. The error means that a
    // subscriber is set already, as in tests.
    let _ = tracing_subscriber::fmt()
        .with_max_level(LevelFilter::WARN)
        .with_ansi(false)
        // Otherwise it reports a closed standard error there, and panics.
        .log_internal_errors(false)
        .with_writer(io::stderr)
        .try_init();
    commands::execute(cli.command).await
}
