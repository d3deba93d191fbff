//! The command line: what can be asked for, and what is accepted.

mod chaos;
mod token;
mod values;

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{Args, CommandFactory, Parser, Subcommand, error::ErrorKind};
use hyper::header::HeaderValue;
use storm_shared::models::{Mode, Records};

pub use self::chaos::{ChaosOptions, CheckOptions, TetherOptions};
pub use self::token::GivenToken;
use self::values::{duration, status_code};
use crate::{
    http_url::HttpUrl,
    listen::{ListenAddr, Listener},
};

/// The most requests in one storm.
pub const MAX_REQUESTS: u64 = 2_000_000;

/// The longest duration that any option takes.
const LONGEST: Duration = Duration::from_hours(1);

/// Fires the same storm of report requests at /sync and /async, receives the callbacks, and shows
/// the difference.
///
/// With the secrets that the worker signs by in the environment, as `CALLBACK_SIGNING_SECRETS`, the
/// signature and the time of every callback are checked.
///
/// Exit status: 0 when every job came back exactly right, 1 for a failed run, 2 for a wrong option,
/// 130 when interrupted.
#[derive(Clone, Debug, Parser)]
#[command(version, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What there is to do.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// The show: the same requests at once to /sync, then to /async, and a table of the difference
    Demo(DemoOptions),
    /// A load run at an open arrival rate: requests fall due whether or not earlier ones were answered
    Storm(StormOptions),
    /// Only receive callbacks, answer them and count them
    Receive(ReceiveOptions),
    /// A storm on a stack of its own while everything is broken that can break, and a judgement of it
    Chaos(ChaosOptions),
    /// Judge the history of a chaos run anew
    Check(CheckOptions),
    /// Run a program that is killed when the one that wants it ends
    #[command(hide = true)]
    Tether(TetherOptions),
}

/// Which API, and how patiently.
#[derive(Args, Clone, Debug)]
pub struct Target {
    /// The API: an http:// URL on any host that you may put under load
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8000")]
    pub api: HttpUrl,
    /// The token to send to an API that asks for one; better given by the environment, for everybody
    /// on the host sees a command line
    #[arg(
        long,
        value_name = "TOKEN",
        env = "STORM_TOKEN",
        hide_env_values = true
    )]
    pub token: Option<GivenToken>,
    /// How long after a request is due its answer may take
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    pub timeout: Duration,
}

impl Target {
    /// What goes with each request to it.
    pub(crate) fn authorization(&self) -> Option<HeaderValue> {
        let token = self.token.as_ref()?;
        token.authorization().ok()? // it was checked with the options
    }

    fn check(&self) -> Result<(), String> {
        let token = self.token.as_ref();
        token.map_or(Ok(()), |token| {
            token.authorization().map(drop).map_err(ToOwned::to_owned)
        })
    }
}

/// Where callbacks arrive, and how patiently they are waited for.
#[derive(Args, Clone, Debug)]
pub struct Callbacks {
    /// Where to receive callbacks; localhost means 127.0.0.1, and `::1` where there is one; port 0
    /// takes a free one
    #[arg(long, value_name = "ADDR", default_value = "localhost:8001")]
    pub listen: ListenAddr,
    /// The URL that the worker calls back; it must lead to --listen
    /// [default: `http://localhost:8001/webhook`, with --listen's address if that is another]
    #[arg(long, value_name = "URL")]
    pub callback_url: Option<HttpUrl>,
    /// How long past a report's ideal duration the last callback may take; the default covers the
    /// retries (2, 4 and 8 s) and their timeouts (10 s each)
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration)]
    pub patience: Duration,
}

impl Callbacks {
    /// The URL to be called back at, and its path.
    pub fn url(&self, listener: &Listener) -> (String, String) {
        match &self.callback_url {
            Some(url) => (url.as_str().to_owned(), url.path().to_owned()),
            None => (listener.url(WEBHOOK), WEBHOOK.to_owned()),
        }
    }
}

const WEBHOOK: &str = "/webhook";

/// The options of `demo`.
#[derive(Args, Clone, Debug)]
pub struct DemoOptions {
    /// Which API.
    #[command(flatten)]
    pub target: Target,
    /// Where callbacks arrive.
    #[command(flatten)]
    pub callbacks: Callbacks,
    /// Requests at once, to each of /sync and /async: 1 to 1000
    #[arg(long, value_name = "N", default_value = "50", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub requests: u32,
    /// The size of each report, 10 ms each: 1 to 49
    #[arg(long, value_name = "N", default_value = "49", value_parser = values::sync_records)]
    pub records: Records,
    /// Write the whole result to this file as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// The options of `storm`.
#[derive(Args, Clone, Debug)]
pub struct StormOptions {
    /// Which API.
    #[command(flatten)]
    pub target: Target,
    /// Where callbacks arrive.
    #[command(flatten)]
    pub callbacks: Callbacks,
    /// Which endpoint: `/sync` answers with the report, `/async` has it called back
    #[arg(long, value_parser = values::mode())]
    pub mode: Mode,
    /// Requests due per second: 1 to 50000; latencies count from the moment a request was due
    #[arg(long, value_name = "R", value_parser = clap::value_parser!(u32).range(1..=50_000))]
    pub rate: u32,
    /// How long requests fall due, such as 10s or 500ms: at most 1h, and 2000000 requests
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub duration: Duration,
    /// The size of each report, 10 ms each: 1 to 49 for sync, 1 to 100000 for async
    #[arg(long, value_name = "N", value_parser = values::async_records)]
    pub records: Records,
    /// Requests in flight at once: 1 to 20000; one more that falls due is counted as not sent
    #[arg(long, value_name = "N", default_value = "5000", value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub in_flight: u32,
    /// Receive no callbacks: submit the jobs without a callback URL and poll them; chosen by itself
    /// where one job tried beforehand is not called back
    #[arg(long, visible_alias = "no-receiver")]
    pub poll: bool,
    /// Write the whole result to this file as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Append one line to this CSV file, with a header where it is new
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,
}

impl StormOptions {
    /// How many requests fall due in all: at least one.
    pub fn requests(&self) -> u64 {
        let millis = u64::try_from(self.duration.as_millis()).unwrap_or(u64::MAX);
        (millis.saturating_mul(self.rate.into()) / 1000).max(1)
    }

