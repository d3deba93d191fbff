//! The subcommand `check-url`: what the guard would do with a URL, told to an operator.
//!
//! It looks names up and judges by what the connector dials by ([`SsrfFilter::examine`]), with the settings
//! of the worker that would call back. Nothing is ever dialled.

mod explain;
mod lines;
mod verdicts;

use std::{
    io::{self, Write as _},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use clap::{Arg, ArgMatches, Command};
use storm_shared::{
    config::{CallbackSettings, Settings},
    models::CallbackUrl,
    program::{self, Subcommand},
};
use tokio::time::timeout;

use crate::delivery::{self, Denial, Findings, SsrfFilter, SystemResolver};
pub use verdicts::judge_lines;

/// What it is called on the command line.
const NAME: &str = "check-url";
/// Its one argument.
const URL: &str = "URL";
/// What stands for the URLs on standard input.
const STANDARD_INPUT: &str = "-";

/// The rule of a name that has no address, or none that was found in time.
const UNRESOLVED: &str = "unresolved";

const LONG_HELP: &str = "\
Tells step by step what the guard would do with a callback to URL, with the settings of the worker, and \
dials nothing. The exit status is 0 for a URL that would be called, 1 for one that would be refused, 2 for \
settings or arguments that can't be used.

With - it reads URLs from standard input, one a line, and writes one verdict a line, in their order: \
`allow`, or `deny`, a tab, and the rule. The exit status is 0 once every line has its verdict. The rules:
  too_long, not_utf8, characters, malformed, scheme, userinfo, host, port_zero
      what was sent is no callback URL
  port, unspecified, loopback, private, shared, link_local, documentation, benchmarking, special,
  multicast, reserved, metadata, denied
      where it leads is refused by the policy
  unresolved
      its name has no address, or none was found within CALLBACK_TIMEOUT";

/// Its place on the command line, and what it does.
pub fn subcommand() -> Subcommand {
    Subcommand {
        command: Command::new(NAME)
            .about("Tells what the guard would do with a callback to a URL, and dials nothing")
            .long_about(LONG_HELP)
            .arg(
                Arg::new(URL)
                    .required(true)
                    .help("The URL; or - for one a line of standard input"),
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
    let url: &String = arguments.get_one(URL).expect("clap requires it");
    let told = if url == STANDARD_INPUT {
        judge_lines(&checker, io::stdin(), io::stdout()).await
    } else {
        explain(&checker, url).await
    };
    told.unwrap_or_else(|error| {
        program::print_error(&error);
        ExitCode::FAILURE
    })
}

async fn explain(checker: &Checker, url: &str) -> io::Result<ExitCode> {
    let text = explain::explain(checker, url).await;
    io::stdout().write_all(text.to_string().as_bytes())?;
    Ok(text.exit_code())
}

/// The guard of a worker, and how long it may take.
#[derive(Clone)]
pub struct Checker {
    filter: SsrfFilter,
    timeout: Duration,
}

/// What a worker would do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UrlVerdict {
    /// Dial.
    Allow,
    /// Refuse, by the rule of that name.
    Deny(&'static str),
}

impl Checker {
    /// The guard that a worker with those settings has.
    pub fn of(settings: CallbackSettings) -> Self {
        Self::new(
            SsrfFilter {
                policy: settings.policy,
                resolver: Arc::new(SystemResolver::patient()),
            },
            settings.timeout,
        )
    }

    /// Judges by `guard`, and gives each look-up `timeout`.
    pub fn new(filter: SsrfFilter, timeout: Duration) -> Self {
        Self { filter, timeout }
    }

    /// What a worker would do with `text`.
    pub async fn verdict(&self, text: &str) -> UrlVerdict {
        let url = match CallbackUrl::parse(text) {
            Ok(url) => url,
            Err(error) => return UrlVerdict::Deny(error.name()),
        };
        match self.findings(&url).await.map(Findings::verdict) {
            Some(Ok(_)) => UrlVerdict::Allow,
            Some(Err(Denial::Refused(refusal))) => UrlVerdict::Deny(refusal.class()),
            Some(Err(Denial::Unresolved(_))) | None => UrlVerdict::Deny(UNRESOLVED),
        }
    }

    /// Where `url` leads; nothing where its name is not looked up in time.
    async fn findings(&self, url: &CallbackUrl) -> Option<Findings> {
        // Every CallbackUrl has an origin that HTTP can carry, as far as is known.
        let origin = delivery::origin(url).ok()?;
        timeout(self.timeout, self.filter.examine(&origin))
            .await
            .ok()
    }
}
