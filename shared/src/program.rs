//! The life of a service's process, from its settings to its exit status.

use std::{
    error::Error,
    io::{self, Write as _},
    process::ExitCode,
};

use clap::Command;
use rustix::process::Signal;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use crate::{
    config::{self, Settings},
    shutdown, telemetry,
};

/// The exit status of a process whose settings can't be used.
const BAD_SETTINGS: u8 = 2;

/// Runs `service` with the process' settings and a token that SIGINT or SIGTERM cancels.
///
/// `command` says what the program is. It takes no arguments: its help is the settings' manual.
///
/// A setting that can't be used is one line on standard error and exit status 2; a service that
/// fails is one line in the log and 1; one that ends in order is 0.
pub async fn run(
    command: Command,
    service: impl AsyncFnOnce(Settings, CancellationToken) -> Result<(), Box<dyn Error>>,
) -> ExitCode {
    command.after_long_help(config::MANUAL).get_matches();
    let settings = match Settings::load() {
        Ok(settings) => settings,
        Err(error) => {
            let _ = writeln!(io::stderr(), "{error}"); // or nobody reads it
            return ExitCode::from(BAD_SETTINGS);
        }
    };
    telemetry::start(&settings.log);
    for variable in &settings.unknown_variables {
        warn!(
            variable,
            "looks like a setting and is none: is its name misspelled?"
        );
    }
    raise_descriptor_limit();
    survive_file_size_limit();
    let ended = match shutdown::on_signal() {
        Ok(shutdown) => service(settings, shutdown).await,
        Err(error) => Err(error.into()),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!(%error, "the service stops");
            ExitCode::FAILURE
        }
    }
}

/// Each connection takes a descriptor, and many systems start a process with 1024 of them.
fn raise_descriptor_limit() {
    match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(descriptors) => debug!(descriptors, "open files allowed"),
        Err(error) => warn!(%error, "the limit of open files can't be raised"),
    }
}

/// A write past a limit of file sizes (`ulimit -f`, `LimitFSIZE`) is an error like that of a full disk,
/// which the store lives through; but it comes with a signal that ends a process which doesn't take it.
/// The handler stays when the stream that is made with it is dropped.
fn survive_file_size_limit() {
    if let Err(error) = signal(SignalKind::from_raw(Signal::XFSZ.as_raw())) {
        warn!(%error, "a limit of file sizes would end this process");
    }
}
