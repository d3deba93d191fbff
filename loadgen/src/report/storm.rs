//! The output of `storm`: the counts, and a table of percentiles.

use std::fmt::Write as _;

use comfy_table::{Cell, Table};

use super::{first_failure, human, kinds, table, time_cell};
use crate::{
    latency::Percentiles,
    ledger::JobSummary,
    storm::{Completion, StormResult},
};

/// The counts and the percentiles. The text ends with a newline.
pub fn render(result: &StormResult) -> String {
    let mut text = format!(
        "{}: {} requests/s for {}, {} records each, at {}\n",
        result.mode,
        result.rate,
        human(result.duration),
        result.records,
        result.api
    );
    let mut add = |line: String| {
        let _ = writeln!(text, "{line}"); // writing to a String never fails
    };
    add(counts(result));
    add(times(result).to_string());
    if let Some(jobs) = &result.jobs {
        add(completions(jobs));
        if let Some(Completion::Callback) = &result.completion {
            add(format!("signatures: {}", jobs.signatures));
        }
    }
    if let Some(Completion::Polling { why }) = &result.completion {
        add(format!("jobs were polled, not called back: {why}"));
    }
    if let Some(first) = first_failure(&format!("/{}", result.mode), &result.answers) {
        add(first);
    }
    if result.interrupted {
        add(format!(
            "interrupted: {} requests were unanswered",
            result.unanswered
        ));
    }
    text
}

fn counts(result: &StormResult) -> String {
    let failed = kinds(&result.answers.failed).replace('\n', ", ");
    format!(
        "{} offered, {} sent, {} ok; refused or failed: {failed}",
        result.offered, result.sent, result.answers.ok
    )
}

fn completions(jobs: &JobSummary) -> String {
    format!(
        "jobs: {} accepted, {} correct ({:.0}/s), {} lost, {} wrong checksum, {} failed, {} repeated, \
         {} unexpected; ideal {}",
        jobs.accepted,
        jobs.right,
        jobs.completed_per_s,
        jobs.lost,
        jobs.wrong,
        jobs.failed,
        jobs.repeated,
        jobs.unexpected,
        human(jobs.ideal)
    )
}

fn times(result: &StormResult) -> Table {
    let mut table = table(&["", "p50", "p95", "p99", "p99.9", "max"]);
    table.add_row(row("answer", result.answers.latency));
    if let Some(jobs) = &result.jobs {
        let name = match result.completion {
            Some(Completion::Polling { .. }) => "completion",
            _ => "callback",
        };
        table.add_row(row(name, jobs.time_to_completion));
        table.add_row(row("lateness", jobs.lateness));
    }
    table
}

fn row(name: &str, times: Option<Percentiles>) -> Vec<Cell> {
    vec![
        Cell::new(name),
        time_cell(times, |times| times.p50),
        time_cell(times, |times| times.p95),
        time_cell(times, |times| times.p99),
        time_cell(times, |times| times.p999),
        time_cell(times, |times| times.max),
    ]
}
