//! The subcommand `completions`: prints the shell's completions of a service's command line.

use std::process::ExitCode;

use clap::{Arg, ArgMatches, Command, builder::PossibleValuesParser};
use clap_complete::{Shell, generate};

use super::output;

/// The subcommand's name.
pub(super) const NAME: &str = "completions";

const SHELL: &str = "SHELL";

/// The subcommand's command line.
pub(super) fn command() -> Command {
    let shell = Arg::new(SHELL)
        .required(true)
        .value_parser(PossibleValuesParser::new(["bash", "zsh", "fish"]))
        .help("The shell");
    Command::new(NAME)
        .about("Prints shell completions")
        .long_about(
            "Prints the completions of this program for a shell. For bash, in ~/.bashrc: \
             source <(storm-api completions bash). For zsh, in a folder of $fpath: \
             storm-api completions zsh >_storm-api. For fish: \
             storm-api completions fish >~/.config/fish/completions/storm-api.fish",
        )
        .arg(shell)
}

/// Prints the completions of `command` for the shell that `arguments` name.
pub(super) fn print(mut command: Command, arguments: &ArgMatches) -> ExitCode {
    let shell = match arguments.get_one::<String>(SHELL).map(String::as_str) {
        Some("zsh") => Shell::Zsh,
        Some("fish") => Shell::Fish,
        _ => Shell::Bash,
    };
    let name = command.get_name().to_owned();
    // Into memory: clap_complete panics if it can't write.
    let mut text = Vec::new();
    generate(shell, &mut command, name, &mut text);
    output::print(&text)
}