    fn check(&self) -> Result<(), String> {
        if self.requests() > MAX_REQUESTS {
            return Err(format!(
                "--rate {} over --duration {} makes {} requests; at most {MAX_REQUESTS} are accepted",
                self.rate,
                humantime::format_duration(self.duration),
                self.requests()
            ));
        }
        if self.mode == Mode::Sync && self.records.count() > Records::MAX_SYNC {
            return Err(format!(
                "--records {} is more than /sync takes; it must be a whole number from 1 to {}",
                self.records.count(),
                Records::MAX_SYNC
            ));
        }
        Ok(())
    }
}

/// The options of `receive`.
#[derive(Args, Clone, Debug)]
pub struct ReceiveOptions {
    /// Where to receive callbacks, on any path; GET /stats tells the counts
    #[arg(long, value_name = "ADDR", default_value = "localhost:8001")]
    pub listen: ListenAddr,
    /// Answer the first N callbacks with 500
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub fail_first: u64,
    /// Answer the others with this status: 200 to 599
    #[arg(long, value_name = "CODE", default_value = "200", value_parser = status_code)]
    pub status: hyper::StatusCode,
}

impl Cli {
    /// Reads a command line, the program's name first.
    ///
    /// # Errors
    /// An option is wrong, or help was asked for; the error says so in the user's words, and
    /// exits with 2 or 0.
    pub fn read(
        args: impl IntoIterator<Item = impl Into<OsString> + Clone>,
    ) -> Result<Self, clap::Error> {
        let cli = Self::try_parse_from(args)?;
        let checked = match &cli.command {
            Command::Demo(options) => options.target.check(),
            Command::Storm(options) => options.target.check().and_then(|()| options.check()),
            Command::Chaos(options) => options.check(),
            _ => Ok(()),
        };
        let wrong = |what| Self::command().error(ErrorKind::ValueValidation, what);
        checked.map_err(wrong)?;
        Ok(cli)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::{Cli, Command};

    fn read(line: &str) -> Result<Cli, String> {
        let args = std::iter::once("storm-loadgen").chain(line.split_whitespace());
        Cli::read(args).map_err(|error| error.to_string())
    }

    #[test]
    fn every_option_of_every_command_has_help() {
        Cli::command().debug_assert();
        for command in Cli::command().get_subcommands() {
            for argument in command.get_arguments() {
                assert!(
                    argument.get_help().is_some(),
                    "{} {argument}",
                    command.get_name()
                );
            }
        }
    }

    #[test]
    fn the_demo_needs_no_option() {
        let Command::Demo(demo) = read("demo").unwrap().command else {
            panic!("it was asked for")
        };
        assert_eq!((demo.requests, demo.records.count()), (50, 49));
        assert_eq!(demo.callbacks.listen.to_string(), "localhost:8001");
        assert_eq!(demo.target.api.to_string(), "http://127.0.0.1:8000");
    }

    #[test]
    fn a_wrong_value_is_refused_with_what_is_accepted() {
        for (line, accepted) in [
            ("demo --api https://a", "http://"),
            ("demo --listen 8001", "localhost:PORT"),
            ("demo --requests 0", "1..=1000"),
            ("demo --records 50", "1 to 49"),
            ("demo --timeout 5", "such as 10s"),
            ("demo --patience 2h", "1h"),
            (
                "storm --mode both --rate 1 --duration 1s --records 1",
                "sync, async",
            ),
            (
                "storm --mode sync --rate 50001 --duration 1s --records 1",
                "1..=50000",
            ),
            (
                "storm --mode sync --rate 1 --duration 0s --records 1",
                "such as 10s",
            ),
            (
                "storm --mode sync --rate 1 --duration 1s --records 50",
                "1 to 49",
            ),
            (
                "storm --mode async --rate 1 --duration 1s --records 100001",
                "1 to 100000",
            ),
            (
                "storm --mode async --rate 50000 --duration 1m --records 1",
                "at most 2000000",
            ),
            (
                "storm --mode async --rate 1 --duration 1s --records 1 --in-flight 0",
                "1..=20000",
            ),
            ("receive --status 99", "200 to 599"),
            (
                "chaos --bin a --redis-server b --dir c --jobs 2000000 --duration 10s",
                "at most 50000",
            ),
            (
                "chaos --bin a --redis-server b --dir c --lease 100ms",
                "500ms to 30s",
            ),
        ] {
            let error = read(line).expect_err(line);
            assert!(error.contains(accepted), "{line}: {error}");
        }
    }

    #[test]
    fn a_storm_is_at_least_one_request() {
        for (line, requests) in [
            (
                "storm --mode async --rate 1000 --duration 30s --records 50000",
                30_000,
            ),
            ("storm --mode sync --rate 1 --duration 1ms --records 49", 1),
        ] {
            let Command::Storm(storm) = read(line).unwrap().command else {
                panic!("asked for")
            };
            assert_eq!(storm.requests(), requests);
        }
    }
}
