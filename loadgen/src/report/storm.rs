//! The output of `storm`: the verdict, a table of percentiles, and the counts.

use std::fmt::Write as _;

use super::{deviation, first_failure, human, kinds, listed, table, thresholds, time_cell};
use crate::{
    latency::Percentiles,
    layout::{one_line, short_url},
    ledger::JobSummary,
    storm::{Completion, StormResult},
};

/// The verdict, a table of at most `width` columns, and the counts. The text ends with a newline.
pub fn render(result: &StormResult, width: u16) -> String {
    let mut text = String::new();
    let mut add = |line: String| {
        let _ = writeln!(text, "{line}"); // writing to a String never fails
    };
    add(outcome(result));
    thresholds::lines(&result.thresholds).for_each(&mut add);
    add(format!(
        "{}: {} requests/s for {}, {} each,",
        endpoint(result),
        result.rate,
        human(result.duration),
        size(result)
    ));
    add(format!(
        "at {}",
        short_url(&result.api, usize::from(width) - 3)
    ));
    add(String::new());
    add(times(result, width));
    add(counts(result));
    if let Some(jobs) = &result.jobs {
        add(completions(jobs, result));
        if let Some(deviation) = deviation(jobs) {
            add(deviation);
        }
        if let Some(Completion::Callback) = &result.completion {
            add(format!("signatures: {}", jobs.signatures));
        }
    }
    if let Some(Completion::Polling { why }) = &result.completion {
        add(format!(
            "jobs were polled, not called back: {}",
            one_line(why)
        ));
    }
    if let Some(first) = first_failure(&format!("/{}", endpoint(result)), &result.answers) {
        add(first);
    }
    text
}

/// The path without its first slash.
fn endpoint(result: &StormResult) -> String {
    match &result.handler {
        Some(handler) => format!("{}/{handler}", result.mode),
        None => result.mode.to_string(),
    }
}

fn size(result: &StormResult) -> String {
    match (result.records, result.payload_bytes) {
        (Some(records), _) => format!("{records} records"),
        (None, bytes) => format!("{} bytes", bytes.unwrap_or_default()),
    }
}

fn outcome(result: &StormResult) -> String {
    let (sent, ok) = (result.sent, result.answers.ok);
    let jobs = result.jobs.as_ref();
    if result.interrupted {
        let jobs = jobs.map_or_else(String::new, |jobs| {
            format!(" and {} jobs", jobs.not_awaited)
        });
        return format!(
            "interrupted: {} answers{jobs} were not awaited",
            result.unanswered
        );
    }
    let jobs = jobs.map_or_else(String::new, |jobs| {
        format!(", {} of {} jobs correct", jobs.right, jobs.accepted)
    });
    let figures = format!("{ok} of {sent} requests ok{jobs}");
    match thresholds::failure(&result.thresholds) {
        _ if !result.passed() => format!("failed: {figures}"),
        Some(failure) => format!("{failure}; {figures}"),
        None => format!("passed: {figures}"),
    }
}

fn counts(result: &StormResult) -> String {
    let failed = kinds(&result.answers.failed).unwrap_or_else(|| "none".to_owned());
    format!(
        "requests: {} offered, {} sent, {} ok ({:.0}/s); refused or failed: {failed}",
        result.offered, result.sent, result.answers.ok, result.ok_per_s
    )
}

fn completions(jobs: &JobSummary, result: &StormResult) -> String {
    // Nobody waited for the missing ones, so nothing is known about them.
    let missing = if result.interrupted {
        format!("{} not awaited", jobs.not_awaited)
    } else {
        format!("{} lost", jobs.lost)
    };
    // How long a handler's work takes is not known.
    let (wrong, ideal) = match result.handler {
        Some(_) => ("wrong", String::new()),
        None => ("wrong checksum", format!("; ideal {}", human(jobs.ideal))),
    };
    let others = listed([
        (wrong, jobs.wrong),
        ("failed", jobs.failed),
        ("repeated", jobs.repeated),
        ("unexpected", jobs.unexpected),
    ]);
    let others = others.map_or_else(String::new, |others| format!(", {others}"));
    format!(
        "jobs: {} accepted, {} correct ({:.0}/s), {missing}{others}{ideal}",
        jobs.accepted, jobs.right, jobs.completed_per_s
    )
}

fn times(result: &StormResult, width: u16) -> String {
    let mut rows = vec![row("answer", result.answers.latency)];
    if let Some(jobs) = &result.jobs {
        let name = match result.completion {
            Some(Completion::Polling { .. }) => "completion",
            _ => "callback",
        };
        rows.push(row(name, jobs.time_to_completion));
        if result.handler.is_none() {
            rows.push(row("lateness", jobs.lateness));
        }
    }
    table(width, ["", "p50", "p95", "p99", "p99.9", "max"], rows)
}

fn row(name: &str, times: Option<Percentiles>) -> [String; 6] {
    [
        name.to_owned(),
        time_cell(times, |times| times.p50),
        time_cell(times, |times| times.p95),
        time_cell(times, |times| times.p99),
        time_cell(times, |times| times.p999),
        time_cell(times, |times| times.max),
    ]
}
