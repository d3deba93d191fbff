//! Each command: it runs, prints its result, and saves it.

use std::{fs::File, io::BufReader, path::Path, process::ExitCode};

use anyhow::{Context as _, Result};
use rustix::process::Signal;
use serde::Serialize;
use storm_shared::shutdown;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::{
    chaos::{self, history::Record, tether},
    cli::{
        ChaosOptions, CheckOptions, Command, DemoOptions, ReceiveOptions, ReportOptions,
        StormOptions,
    },
    demo,
    layout::Layout,
    output,
    report::{
        self,
        export::{CsvFile, HtmlFile, JsonFile, check_distinct, document, write_json},
    },
    signatures::Signatures,
    sink, storm,
};

/// The exit status of an interrupted run: 128 + SIGINT, as shells report it.
const INTERRUPTED: u8 = 130;

/// Executes a command and returns the exit status.
///
/// # Errors
/// The command could not start, or its result could not be written.
pub(crate) async fn execute(command: Command) -> Result<ExitCode> {
    match command {
        // No session: this process becomes another program, which must not inherit our setup.
        Command::Tether(options) => {
            match tether::become_child(options.parent, &options.program, &options.arguments)? {}
        }
        Command::Demo(options) => show_demo(&options, Session::start()?).await,
        Command::Storm(options) => show_storm(&options, Session::start()?).await,
        Command::Report(options) => show_report(&options),
        Command::Receive(options) => show_received(&options, Session::start()?).await,
        Command::Chaos(options) => show_chaos(&options, Session::start()?).await,
        Command::Check(options) => show_check(&options),
    }
}

/// The setup of every command that opens sockets.
struct Session {
    /// Cancelled by the first signal, such as SIGINT.
    shutdown: CancellationToken,
    signatures: Signatures,
}

impl Session {
    fn start() -> Result<Self> {
        let shutdown = shutdown::on_signal()?;
        // By default a write past the file size limit (`ulimit -f`) kills the process. With a
        // handler, which stays when its stream is dropped, the write fails like on a full disk.
        let _ = signal(SignalKind::from_raw(Signal::XFSZ.as_raw()))?;
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
    // Before the run, so that a wrong path costs none.
    check_distinct(&[
        ("--json", options.json.as_deref()),
        ("--html", options.html.as_deref()),
    ])?;
    let json = options.json.as_deref().map(JsonFile::prepare).transpose()?;
    let html = options.html.as_deref().map(HtmlFile::prepare).transpose()?;
    let demo = demo::run(options, session.signatures, &session.shutdown);
    let Some(result) = demo.await? else {
        return not_started();
    };
    let passed = result.passed();
    let printed = output::print(&report::demo::render(&result, width()));
    // Written also if the text could not be printed.
    let saved = json.map_or(Ok(()), |json| json.write("demo", passed, &result));
    let reported = write_report(html.as_ref(), "demo", passed, &result);
    printed?;
    saved?;
    reported?;
    Ok(exit_code(passed, result.interrupted))
}

async fn show_storm(options: &StormOptions, session: Session) -> Result<ExitCode> {
    check_distinct(&[
        ("--json", options.json.as_deref()),
        ("--csv", options.csv.as_deref()),
        ("--html", options.html.as_deref()),
    ])?;
    let json = options.json.as_deref().map(JsonFile::prepare).transpose()?;
    let csv = options.csv.as_deref().map(CsvFile::prepare).transpose()?;
    let html = options.html.as_deref().map(HtmlFile::prepare).transpose()?;
    let storm = storm::run(options, session.signatures, &session.shutdown);
    let Some(result) = storm.await? else {
        return not_started();
    };
    let passed = result.passed();
    let printed = output::print(&report::storm::render(&result, width()));
    let saved = json.map_or(Ok(()), |json| json.write("storm", passed, &result));
    let appended = csv.map_or(Ok(()), |csv| csv.append(&result));
    let reported = write_report(html.as_ref(), "storm", passed, &result);
    printed?;
    saved?;
    appended?;
    reported?;
    Ok(exit_code(passed, result.interrupted))
}

/// Writes the report of a run, if one is wanted.
fn write_report(
    html: Option<&HtmlFile>,
    command: &str,
    passed: bool,
    result: &impl Serialize,
) -> Result<()> {
    let Some(html) = html else { return Ok(()) };
    // By way of JSON, so that a report is the same if it is made later.
    html.write(&report::html::page(&[document(command, passed, result)?])?)
}

fn show_report(options: &ReportOptions) -> Result<ExitCode> {
    let html = HtmlFile::prepare(&options.html)?;
    html.write(&report::html::page_of_files(&options.results)?)?;
    Ok(ExitCode::SUCCESS)
}

async fn show_received(options: &ReceiveOptions, session: Session) -> Result<ExitCode> {
    let stats = sink::run(options, session.signatures, &session.shutdown).await?;
    // A signal is its usual end, and no interruption.
    Ok(exit_code(stats.signatures.bad() == 0, false))
}

async fn show_chaos(options: &ChaosOptions, session: Session) -> Result<ExitCode> {
    let html = options.html.as_deref().map(HtmlFile::prepare).transpose()?;
    let chaos = chaos::run(options, session.signatures, &session.shutdown);
    let Some(run) = chaos.await? else {
        return not_started();
    };
    let (result, passed) = (&run.result, run.result.passed());
    let printed = output::print(&report::chaos::render(result, &run.records, width()));
    let saved = write_json(&options.dir.join("result.json"), "chaos", passed, result);
    let reported = write_report(html.as_ref(), "chaos", passed, result);
    let kept = if options.keep || !(passed || result.interrupted) {
        keep_history(&run.records, &options.history())
    } else {
        Ok(())
    };
    printed?;
    saved?;
    reported?;
    kept?;
    Ok(exit_code(passed, result.interrupted))
}

fn keep_history(records: &[Record], file: &Path) -> Result<()> {
    chaos::keep(records, file)?;
    // Not laid out: a path is there to be copied.
    output::print_raw(&format!("history: {}\n", file.display()))
}

fn show_check(options: &CheckOptions) -> Result<ExitCode> {
    let file = &options.file;
    let history = File::open(file).with_context(|| format!("can't read {}", file.display()))?;
    let judged = chaos::checker::judge(BufReader::new(history))?;
    output::print(&judged.verdict.render(&judged.records))?;
    Ok(exit_code(judged.verdict.passed(), false))
}

/// An interruption before there was anything to measure. The result files stay as they are.
fn not_started() -> Result<ExitCode> {
    output::print("interrupted: before the first request")?;
    Ok(exit_code(false, true))
}

fn width() -> u16 {
    Layout::of_stdout().width
}

fn exit_code(passed: bool, interrupted: bool) -> ExitCode {
    match (interrupted, passed) {
        (true, _) => ExitCode::from(INTERRUPTED),
        (false, true) => ExitCode::SUCCESS,
        (false, false) => ExitCode::FAILURE,
    }
}
