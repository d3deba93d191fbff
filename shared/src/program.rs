//! The process of a service, from its settings to its exit status.

mod completions;
mod descriptors;
mod hangup;
mod help;
mod output;
mod threads;

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
use tracing::{error, warn};

use crate::{
    config::{Rereader, SettingError, Settings, Warning},
    healthcheck, server,
    shutdown::Shutdown,
    telemetry,
    traces::Plan,
};

pub use self::{descriptors::DescriptorBudget, output::print_clap};

/// The exit status for settings or arguments that are not accepted.
const USAGE_ERROR: u8 = 2;

/// A service as a program.
pub struct Program {
    /// The command line. [`run`] adds the manual of the settings to its `--help`.
    pub command: Command,
    /// The address at which the service listens.
    pub listen: ListenSetting,
    /// How the service spends file descriptors.
    pub descriptors: DescriptorBudget,
    /// Those of [`REREAD`](crate::config::REREAD) that it uses.
    pub rereads: &'static [&'static str],
    /// The subcommands, beside `healthcheck` and `completions`, which every service has.
    pub subcommands: Vec<Subcommand>,
}

/// A subcommand, which runs instead of the service.
pub struct Subcommand {
    /// Its command line.
    pub command: Command,
    /// Runs it and returns the exit status. It loads the settings itself if it needs them.
    pub run: fn(ArgMatches) -> SubcommandFuture,
}

/// A running subcommand.
pub type SubcommandFuture = Pin<Box<dyn Future<Output = ExitCode>>>;

type ServiceResult = Result<(), Box<dyn Error>>;

/// The setting of the address at which a service listens.
#[derive(Clone, Copy, Debug)]
pub struct ListenSetting {
    /// The setting's name.
    pub setting: &'static str,
    /// The setting's value.
    pub addr: fn(&Settings) -> SocketAddr,
    /// Checks whether the service may listen there. Called before it binds the address.
    pub check: fn(&Settings) -> Result<(), SettingError>,
}

/// Runs a program's `main` on a new runtime, as `#[tokio::main]` does. If the runtime cannot start,
/// for lack of descriptors or threads, prints one line, where `#[tokio::main]` would panic.
pub fn start(main: impl Future<Output = ExitCode>) -> ExitCode {
    let workers = match threads::workers() {
        Ok(workers) => workers.get(),
        Err(error) => return usage_error(&error),
    };
    if let Err(error) = threads::try_to_start(workers) {
        return cannot_start(&error);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => runtime.block_on(main),
        Err(error) => cannot_start(&error),
    }
}

fn cannot_start(error: &dyn Display) -> ExitCode {
    print_error(&format_args!("the process cannot start: {error}"));
    ExitCode::FAILURE
}

/// Runs `service` with the process's settings, a listener, and the shutdown that a signal begins.
/// If the command line has a subcommand, runs that instead.
///
/// The exit status is 0 after a graceful shutdown. It is 1 if the service fails, with one line in
/// the log, whatever `LOG` is. It is 2 if a setting or an argument is not accepted, with a message
/// on standard error. `healthcheck` documents its own.
pub async fn run(
    program: Program,
    service: impl AsyncFnOnce(Settings, TcpListener, Shutdown) -> ServiceResult,
) -> ExitCode {
    let Program {
        command,
        listen,
        descriptors,
        rereads,
        subcommands,
    } = program;
    let name = command.get_name().to_owned();
    let command = command
        .subcommand(healthcheck::command())
        .subcommand(completions::command())
        .subcommands(subcommands.iter().map(|known| known.command.clone()))
        .disable_help_subcommand(true);
    let arguments = match help::parse_or_print(command.clone()) {
        Ok(arguments) => arguments,
        Err(status) => return status,
    };
    let subcommand = arguments.subcommand();
    if let Some((completions::NAME, arguments)) = subcommand {
        return completions::print(command, arguments);
    }
    // Before the settings are read: `token new` must work where they are not accepted yet.
    if let Some((name, arguments)) = subcommand
        && let Some(known) = subcommands.iter().find(|known| known.is(name))
    {
        return (known.run)(arguments.clone()).await;
    }
    let (settings, rereader) = match Settings::load_rereadable() {
        Ok(loaded) => loaded,
        Err(error) => return usage_error(&error),
    };
    if subcommand.is_some() {
        return check_health(listen, &settings).await; // The only subcommand that is left.
    }
    let rereads = (rereader, rereads);
    serve(&name, listen, descriptors, settings, rereads, service).await
}

