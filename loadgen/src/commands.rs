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
        export::{CsvFile, HtmlFile, JsonFile, SeriesFile, check_distinct, document, write_json},
    },
    signatures::Signatures,
    sink, storm, thresholds,
};

/// The exit status of an interrupted run: 128 + SIGINT, as shells report it.
const INTERRUPTED: u8 = 130;

/// The exit status of a run that passed, but not its thresholds.
const EXCEEDED: u8 = 3;

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
    let [json, series, html] = [&options.json, &options.series, &options.html];
    let [json, series, html] = [json, series, html].map(|path| path.as_deref());
    check_distinct(&[("--json", json), ("--series", series), ("--html", html)])?;
    let json = json.map(JsonFile::prepare).transpose()?;
    let series = series.map(SeriesFile::prepare).transpose()?;
    let html = html.map(HtmlFile::prepare).transpose()?;
    let demo = demo::run(options, session.signatures, &session.shutdown);
    let Some(result) = demo.await? else {
        return not_started();
    };
    let outcome = Outcome::of(result.passed(), result.interrupted, &result.thresholds);
    let printed = output::print(&report::demo::render(&result, width()));
    // Written also if the text could not be printed.
    let passed = outcome.passed();
    let saved = json.map_or(Ok(()), |json| json.write("demo", passed, &result));
    let sides = [("sync", &result.sync.series), ("async", &result.ack.series)];
    let drawn = series.map_or(Ok(()), |file| file.write(&sides));
    let reported = write_report(html.as_ref(), "demo", passed, &result);
    printed?;
    saved?;
    drawn?;
    reported?;
    Ok(outcome.into())
}

async fn show_storm(options: &StormOptions, session: Session) -> Result<ExitCode> {
    let [json, csv, series, html] =
        [&options.json, &options.csv, &options.series, &options.html].map(|path| path.as_deref());
    check_distinct(&[
        ("--json", json),
        ("--csv", csv),
        ("--series", series),
        ("--html", html),
    ])?;
    let json = json.map(JsonFile::prepare).transpose()?;
    let csv = csv.map(CsvFile::prepare).transpose()?;
    let series = series.map(SeriesFile::prepare).transpose()?;
    let html = html.map(HtmlFile::prepare).transpose()?;
    let storm = storm::run(options, session.signatures, &session.shutdown);
    let Some(result) = storm.await? else {
        return not_started();
    };
    let outcome = Outcome::of(result.passed(), result.interrupted, &result.thresholds);
    let printed = output::print(&report::storm::render(&result, width()));
    let saved = json.map_or(Ok(()), |json| {
        json.write("storm", outcome.passed(), &result)
    });
    let appended = csv.map_or(Ok(()), |csv| csv.append(&result));
    let drawn = series.map_or(Ok(()), |file| {
        file.write(&[(result.mode.as_str(), &result.series)])
    });
    let reported = write_report(html.as_ref(), "storm", outcome.passed(), &result);
    printed?;
    saved?;
    appended?;
    drawn?;
    reported?;
    Ok(outcome.into())
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
    Ok(Outcome::of(stats.signatures.bad() == 0, false, &[]).into())
}

async fn show_chaos(options: &ChaosOptions, session: Session) -> Result<ExitCode> {
    let html = options.html.as_deref().map(HtmlFile::prepare).transpose()?;
    let chaos = chaos::run(options, session.signatures, &session.shutdown);
    let Some(run) = chaos.await? else {
        return not_started();
    };
    let result = &run.result;
    let outcome = Outcome::of(result.passed(), result.interrupted, &result.thresholds);
    let passed = outcome.passed();
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
    Ok(outcome.into())
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
    Ok(Outcome::of(judged.verdict.passed(), false, &[]).into())
}

/// An interruption before there was anything to measure. The result files stay as they are.
fn not_started() -> Result<ExitCode> {
    output::print("interrupted: before the first request")?;
    Ok(Outcome::Interrupted.into())
}

fn width() -> u16 {
    Layout::of_stdout().width
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Passed,
    /// A threshold was exceeded, and nothing else failed.
    Exceeded,
    Failed,
    Interrupted,
}

impl Outcome {
    fn of(passed: bool, interrupted: bool, thresholds: &[thresholds::Judged]) -> Self {
        match (interrupted, passed) {
            (true, _) => Self::Interrupted,
            // Figures of a run with wrong answers or lost jobs mean little, so this comes first.
            (false, false) => Self::Failed,
            (false, true) if !thresholds::hold(thresholds) => Self::Exceeded,
            (false, true) => Self::Passed,
        }
    }

    fn passed(self) -> bool {
        self == Self::Passed
    }
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Passed => Self::SUCCESS,
            Outcome::Exceeded => Self::from(EXCEEDED),
            Outcome::Failed => Self::FAILURE,
            Outcome::Interrupted => Self::from(INTERRUPTED),
        }
    }
}
