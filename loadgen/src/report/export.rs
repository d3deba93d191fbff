//! Result files: a JSON document with the whole result, and a CSV line for each storm of a series.

use std::{
    fs::{self, File},
    io::Write,
    path::Path,
};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::{
    latency::{Percentiles, millis},
    ledger::JobSummary,
    storm::StormResult,
};

#[derive(Serialize)]
struct Document<'a, T> {
    command: &'a str,
    passed: bool,
    #[serde(flatten)]
    result: &'a T,
}

/// Writes the result to `file`, and replaces an earlier one.
///
/// # Errors
/// The file can't be written.
pub fn write_json(file: &Path, command: &str, passed: bool, result: &impl Serialize) -> Result<()> {
    let mut json = serde_json::to_string_pretty(&Document {
        command,
        passed,
        result,
    })?;
    json.push('\n');
    fs::write(file, json).with_context(|| format!("can't write {}", file.display()))
}

/// Appends a storm to `file` as one line. A new or empty file also gets a header.
///
/// # Errors
/// The file can't be written.
pub fn append_csv(file: &Path, result: &StormResult) -> Result<()> {
    let columns = columns(result);
    let line = |cells: Vec<&str>| cells.join(",") + "\n";
    let append = || {
        // Several storms append to the same file, so only an empty file gets the header.
        let mut csv = File::options().create(true).append(true).open(file)?;
        if csv.metadata()?.len() == 0 {
            let header = columns.iter().map(|(name, _)| *name).collect();
            csv.write_all(line(header).as_bytes())?;
        }
        let values = columns.iter().map(|(_, value)| value.as_str()).collect();
        csv.write_all(line(values).as_bytes())
    };
    append().with_context(|| format!("can't write {}", file.display()))
}

/// The name and value of each column. A missing value is empty. No value contains a comma, so none
/// needs quotes.
fn columns(result: &StormResult) -> Vec<(&'static str, String)> {
    let (answers, failed, jobs) = (
        &result.answers,
        &result.answers.failed,
        result.jobs.as_ref(),
    );
    let of_jobs = |count: fn(&JobSummary) -> u64| {
        jobs.map_or_else(String::new, |jobs| count(jobs).to_string())
    };
    let latency = answers.latency;
    let completion = jobs.and_then(|jobs| jobs.time_to_completion);
    let lateness = jobs.and_then(|jobs| jobs.lateness);
    vec![
        ("mode", result.mode.to_string()),
        ("rate", result.rate.to_string()),
        ("duration_s", result.duration.as_secs_f64().to_string()),
        ("records", result.records.to_string()),
        ("offered", result.offered.to_string()),
        ("sent", result.sent.to_string()),
        ("ok", answers.ok.to_string()),
        ("refused", failed.refused.to_string()),
        ("timeout", failed.timeout.to_string()),
        ("other_status", failed.other_status.to_string()),
        ("connection", failed.connection.to_string()),
        ("wrong_answer", failed.wrong_answer.to_string()),
        ("not_sent", failed.not_sent.to_string()),
        ("p50_ms", time(latency, |latency| latency.p50)),
        ("p95_ms", time(latency, |latency| latency.p95)),
        ("p99_ms", time(latency, |latency| latency.p99)),
        ("p99_9_ms", time(latency, |latency| latency.p999)),
        ("max_ms", time(latency, |latency| latency.max)),
        ("accepted", of_jobs(|jobs| jobs.accepted)),
        ("right", of_jobs(|jobs| jobs.right)),
        ("lost", of_jobs(|jobs| jobs.lost)),
        ("wrong", of_jobs(|jobs| jobs.wrong)),
        ("failed", of_jobs(|jobs| jobs.failed)),
        ("repeated", of_jobs(|jobs| jobs.repeated)),
        (
            "completed_per_s",
            jobs.map_or_else(String::new, |jobs| format!("{:.1}", jobs.completed_per_s)),
        ),
        (
            "ideal_ms",
            jobs.map_or_else(String::new, |jobs| format!("{:.0}", millis(jobs.ideal))),
        ),
        ("completion_p50_ms", time(completion, |time| time.p50)),
        ("completion_p95_ms", time(completion, |time| time.p95)),
        ("completion_p99_ms", time(completion, |time| time.p99)),
        ("completion_max_ms", time(completion, |time| time.max)),
        ("lateness_p50_ms", time(lateness, |time| time.p50)),
        ("lateness_p99_ms", time(lateness, |time| time.p99)),
        ("lateness_max_ms", time(lateness, |time| time.max)),
        ("bad_signatures", bad_signatures(jobs)),
    ]
}

/// Empty if signatures were not checked.
fn bad_signatures(jobs: Option<&JobSummary>) -> String {
    jobs.map(|jobs| jobs.signatures)
        .filter(|signatures| signatures.checked)
        .map_or_else(String::new, |signatures| signatures.bad().to_string())
}

fn time(times: Option<Percentiles>, of: fn(Percentiles) -> std::time::Duration) -> String {
    times.map_or_else(String::new, |times| format!("{:.3}", millis(of(times))))
}