impl Subcommand {
    fn is(&self, name: &str) -> bool {
        self.command.get_name() == name
    }
}

async fn serve(
    name: &str,
    listen: ListenSetting,
    descriptors: DescriptorBudget,
    mut settings: Settings,
    (rereader, rereads): (Option<Rereader>, &'static [&'static str]),
    service: impl AsyncFnOnce(Settings, TcpListener, Shutdown) -> ServiceResult,
) -> ExitCode {
    // Before the log is set up and the address is bound: a refusal is one line on standard error.
    if let Err(error) = (listen.check)(&settings) {
        return usage_error(&error);
    }
    let traces = match Plan::from_env() {
        Ok(traces) => traces,
        Err(error) => return usage_error(&error),
    };
    let log = telemetry::start(&settings.log);
    if let Err(error) = descriptors::fit(&descriptors, &mut settings, traces.descriptors()) {
        print_error(&error);
        return ExitCode::FAILURE;
    }
    if let Err(error) = threads::try_to_start(threads::OF_A_SERVICE + traces.threads()) {
        return cannot_start(&error);
    }
    for variable in &settings.unknown_variables {
        warn!(
            variable,
            "unknown setting in the environment; check the spelling"
        );
    }
    for Warning { setting, problem } in &settings.warnings {
        warn!(setting, problem, "a setting is doubtful");
    }
    // Not the warnings above: each names another setting.
    log.bound();
    let traces = traces.start(name);
    survive_file_size_limit();
    let served = async {
        // First: a SIGTERM during the start must shut the service down gracefully, too.
        let shutdown = Shutdown::on_signal(settings.shutdown_delay)?;
        hangup::reread_on_hangup(rereader, listen.check, rereads)?;
        let listener = server::bind(listen.setting, (listen.addr)(&settings))?;
        // Boxed: a service is one future of many kilobytes, too large for the stack.
        Box::pin(service(settings, listener, shutdown)).await
    };
    let served = served.await;
    let status = match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!(target: telemetry::FATAL, %error, "the service failed");
            ExitCode::FAILURE
        }
    };
    // After that line: the flush may take 2 s, in which the process can be killed.
    traces.flush().await;
    log.count();
    status
}

async fn check_health(listen: ListenSetting, settings: &Settings) -> ExitCode {
    let (setting, addr) = (listen.setting, (listen.addr)(settings));
    if addr.port() == 0 {
        let problem = "healthcheck needs a fixed port; port 0 takes any free port";
        return usage_error(&format_args!("{setting}={addr}: {problem}"));
    }
    match healthcheck::check(addr).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(unhealthy) => {
            print_error(&format_args!("{setting}={addr}: {unhealthy}"));
            ExitCode::FAILURE
        }
    }
}

/// Prints why settings or arguments are not accepted. Returns the exit status for that.
pub fn usage_error(problem: &dyn Display) -> ExitCode {
    print_error(problem);
    ExitCode::from(USAGE_ERROR)
}

/// Prints a problem on standard error.
pub fn print_error(problem: &dyn Display) {
    // A closed standard error leaves nowhere to report that to.
    let _ = writeln!(io::stderr(), "{problem}");
}

/// Handles SIGXFSZ, which a write past the file size limit (`ulimit -f`, `LimitFSIZE`) raises.
///
/// By default the signal kills the process. When it is handled, the write fails with an error like
/// that of a full disk, from which the store recovers. The handler stays installed after its stream
/// is dropped.
pub fn survive_file_size_limit() {
    if let Err(error) = signal(SignalKind::from_raw(Signal::XFSZ.as_raw())) {
        warn!(%error, "SIGXFSZ cannot be handled; it kills this process at the file size limit");
    }
}
