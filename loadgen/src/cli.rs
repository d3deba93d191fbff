//! The command line: commands, and the checks that involve more than one option.

mod chaos;
mod options;
mod payload;
mod token;
mod values;

use std::ffi::OsString;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, error::ErrorKind};

#[cfg(not(feature = "postgres"))]
pub(crate) use self::chaos::NO_POSTGRES;
pub use self::{
    chaos::{ChaosOptions, CheckOptions, TetherOptions},
    options::{Callbacks, DemoOptions, ReceiveOptions, ReportOptions, StormOptions, Target},
    payload::Payload,
    token::GivenToken,
    values::MAX_REQUESTS,
};
use crate::layout::Layout;

/// Help in longer lines is hard to read.
const MAX_HELP_WIDTH: u16 = 100;

/// Sends the same load of report requests to /sync and /async, receives the callbacks, and compares
/// the two.
///
/// If the environment variable `CALLBACK_SIGNING_SECRETS` holds the worker's signing secrets, the
/// signature and the timestamp of every callback are checked.
///
/// Exit status: 0 if every job completed correctly; 1 if one did not, the run could not start, or
/// its result could not be written; 2 for an invalid option; 3 if every job completed correctly,
/// but a condition of --fail-if was met; 130 if SIGINT (Ctrl-C) or SIGTERM interrupted the run,
/// which still prints what it has measured, and judges no condition. A second Ctrl-C ends at once.
/// Both signals are the usual end of `receive`, whose status is 1 after an invalid signature.
#[derive(Clone, Debug, Parser)]
#[command(version, arg_required_else_help = true)]
pub struct Cli {
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Send concurrent requests to /sync, then to /async, and print a comparison
    Demo(DemoOptions),
    /// Send requests at a constant rate, whether or not earlier ones were answered
    // clap does not wrap this line, here and below.
    #[command(
        override_usage = "storm-loadgen storm --mode <MODE> --rate <R>\n         \
                          --duration <DURATION> --records <N> [OPTIONS]\n       \
                          storm-loadgen storm --handler <NAME> --payload <FILE>\n         \
                          --rate <R> --duration <DURATION> [OPTIONS]"
    )]
    Storm(StormOptions),
    /// Make a report with plots of results that --json has written
    Report(ReportOptions),
    /// Receive callbacks, answer them and count them
    Receive(ReceiveOptions),
    /// Start a stack, inject faults under load, and check what happened
    #[command(
        override_usage = "storm-loadgen chaos --bin <DIR> --redis-server <FILE>\n         \
                          --dir <DIR> [OPTIONS]"
    )]
    Chaos(ChaosOptions),
    /// Check the recorded history of a chaos run again
    Check(CheckOptions),
    /// Run a program that is killed when its parent process ends
    #[command(hide = true)]
    Tether(TetherOptions),
}

impl Cli {
    /// Parses a command line that begins with the program's name.
    ///
    /// # Errors
    /// An option is invalid, or help was requested.
    pub fn read(
        args: impl IntoIterator<Item = impl Into<OsString> + Clone>,
    ) -> Result<Self, clap::Error> {
        let help_width = Layout::of_stdout().width.min(MAX_HELP_WIDTH);
        let mut command = Self::command().term_width(help_width.into());
        let mut matches = command.try_get_matches_from_mut(args)?;
        let cli = Self::from_arg_matches_mut(&mut matches)?;
        // Not in the value parsers: each of these sees one option, and clap's error would repeat
        // the token.
        let checked = match &cli.command {
            Command::Demo(options) => options.target.check(),
            Command::Storm(options) => options.target.check().and_then(|()| options.check()),
            Command::Chaos(options) => options.check(),
            _ => Ok(()),
        };
        checked.map_err(|problem| command.error(ErrorKind::ValueValidation, problem))?;
        Ok(cli)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use storm_shared::models::Mode;

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
            panic!("not a demo")
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
            ("storm --rate 1 --duration 1s", "--mode <MODE>"),
            (
                "storm --handler a --rate 1 --duration 1s",
                "--payload <FILE>",
            ),
            (
                "storm --payload Cargo.toml --mode async --rate 1 --duration 1s --records 1",
                "one JSON value",
            ),
            (
                "storm --handler a --payload /no/such/file --rate 1 --duration 1s",
                "can't be read: No such file",
            ),
            (
                "storm --handler A --payload /dev/null --rate 1 --duration 1s",
                "a lower-case letter, then",
            ),
            (
                "storm --handler report --payload /dev/null --rate 1 --duration 1s",
                "use --mode async and --records",
            ),
            (
                "storm --mode async --rate 1 --duration 1s --records 1 --fail-if p98>1s",
                "there is no figure `p98`; there are p50",
            ),
            (
                "storm --mode async --rate 1 --duration 1s --records 1 --fail-if lost",
                "such as p99>50ms or lost>0",
            ),
            (
                "storm --mode sync --rate 1 --duration 1s --records 1 --fail-if lost>0",
                "it is a figure of jobs, and /sync makes none",
            ),
            ("demo --fail-if p99>1s", "there are sync.p50"),
            (
                "chaos --bin a --redis-server b --dir c --fail-if recovery.promotion>1s",
                "without --postgres no standby is promoted",
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
    fn a_storm_of_a_handler_is_async_and_has_no_records() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "{}").unwrap();
        let line = format!(
            "storm --handler a --payload {} --rate 1 --duration 1s",
            file.path().display()
        );
        let Command::Storm(storm) = read(&line).unwrap().command else {
            panic!("not a storm")
        };
        assert_eq!((storm.mode, storm.records), (Mode::Async, None));
        assert!(read(&format!("{line} --mode async")).is_ok());
        for (more, why) in [
            ("--mode sync", "jobs of a handler are async"),
            ("--records 1", "cannot be used with"),
        ] {
            let error = read(&format!("{line} {more}")).expect_err(more);
            assert!(error.contains(why), "{more}: {error}");
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
                panic!("not a storm")
            };
            assert_eq!(storm.requests(), requests);
        }
    }
}
