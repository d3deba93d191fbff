//! The options of `chaos`, `check` and `tether`.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::Args;

use super::values::{MAX_REQUESTS, chaos_threshold, duration, lease};
use crate::{
    chaos::engine::Engine,
    thresholds::{Missing, Threshold},
};

/// The upper limit of the request rate, per second.
const MAX_RATE: u32 = 50_000;

/// Why a build without the engine refuses `--postgres`.
#[cfg(not(feature = "postgres"))]
pub(crate) const NO_POSTGRES: &str =
    "--postgres: this program was built without PostgreSQL; build it with --features postgres";

/// The options of `chaos`.
#[derive(Args, Clone, Debug)]
pub struct ChaosOptions {
    /// The folder that contains storm-api and storm-worker
    #[arg(long, value_name = "DIR")]
    pub bin: PathBuf,
    /// The redis-server program to start
    #[arg(long, value_name = "FILE")]
    pub redis_server: PathBuf,
    /// The folder of initdb and postgres, for STORE=postgres: two APIs and three workers on a
    /// primary with a synchronous standby. Without it, STORE=sqlite: one API and two workers on a
    /// file
    #[arg(long, value_name = "DIR")]
    pub postgres: Option<PathBuf>,
    /// libfaketime's library, to step the services' clock; without it that fault is left out
    #[arg(long, value_name = "FILE")]
    pub faketime: Option<PathBuf>,
    /// The folder for the run's data, logs and result; it must be empty or not exist
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// The seed of the fault plan and of the requests [default: random]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// How long to inject faults; extended until every kind of fault was injected once
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration)]
    pub duration: Duration,
    /// Requests in that time, at a constant rate
    #[arg(long, value_name = "N", default_value = "20000", value_parser = clap::value_parser!(u64).range(1..=MAX_REQUESTS))]
    pub jobs: u64,
    /// The workers' lease: 500ms to 30s
    #[arg(long, value_name = "DURATION", default_value = "3s", value_parser = lease)]
    pub lease: Duration,
    /// Fail the run under this condition, such as `recovery.kill>5s` or `repeated>1%`; repeatable.
    /// A wrong name lists all figures
    #[arg(long, value_name = "CONDITION", value_parser = chaos_threshold)]
    pub fail_if: Vec<Threshold>,
    /// Write a report with plots to this file, as HTML that loads nothing; an earlier report is
    /// replaced, another file is not
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Keep history.jsonl even if the run passed
    #[arg(long)]
    pub keep: bool,
}

impl ChaosOptions {
    /// Requests per second.
    pub fn rate(&self) -> u32 {
        let millis = u64::try_from(self.duration.as_millis()).unwrap_or(u64::MAX);
        // Rounded up, so that all jobs are due within the duration. At most two million jobs, so
        // the product fits into a u64.
        let rate = (self.jobs * 1000).div_ceil(millis.max(1));
        u32::try_from(rate).unwrap_or(u32::MAX)
    }

    /// The engine of the database.
    pub fn engine(&self) -> Engine {
        match self.postgres {
            None => Engine::Sqlite,
            Some(_) => Engine::Postgres,
        }
    }

    /// The path of the run's history.
    pub fn history(&self) -> PathBuf {
        self.dir.join("history.jsonl")
    }

    pub(super) fn check(&self) -> Result<(), String> {
        #[cfg(not(feature = "postgres"))]
        if self.postgres.is_some() {
            return Err(NO_POSTGRES.to_owned());
        }
        if self.postgres.is_none() {
            let checks = self.fail_if.iter().map(|it| it.check(Missing::Promotion));
            checks.collect::<Result<(), _>>()?;
        }
        if self.rate() > MAX_RATE {
            return Err(format!(
                "--jobs {} over --duration {} makes {} requests per second; at most {MAX_RATE} are accepted",
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
    /// The history.jsonl of an earlier run
    pub file: PathBuf,
}

/// The options of `tether`.
#[derive(Args, Clone, Debug)]
pub struct TetherOptions {
    /// The id of the parent process
    pub parent: u32,
    /// The program to run
    pub program: OsString,
    /// Its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub arguments: Vec<OsString>,
}
