//! Sends the same load to `/sync` and `/async`, receives the callbacks, and compares the two.
//!
//! * [`cli`]: the command line; [`run`] executes it.
//! * [`demo`], [`storm`], [`sink`], [`chaos`]: the commands.
//! * [`workload`]: the reports to request, and their expected results.
//! * [`requester`], [`client`]: one measured request, and the API's HTTP client.
//! * [`listen`], [`receiver`], [`ledger`]: the callback listener, and the pairing of each callback
//!   with its `202`.
//! * [`signatures`]: the check of callback signatures.
//! * [`latency`], [`answers`]: the statistics, free of I/O.
//! * [`report`]: results as text, tables, JSON and CSV.

pub mod answers;
pub mod chaos;
pub mod cli;
pub mod client;
pub mod demo;
pub mod http_url;
pub mod latency;
pub mod ledger;
pub mod listen;
mod progress;
pub mod receiver;
pub mod report;
pub mod requester;
pub mod signatures;
pub mod sink;
pub mod storm;
pub mod workload;

use std::{
    fs::File,
    io::{self, BufReader, Write},
    process::ExitCode,
};

use anyhow::{Context as _, Result};
use storm_shared::shutdown;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::filter::LevelFilter;

pub use self::cli::Cli;
use self::{
    chaos::tether,
    cli::{ChaosOptions, CheckOptions, Command, DemoOptions, StormOptions},
    report::export,
    signatures::Signatures,
};

/// The exit status of an interrupted run: 128 + SIGINT, as shells report it.
const INTERRUPTED: u8 = 130;

/// Runs a command. The exit status is 0 if every check passed, 1 if one failed, and 130 if a
/// signal interrupted the run.
///
/// # Errors
/// The run could not start (no API listens at the address, the callback port is taken), or its
/// result could not be written.
pub async fn run(cli: Cli) -> Result<ExitCode> {
    // The accept loop logs a warning when it can't accept callbacks. The error means that a
    // subscriber is set already, as in tests.
    let _ = tracing_subscriber::fmt()
        .with_max_level(LevelFilter::WARN)
        .with_writer(io::stderr)
        .try_init();
    match cli.command {
        // No session: this process becomes another program, which must not inherit our setup.
        Command::Tether(options) => {
            match tether::become_child(options.parent, &options.program, &options.arguments)? {}
        }
        Command::Demo(options) => show_demo(&options, Session::start()?).await,
        Command::Storm(options) => show_storm(&options, Session::start()?).await,
        Command::Receive(options) => {
            let Session {
                shutdown,
                signatures,
            } = Session::start()?;
            let stats = sink::run(&options, signatures, &shutdown).await?;
            Ok(exit_code(stats.signatures.bad() == 0))
        }
        Command::Chaos(options) => show_chaos(&options, Session::start()?).await,
        Command::Check(options) => show_check(&options),
    }
}

/// The setup of every command that opens sockets.
struct Session {
    /// Cancelled by SIGINT or SIGTERM.
    shutdown: CancellationToken,
    signatures: Signatures,
}

impl Session {
    fn start() -> Result<Self> {
        let shutdown = shutdown::on_signal()?;
        // Each request in flight is a socket, and the usual soft limit is 1024 files. If the limit
        // can't be raised, the run reports the failed connections.
        let _ = rlimit::increase_nofile_limit(u64::MAX);
        let signatures = Signatures::from_environment()?;
        Ok(Self {
            shutdown,
            signatures,
        })
    }
}

async fn show_demo(options: &DemoOptions, session: Session) -> Result<ExitCode> {
    let demo = demo::run(options, session.signatures);
    let Some(result) = session.shutdown.run_until_cancelled(demo).await else {
        return Ok(ExitCode::from(INTERRUPTED));
    };
    let result = result?;
    io::stdout().write_all(report::demo::render(&result).as_bytes())?;
    if let Some(file) = &options.json {
        export::write_json(file, "demo", result.passed(), &result)?;
    }
    Ok(exit_code(result.passed()))
}

async fn show_chaos(options: &ChaosOptions, session: Session) -> Result<ExitCode> {
    let chaos = chaos::run(options, session.signatures);
    // On an interruption the run is dropped, which kills all its processes.
    let Some(run) = session.shutdown.run_until_cancelled(chaos).await else {
        return Ok(ExitCode::from(INTERRUPTED));
    };
    let run = run?;
    let text = report::chaos::render(&run.result, &run.records);
    io::stdout().write_all(text.as_bytes())?;
    let passed = run.result.passed();
    export::write_json(
        &options.dir.join("result.json"),
        "chaos",
        passed,
        &run.result,
    )?;
    if options.keep || !passed {
        chaos::keep(&run.records, &options.history())?;
        println!("history: {}", options.history().display());
    }
    Ok(exit_code(passed))
}

fn show_check(options: &CheckOptions) -> Result<ExitCode> {
    let file = &options.file;
    let history = File::open(file).with_context(|| format!("can't read {}", file.display()))?;
    let judged = chaos::checker::judge(BufReader::new(history))?;
    let text = judged.verdict.render(&judged.records);
    io::stdout().write_all(text.as_bytes())?;
    Ok(exit_code(judged.verdict.passed()))
}

async fn show_storm(options: &StormOptions, session: Session) -> Result<ExitCode> {
    let result = storm::run(options, session.signatures, &session.shutdown).await?;
    io::stdout().write_all(report::storm::render(&result).as_bytes())?;
    if let Some(file) = &options.json {
        export::write_json(file, "storm", result.passed(), &result)?;
    }
    if let Some(file) = &options.csv {
        export::append_csv(file, &result)?;
    }
    Ok(if result.interrupted {
        ExitCode::from(INTERRUPTED)
    } else {
        exit_code(result.passed())
    })
}

fn exit_code(passed: bool) -> ExitCode {
    if passed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
