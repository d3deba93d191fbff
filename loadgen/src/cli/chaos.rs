//! The options of the commands around `make chaos`.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::Args;

use super::{
    MAX_REQUESTS,
    values::{duration, lease},
};

/// The most requests that fall due in a second.
const MAX_RATE: u32 = 50_000;

/// The options of `chaos`.
#[derive(Args, Clone, Debug)]
pub struct ChaosOptions {
    /// The folder of storm-api and storm-worker
    #[arg(long, value_name = "DIR")]
    pub bin: PathBuf,
    /// The redis-server to start
    #[arg(long, value_name = "FILE")]
    pub redis_server: PathBuf,
    /// A folder for the run's data, logs and result: new, or empty
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// What decides which fault comes when, and what is asked for [default: a random one]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// How long things are broken; longer, where every kind of fault was not yet done once
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration)]
    pub duration: Duration,
    /// Requests that fall due in that time, evenly
    #[arg(long, value_name = "N", default_value = "20000", value_parser = clap::value_parser!(u64).range(1..=MAX_REQUESTS))]
    pub jobs: u64,
    /// The workers' lease: 500ms to 30s
    #[arg(long, value_name = "DURATION", default_value = "3s", value_parser = lease)]
    pub lease: Duration,
    /// Keep the history of a run that passed too: history.jsonl
    #[arg(long)]
    pub keep: bool,
}

impl ChaosOptions {
    /// Requests that fall due in a second.
    pub fn rate(&self) -> u32 {
        let millis = u64::try_from(self.duration.as_millis()).unwrap_or(u64::MAX);
        let rate = (self.jobs * 1000).div_ceil(millis.max(1));
        u32::try_from(rate).unwrap_or(u32::MAX)
    }

    /// The file of the run's history.
    pub fn history(&self) -> PathBuf {
        self.dir.join("history.jsonl")
    }

    pub(super) fn check(&self) -> Result<(), String> {
        if self.rate() > MAX_RATE {
            return Err(format!(
                "--jobs {} over --duration {} makes {} a second; at most {MAX_RATE} are accepted",
                self.jobs,
                humantime::format_duration(self.duration),
                self.rate()
            ));
        }
        Ok(())
    }
}

/// The options of `check`.
#[derive(Args, Clone, Debug)]
pub struct CheckOptions {
    /// The history that a run kept: history.jsonl
    pub file: PathBuf,
}

/// The options of `tether`.
#[derive(Args, Clone, Debug)]
pub struct TetherOptions {
    /// The process that wants it
    pub parent: u32,
    /// The program
    pub program: OsString,
    /// Its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub arguments: Vec<OsString>,
}
