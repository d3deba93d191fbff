//! The subcommands for operators, over the store's verbs. They run beside the services, with the
//! same settings, and neither create nor migrate the database.
//!
//! To add one: a file in `cli/` with its `subcommand()`, and its line in [`subcommands`].

mod audit;
mod backup;
mod migrate;
mod operator;
mod output;
mod pages;
mod pause;
mod requests;
mod stats;
mod vacuum;

use std::{io, process::ExitCode};

use storm_shared::{
    config::{SettingError, Settings},
    program::{self, Subcommand},
    services::store::{BackupError, Store, StoreError},
};
use thiserror::Error;

/// Every one of them.
pub fn subcommands() -> Vec<Subcommand> {
    let mut all = vec![requests::subcommand(), stats::subcommand()];
    all.extend(pause::subcommands());
    all.extend([
        audit::subcommand(),
        backup::subcommand(),
        vacuum::subcommand(),
        migrate::subcommand(),
    ]);
    all
}

/// Why a command has not done all that it was asked for. One line.
#[derive(Debug, Error)]
enum Failure {
    #[error("{0}")]
    Setting(#[from] SettingError),
    /// An argument that clap can't judge alone.
    #[error("{0}")]
    Argument(String),
    #[error("{0}")]
    Arguments(#[from] clap::Error),
    #[error("DB_URL: {0}")]
    Store(#[from] StoreError),
    #[error("{0}")]
    Backup(#[from] BackupError),
    #[cfg(feature = "postgres")]
    #[error("{0}")]
    Move(#[from] storm_shared::services::store::MoveError),
    #[error("can't write to standard output: {0}")]
    Output(#[from] io::Error),
    #[error("can't be shown as JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// Some of what was named was not found, or not possible. Its own line says what.
    #[error("{0}")]
    Undone(String),
}

/// The exit status of a command. Prints why it has failed.
fn finish(done: Result<(), Failure>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure @ (Failure::Setting(_) | Failure::Argument(_) | Failure::Arguments(_))) => {
            program::usage_error(&failure)
        }
        Err(Failure::Backup(BackupError::Database(error))) => finish(Err(error.into())),
        Err(failure) => {
            program::print_error(&failure);
            // As a shell reports a process that SIGINT has ended.
            let cancelled = matches!(failure, Failure::Backup(BackupError::Cancelled));
            ExitCode::from(if cancelled { 130 } else { 1 })
        }
    }
}

/// The settings of the services.
fn settings() -> Result<Settings, Failure> {
    let settings = Settings::load()?;
    for variable in &settings.unknown_variables {
        program::print_error(&format_args!(
            "{variable}: unknown setting in the environment; check the spelling"
        ));
    }
    Ok(settings)
}

/// Runs `act` on the store of the services.
async fn on_store(
    act: impl AsyncFnOnce(&Store, &Settings) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let settings = settings()?;
    let store = Store::attach(&settings.store).await?;
    let done = act(&store, &settings).await;
    store.close().await;
    done
}
