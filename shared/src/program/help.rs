//! The help of a service. Its `--help` prints a settings file: clap's help as TOML comments, then
//! the manual of the settings.
//!
//! The manual is printed as it is. clap would wrap its lines, and a wrapped comment is not TOML.

use std::{env, process::ExitCode};

use clap::{ArgMatches, Command, error::ErrorKind};

use super::output;
use crate::config;

/// The width of a default terminal, in columns.
const COLUMNS: usize = 80;
/// Makes a line of help a TOML comment.
const COMMENT: &str = "# ";

const SHORT_FOOTER: &str = "--help prints every setting with its default.";
const LONG_FOOTER: &str = "This help is a settings file. Save it, change the values below, and set \
    STORM_CONFIG to its path.";

/// Parses the command line.
///
/// # Errors
/// The exit status, after help, the version or an error in the arguments was printed.
pub(super) fn parse_or_print(command: Command) -> Result<ArgMatches, ExitCode> {
    let mut command = with_footers(command);
    command
        .try_get_matches_from_mut(env::args_os())
        .map_err(|error| {
            if is_long_help(&error, &mut command) {
                output::print(settings_file(command).as_bytes())
            } else {
                output::print_clap(&error)
            }
        })
}

fn with_footers(command: Command) -> Command {
    command
        .after_help(SHORT_FOOTER)
        .after_long_help(LONG_FOOTER)
}

/// Whether `error` is the program's own `--help`. clap reports all help as the same kind of error:
/// `-h` and the help of a subcommand differ by their text only.
fn is_long_help(error: &clap::Error, command: &mut Command) -> bool {
    error.kind() == ErrorKind::DisplayHelp
        && error.render().to_string() == command.render_long_help().to_string()
}

/// The long help of `command` as TOML comments, and the manual.
fn settings_file(command: Command) -> String {
    let mut command = command.term_width(COLUMNS - COMMENT.len());
    let help = command.render_long_help().to_string();
    let mut text = String::new();
    for line in help.trim_end().lines() {
        text.push_str(format!("{COMMENT}{line}").trim_end());
        text.push('\n');
    }
    text.push('\n');
    text.push_str(config::MANUAL);
    text
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use clap::Command;

    use super::{COLUMNS, is_long_help, settings_file, with_footers};
    use crate::{
        config::{MANUAL, Settings},
        healthcheck,
    };

    fn command() -> Command {
        let command = Command::new("storm-test")
            .version("1.2.3")
            .about("A service whose description is too long for one line of an 80-column terminal")
            .subcommand(healthcheck::command());
        with_footers(command)
    }

    #[test]
    fn the_long_help_is_a_settings_file_with_the_defaults() {
        let text = settings_file(command());
        assert!(text.ends_with(MANUAL));
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        let settings = Settings::from_file(file.path()).unwrap();
        let defaults = Settings::with([]).unwrap();
        assert_eq!(format!("{settings:?}"), format!("{defaults:?}"));
    }

    #[test]
    fn the_long_help_fits_into_a_terminal() {
        for line in settings_file(command()).lines() {
            assert!(line.chars().count() <= COLUMNS, "{line}");
        }
    }

    #[test]
    fn the_long_help_describes_usage_options_and_subcommands() {
        let text = settings_file(command());
        let help = text.strip_suffix(MANUAL).unwrap();
        for part in [
            "# A service",
            "# Usage: storm-test",
            "#   healthcheck ",
            "#   -h, --help",
        ] {
            assert!(help.contains(part), "{part}: {help}");
        }
    }

    #[test]
    fn only_the_programs_own_long_help_is_a_settings_file() {
        for (arguments, expected) in [
            (&["--help"][..], true),
            (&["-h"], false),
            (&["-V"], false),
            (&["healthcheck", "--help"], false),
            (&["healthcheck", "-h"], false),
            (&["--unknown"], false),
        ] {
            let mut command = command();
            let line = ["storm-test"].iter().chain(arguments);
            let error = command.try_get_matches_from_mut(line).unwrap_err();
            assert_eq!(
                is_long_help(&error, &mut command),
                expected,
                "{arguments:?}"
            );
        }
    }

    #[test]
    fn the_short_help_points_to_the_long_one() {
        let help = command().render_help().to_string();
        assert!(help.contains("--help prints every setting"), "{help}");
        assert!(!help.contains("db_url"), "{help}");
    }
}
