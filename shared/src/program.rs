//! The life of a service's process, from its settings to its exit status.

use std::{
    error::Error,
    fmt::Display,
    io::{self, Write as _},
    net::SocketAddr,
    pin::Pin,
    process::ExitCode,
};

use clap::{ArgMatches, Command};
use rustix::process::Signal;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use crate::{
    config::{self, SettingError, Settings},
    healthcheck, server, shutdown, telemetry,
};

/// The exit status of a process whose settings can't be used.
const BAD_SETTINGS: u8 = 2;

/// A service as a program.
pub struct Program {
    /// What it is. Its help is the settings' manual.
    pub command: Command,
    /// Where it listens.
    pub listen: ListenSetting,
    /// What it can be told to do instead of serving, beside `healthcheck`, which every service has.
    pub subcommands: Vec<Subcommand>,
}

/// What a program does instead of serving.
pub struct Subcommand {
    /// Its place on the command line.
    pub command: Command,
    /// Does it, and says how the process ends. One that needs settings loads them: not every one does.
    pub run: fn(ArgMatches) -> SubcommandFuture,
}

/// A subcommand at work.
pub type SubcommandFuture = Pin<Box<dyn Future<Output = ExitCode>>>;

/// Where a service listens.
#[derive(Clone, Copy, Debug)]
pub struct ListenSetting {
    /// The setting that says so.
    pub setting: &'static str,
    /// Its value.
    pub addr: fn(&Settings) -> SocketAddr,
    /// Whether the service may listen there; asked before it does.
    pub check: fn(&Settings) -> Result<(), SettingError>,
}

/// Runs `service` with the process' settings, a listener at its listen, and a token that SIGINT or
/// SIGTERM cancels; or, told a subcommand, runs that. `healthcheck` asks the service that runs already.
///
/// A setting that can't be used is one line on standard error and exit status 2; a service that
/// fails is one line in the log and 1; one that ends in order is 0. For `healthcheck` see there.
pub async fn run(
    program: Program,
    service: impl AsyncFnOnce(Settings, TcpListener, CancellationToken) -> Result<(), Box<dyn Error>>,
) -> ExitCode {
    let Program {
        command,
        listen,
        subcommands,
    } = program;
    let arguments = command
        .after_long_help(config::MANUAL)
        .subcommand(healthcheck::command())
        .subcommands(subcommands.iter().map(|known| known.command.clone()))
        .disable_help_subcommand(true)
        .get_matches();
    let told = arguments.subcommand();
    if let Some((name, arguments)) = told
        && let Some(known) = subcommands.iter().find(|known| known.is(name))
    {
        return (known.run)(arguments.clone()).await;
    }
    let settings = match Settings::load() {
        Ok(settings) => settings,
        Err(error) => return refuse(&error),
    };
    if told.is_some() {
        return check_health(listen, &settings).await; // the one that is left
    }
    if let Err(error) = (listen.check)(&settings) {
        return refuse(&error);
    }
    telemetry::start(&settings.log);
    for variable in &settings.unknown_variables {
        warn!(
            variable,
            "looks like a setting and is none: is its name misspelled?"
        );
    }
    raise_descriptor_limit();
    survive_file_size_limit();
    let ended = async {
        let shutdown = shutdown::on_signal()?;
        let listener = server::bind(listen.setting, (listen.addr)(&settings)).await?;
        service(settings, listener, shutdown).await
    };
    match ended.await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!(%error, "the service stops");
            ExitCode::FAILURE
        }
    }
}

impl Subcommand {
    fn is(&self, name: &str) -> bool {
        self.command.get_name() == name
    }
}

async fn check_health(listen: ListenSetting, settings: &Settings) -> ExitCode {
    let (setting, addr) = (listen.setting, (listen.addr)(settings));
    if addr.port() == 0 {
        let problem = "the service takes a free port, which nobody else knows: give it one";
        return refuse(&format_args!("{setting}={addr}: {problem}"));
    }
    match healthcheck::ask(addr).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(unwell) => {
            complain(&format_args!("{setting}={addr}: {unwell}"));
            ExitCode::FAILURE
        }
    }
}

/// Says why settings or arguments can't be used, and gives the exit status for it.
pub fn refuse(problem: &dyn Display) -> ExitCode {
    complain(problem);
    ExitCode::from(BAD_SETTINGS)
}

/// Says a problem on standard error.
pub fn complain(problem: &dyn Display) {
    // Or nobody reads it.
    let _ = writeln!(io::stderr(), "{problem}");
}

/// Each connection takes a descriptor, and many systems start a process with 1024 of them.
fn raise_descriptor_limit() {
    match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(descriptors) => debug!(descriptors, "open files allowed"),
        Err(error) => warn!(%error, "the limit of open files can't be raised"),
    }
}

/// A write past a limit of file sizes (`ulimit -f`, `LimitFSIZE`) is an error like that of a full disk,
/// which the store lives through; but it comes with a signal that ends a process which doesn't take it.
/// The handler stays when the stream that is made with it is dropped.
fn survive_file_size_limit() {
    if let Err(error) = signal(SignalKind::from_raw(Signal::XFSZ.as_raw())) {
        warn!(%error, "a limit of file sizes would end this process");
    }
}
