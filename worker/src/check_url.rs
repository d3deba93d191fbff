//! The subcommand `check-url`: checks a URL against the SSRF policy, for operators.
//!
//! It resolves and checks with the same code as the connector
//! ([`SsrfFilter::resolve`](crate::delivery::SsrfFilter::resolve)) and with the worker's settings.
//! It opens no connection to the URL.

mod checker;
mod explain;
mod lines;
mod verdicts;

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use clap::{Arg, ArgMatches, Command};
use storm_shared::{
    config::Settings,
    program::{self, Subcommand},
};

pub use checker::{Checker, UrlVerdict};
pub use verdicts::judge_lines;

/// The name on the command line.
const NAME: &str = "check-url";
/// The only argument.
const URL: &str = "URL";
/// The argument that selects standard input.
const STANDARD_INPUT: &str = "-";

const LONG_HELP: &str = "\
Checks URL step by step against the SSRF policy, with the settings of the worker. Opens no \
connection to it. The exit status is 0 if the URL is allowed, 1 if it is denied, and 2 if the \
settings or arguments are invalid.

With -, reads one URL per line from standard input and writes one verdict per line, in the same \
order: `allow`, or `deny`, a tab, and the rule. The exit status is 0 once every line has a verdict. \
The rules:
  too_long, not_utf8, characters, malformed, scheme, userinfo, host, port_zero
      the text is not a valid callback URL
  port, unspecified, loopback, private, shared, link_local, documentation, benchmarking, special,
  multicast, reserved, metadata, denied
      the SSRF policy refuses the port or an address
  unresolved
      the name has no address, or the look-up failed or exceeded CALLBACK_TIMEOUT";

/// The subcommand and its entry point.
pub fn subcommand() -> Subcommand {
    Subcommand {
        command: Command::new(NAME)
            .about("Checks a URL against the SSRF policy without connecting to it")
            .long_about(LONG_HELP)
            .arg(
                Arg::new(URL)
                    .required(true)
                    .help("The URL to check, or - to read one URL per line from standard input"),
            ),
        run: |arguments| Box::pin(run(arguments)),
    }
}

async fn run(arguments: ArgMatches) -> ExitCode {
    let settings = match Settings::load() {
        Ok(settings) => settings,
        Err(error) => return program::usage_error(&error),
    };
    for variable in &settings.unknown_variables {
        program::print_error(&format_args!(
            "{variable}: unknown setting in the environment; check the spelling"
        ));
    }
    let checker = Checker::of(settings.callback);
    #[expect(
        clippy::expect_used,
        reason = "clap rejects a command line without URL"
    )]
    let url: &String = arguments.get_one(URL).expect("clap requires URL");
    let result = if url == STANDARD_INPUT {
        judge_lines(&checker, io::stdin(), io::stdout()).await
    } else {
        explain(&checker, url).await
    };
    result.unwrap_or_else(|error| {
        program::print_error(&error);
        ExitCode::FAILURE
    })
}

async fn explain(checker: &Checker, url: &str) -> io::Result<ExitCode> {
    let text = explain::explain(checker, url).await;
    // Not `print!`, which panics if the output is a closed pipe.
    io::stdout().write_all(text.to_string().as_bytes())?;
    Ok(text.exit_code())
}
