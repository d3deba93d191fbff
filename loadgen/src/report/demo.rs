//! The output of `demo`: a table, and a summary of a few lines.

use std::{fmt::Write as _, time::Duration};

use comfy_table::Cell;

use super::{first_failure, human, kinds, number_cell, table, time_cell};
use crate::{answers::AnswerSummary, demo::DemoResult, latency::Percentiles, ledger::JobSummary};

/// The target for the 95th percentile of acknowledgements.
const ACK_TARGET: Duration = Duration::from_millis(100);

/// The table and the verdict. The text ends with a newline.
pub fn render(result: &DemoResult) -> String {
    let header = [
        "", "requests", "ok", "not ok", "p50", "p95", "p99", "max", "ideal",
    ];
    let ideal = human(result.jobs.ideal);
    let mut table = table(&header);
    table.add_row(answers_row("sync", &result.sync, &ideal));
    table.add_row(answers_row("async ack", &result.ack, "at once"));
    table.add_row(callbacks_row(&result.jobs, &ideal));

    let mut text = format!(
        "{} concurrent requests to each of /sync and /async, {} records each, at {}\n{table}\n",
        result.requests, result.records, result.api
    );
    for line in verdict(result) {
        let _ = writeln!(text, "{line}"); // writing to a String never fails
    }
    text
}

fn answers_row(name: &str, answers: &AnswerSummary, ideal: &str) -> Vec<Cell> {
    row(
        name,
        answers.requests,
        answers.ok,
        &kinds(&answers.failed),
        answers.latency,
        ideal,
    )
}

fn callbacks_row(jobs: &JobSummary, ideal: &str) -> Vec<Cell> {
    let mut not_ok = format!(
        "{} lost\n{} wrong checksum\n{} repeated",
        jobs.lost, jobs.wrong, jobs.repeated
    );
    // Without signing secrets the row would suggest a check that was not made.
    if jobs.signatures.checked {
        let _ = write!(not_ok, "\n{} bad signature", jobs.signatures.bad()); // never fails
    }
    row(
        "async callback",
        jobs.accepted,
        jobs.right,
        &not_ok,
        jobs.time_to_completion,
        ideal,
    )
}

fn row(
    name: &str,
    requests: u64,
    ok: u64,
    not_ok: &str,
    latency: Option<Percentiles>,
    ideal: &str,
) -> Vec<Cell> {
    vec![
        Cell::new(name),
        number_cell(requests),
        number_cell(ok),
        Cell::new(not_ok),
        time_cell(latency, |latency| latency.p50),
        time_cell(latency, |latency| latency.p95),
        time_cell(latency, |latency| latency.p99),
        time_cell(latency, |latency| latency.max),
        number_cell(ideal),
    ]
}

/// The lines of the verdict.
pub fn verdict(result: &DemoResult) -> Vec<String> {
    let failures = [
        first_failure("sync", &result.sync),
        first_failure("async", &result.ack),
        result
            .why_lost
            .as_ref()
            .map(|why| format!("example of a lost job: {why}")),
    ];
    [
        sync_verdict(result),
        ack_verdict(result),
        callback_verdict(result),
        format!("signed:   {}", result.jobs.signatures),
    ]
    .into_iter()
    .chain(failures.into_iter().flatten())
    .collect()
}

/// Percentiles cover only successful requests, so the line also gives the number of the others. A
/// service that refuses nine of ten requests would look fast without it.
fn sync_verdict(result: &DemoResult) -> String {
    let AnswerSummary {
        requests,
        failed,
        latency,
        ..
    } = &result.sync;
    let overload = failed.timeout + failed.refused;
    let others = failed.total() - overload;
    let p95 = latency.map_or_else(
        || "no successful answer".to_owned(),
        |latency| format!("P95 {}", human(latency.p95)),
    );
    let others = if others > 0 {
        format!(", and {others} failed for other reasons")
    } else {
        String::new()
    };
    format!("sync:     {p95}, with {overload} of {requests} timed out or refused{others}")
}

fn ack_verdict(result: &DemoResult) -> String {
    let Some(ack) = result.ack.latency else {
        return format!(
            "async:    none of {} requests was acknowledged",
            result.requests
        );
    };
    let target = if ack.p95 <= ACK_TARGET {
        "within"
    } else {
        "over"
    };
    let comparison = match result.sync.latency {
        Some(sync) if sync.p95 >= ack.p95 * 2 => {
            let times = sync.p95.as_secs_f64() / ack.p95.as_secs_f64();
            format!("; sync's P95 is {times:.0} times that")
        }
        _ => String::new(),
    };
    format!(
        "async:    P95 {} to the acknowledgement, {target} the target of {}{comparison}",
        human(ack.p95),
        human(ACK_TARGET)
    )
}

fn callback_verdict(result: &DemoResult) -> String {
    let JobSummary {
        accepted,
        right,
        lost,
        wrong,
        ..
    } = result.jobs;
    let requests = u64::from(result.requests);
    if right == requests && result.jobs.all_right() {
        let p95 = result
            .jobs
            .time_to_completion
            .map_or(Duration::ZERO, |time| time.p95);
        return format!(
            "callback: {right} of {requests} correct, P95 {} after the request, ideal {}",
            human(p95),
            human(result.jobs.ideal)
        );
    }
    format!(
        "callback: {right} of {requests} correct; {} not accepted, {lost} lost, {wrong} with a wrong \
         checksum",
        requests.saturating_sub(accepted)
    )
}
