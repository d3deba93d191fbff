//! The output of `demo`: the verdict, a summary of a few lines, and a table.

use std::fmt::Write as _;

use super::{deviation, first_failure, human, kinds, listed, table, time_cell};
use crate::{
    answers::AnswerSummary,
    demo::DemoResult,
    latency::Percentiles,
    layout::{one_line, short_url},
    ledger::JobSummary,
};

/// The target for the 95th percentile of acknowledgements.
const ACK_TARGET: std::time::Duration = std::time::Duration::from_millis(100);

/// The verdict, the summary, and a table of at most `width` columns. The text ends with a newline.
pub fn render(result: &DemoResult, width: u16) -> String {
    let mut text = String::new();
    let mut add = |line: String| {
        let _ = writeln!(text, "{line}"); // writing to a String never fails
    };
    for line in verdict(result) {
        add(line);
    }
    add(String::new());
    add(times(result, width));
    add(format!(
        "{} concurrent requests to each endpoint, {} records each,",
        result.requests, result.records
    ));
    add(format!(
        "at {}",
        short_url(&result.api, usize::from(width) - 3)
    ));
    for line in details(result) {
        add(line);
    }
    text
}

/// The lines of the verdict. The first one says whether the demo passed.
pub fn verdict(result: &DemoResult) -> Vec<String> {
    vec![
        outcome(result),
        sync_verdict(result),
        ack_verdict(result),
        callback_verdict(result),
        format!("signed:   {}", result.jobs.signatures),
    ]
}

fn outcome(result: &DemoResult) -> String {
    if result.interrupted {
        let answers = result.sync.answers.unanswered() + result.ack.answers.unanswered();
        format!(
            "interrupted: {answers} answers and {} callbacks were not awaited",
            result.jobs.not_awaited
        )
    } else if result.passed() {
        "passed: every job was delivered, with the right result".to_owned()
    } else if result.sync.answers.failed.wrong_answer > 0 {
        format!(
            "failed: {} wrong answers of /sync",
            result.sync.answers.failed.wrong_answer
        )
    } else {
        "failed: not every job was delivered, with the right result".to_owned()
    }
}

fn times(result: &DemoResult, width: u16) -> String {
    let header = ["", "ok", "not ok", "p50", "p95", "p99", "max"];
    let jobs = &result.jobs;
    let not_ok: u64 = job_failures(jobs).iter().map(|(_, count)| count).sum();
    let rows = [
        answers_row("sync", &result.sync.answers),
        answers_row("async", &result.ack.answers),
        row("callback", jobs.right, not_ok, jobs.time_to_completion),
    ];
    table(width, header, rows)
}

fn answers_row(name: &str, answers: &AnswerSummary) -> [String; 7] {
    row(name, answers.ok, answers.failed.total(), answers.latency)
}

fn row(name: &str, ok: u64, not_ok: u64, latency: Option<Percentiles>) -> [String; 7] {
    [
        name.to_owned(),
        ok.to_string(),
        not_ok.to_string(),
        time_cell(latency, |latency| latency.p50),
        time_cell(latency, |latency| latency.p95),
        time_cell(latency, |latency| latency.p99),
        time_cell(latency, |latency| latency.max),
    ]
}

fn job_failures(jobs: &JobSummary) -> [(&'static str, u64); 4] {
    [
        ("lost", jobs.lost),
        ("wrong checksum", jobs.wrong),
        ("failed", jobs.failed),
        ("bad signature", jobs.signatures.bad()),
    ]
}

/// What the table does not say: the kinds of failure, an example of each, how honest the `202`
/// answers were, and repeats.
fn details(result: &DemoResult) -> Vec<String> {
    let not_ok = |what: &str, kinds: Option<String>| Some(format!("{what} not ok: {}", kinds?));
    let repeated = result.jobs.repeated;
    [
        not_ok("sync", kinds(&result.sync.answers.failed)),
        first_failure("sync", &result.sync.answers),
        not_ok("async", kinds(&result.ack.answers.failed)),
        first_failure("async", &result.ack.answers),
        not_ok("callback", listed(job_failures(&result.jobs))),
        deviation(&result.jobs),
        (repeated > 0).then(|| format!("{repeated} repeated callbacks, which is allowed")),
        result
            .why_lost
            .as_ref()
            .map(|why| format!("example of a lost job: {}", one_line(why))),
    ]
    .into_iter()
    .flatten()
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
    } = &result.sync.answers;
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
    if result.ack.answers.requests == 0 {
        return "async:    interrupted before its first request".to_owned();
    }
    let Some(ack) = result.ack.answers.latency else {
        return format!(
            "async:    none of {} requests was acknowledged",
            result.ack.answers.requests
        );
    };
    let target = if ack.p95 <= ACK_TARGET {
        "within"
    } else {
        "over"
    };
    let comparison = match result.sync.answers.latency {
        Some(sync) if sync.p95 >= ack.p95 * 2 => {
            let times = sync.p95.as_secs_f64() / ack.p95.as_secs_f64();
            format!("; sync's is {times:.0} times that")
        }
        _ => String::new(),
    };
    format!(
        "async:    P95 {}, {target} the target of {}{comparison}",
        human(ack.p95),
        human(ACK_TARGET)
    )
}

fn callback_verdict(result: &DemoResult) -> String {
    let JobSummary {
        accepted,
        right,
        lost,
        not_awaited,
        wrong,
        ..
    } = result.jobs;
    let requests = result.ack.answers.requests;
    if result.interrupted {
        return format!("callback: {right} of {accepted} correct, {not_awaited} not awaited");
    }
    let not_accepted = requests.saturating_sub(accepted);
    match result.jobs.time_to_completion {
        Some(time) if right == requests && result.jobs.all_right() => format!(
            "callback: {right} of {requests} correct, P95 {} after the request, ideal {}",
            human(time.p95),
            human(result.jobs.ideal)
        ),
        _ => format!(
            "callback: {right} of {requests} correct; {not_accepted} not accepted, {lost} lost, \
             {wrong} with a wrong checksum"
        ),
    }
}
