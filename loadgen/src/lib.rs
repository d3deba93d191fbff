//! Fires the same storm at `/sync` and `/async`, receives the callbacks, and shows the difference.
//!
//! * [`cli`]: what can be asked for; [`run`] does it.
//! * [`demo`], [`storm`], [`sink`], [`chaos`]: the commands.
//! * [`workload`]: the reports that are asked for, and what must come back.
//! * [`requester`], [`client`]: one request, and the API as a client sees it.
//! * [`listen`], [`receiver`], [`ledger`]: where callbacks arrive, and how each is paired with its `202`.
//! * [`signatures`]: whether callbacks are to be believed.
//! * [`latency`], [`answers`]: the statistics, which know nothing of sockets.
//! * [`report`]: results in words, tables, JSON and CSV.

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

/// The exit status of a run that was interrupted, as a shell gives it for SIGINT.
const INTERRUPTED: u8 = 130;

/// Does what was asked for: 0 when everything came back right, 1 when something did not, 130 when
/// the run was interrupted.
///
/// # Errors
/// The run could not begin (nobody listens at the API's address, the callbacks' port is taken), or
/// its result could not be written.
pub async fn run(cli: Cli) -> Result<ExitCode> {
    // A warning is the accept loop's: why callbacks can't come in. A second call changes nothing.
    let _ = tracing_subscriber::fmt()
        .with_max_level(LevelFilter::WARN)
        .with_writer(io::stderr)
        .try_init();
    // First of all: nothing of ours is to be in that program.
    if let Command::Tether(options) = &cli.command {
        match tether::become_child(options.parent, &options.program, &options.arguments)? {}
    }
    let stop = shutdown::on_signal()?;
    // Thousands of requests in flight are as many sockets; the usual soft limit is 1024. Where it
    // can't be raised, the run says how many connections failed.
    let _ = rlimit::increase_nofile_limit(u64::MAX);
    let signatures = Signatures::from_environment()?;
    match cli.command {
        Command::Demo(options) => tokio::select! {
            code = show_demo(&options, signatures) => code,
            () = stop.cancelled() => Ok(ExitCode::from(INTERRUPTED)),
        },
        Command::Storm(options) => show_storm(&options, signatures, &stop).await,
        Command::Receive(options) => {
            let stats = sink::run(&options, signatures, &stop).await?;
            Ok(exit_code(stats.signatures.bad() == 0))
        }
        Command::Chaos(options) => tokio::select! {
            code = show_chaos(&options, signatures) => code,
            () = stop.cancelled() => Ok(ExitCode::from(INTERRUPTED)),
        },
        Command::Check(options) => show_check(&options),
        Command::Tether(_) => unreachable!("it has become another program"),
    }
}

async fn show_demo(options: &DemoOptions, signatures: Signatures) -> Result<ExitCode> {
    let result = demo::run(options, signatures).await?;
    io::stdout().write_all(report::demo::render(&result).as_bytes())?;
    if let Some(file) = &options.json {
        export::write_json(file, "demo", result.passed(), &result)?;
    }
    Ok(exit_code(result.passed()))
}

async fn show_chaos(options: &ChaosOptions, signatures: Signatures) -> Result<ExitCode> {
    let run = chaos::run(options, signatures).await?;
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

async fn show_storm(
    options: &StormOptions,
    signatures: Signatures,
    stop: &CancellationToken,
) -> Result<ExitCode> {
    let result = storm::run(options, signatures, stop).await?;
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
