//! How a process speaks: `tracing` events on standard error, as text for people, JSON for machines.

use std::{
    io::{self, IsTerminal},
    process::ExitCode,
};

use tracing_subscriber::{EnvFilter, fmt};

use crate::config::{SettingError, Settings};

/// The exit status of a process whose settings can't be used.
const BAD_SETTINGS: u8 = 2;

/// Starts logging as the settings say; bad ones are one line on standard error and an exit status.
///
/// Logs are JSON where standard error is no terminal. A second call changes nothing.
///
/// # Errors
/// The settings can't be used: what the process is to exit with.
pub fn start_with(settings: Result<Settings, SettingError>) -> Result<Settings, ExitCode> {
    let settings = settings.map_err(|error| {
        eprintln!("{error}");
        ExitCode::from(BAD_SETTINGS)
    })?;
    start(&settings.log);
    for variable in &settings.unknown_variables {
        tracing::warn!(
            variable,
            "looks like a setting and is none: is its name misspelled?"
        );
    }
    match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(descriptors) => tracing::debug!(descriptors, "open files allowed"),
        Err(error) => tracing::warn!(%error, "the limit of open files can't be raised"),
    }
    Ok(settings)
}

fn start(filter: &str) {
    // The settings have checked the filter.
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = fmt().with_env_filter(filter).with_writer(io::stderr);
    // An error here says that a subscriber is set already: that one stays.
    let _ = if io::stderr().is_terminal() {
        builder.try_init()
    } else {
        builder.json().flatten_event(true).try_init()
    };
}
