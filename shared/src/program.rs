//! The life of a service's process, from its settings to its exit status.

use std::{error::Error, process::ExitCode};

use clap::Command;
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
            eprintln!("{error}");
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
