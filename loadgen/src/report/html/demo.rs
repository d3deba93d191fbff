//! The report of a demo.

use super::{
    input::{Answers, Demo, Jobs},
    known,
    model::{Check, Ink, Mark, Page, Section, Table},
    promises,
    series::{self, Run},
    tables::{answered, counts_of_jobs, kinds, times, words},
    time,
};

/// The target for the 95th percentile of acknowledgements, in milliseconds.
const ACK_TARGET_MS: f64 = 100.0;

/// The report.
pub(super) fn page(demo: &Demo) -> Page {
    let (outcome, verdict) = if demo.interrupted {
        (Mark::Open, "interrupted: what it had measured by then")
    } else if !passed(demo) {
        (
            Mark::Broken,
            "failed: not every job was delivered, or an answer was wrong",
        )
    } else if acknowledged(demo).mark == Mark::Broken {
        // A busy machine can be late: that fails no demo.
        (
            Mark::Kept,
            "passed, with late acknowledgements: every job was delivered, with the right result",
        )
    } else {
        (
            Mark::Kept,
            "passed: every job was delivered, with the right result",
        )
    };
    Page {
        title: "Demo: /sync against /async".to_owned(),
        lead: format!(
            "{} requests at once to each endpoint, for reports of {} records ({} of work each). \
             /sync answered {}, and /async {}.",
            demo.requests,
            demo.records,
            time(demo.jobs.ideal_ms),
            answered(&demo.sync),
            answered(&demo.ack)
        ),
        outcome,
        verdict: verdict.to_owned(),
        checks: checks(demo),
        remarks: remarks(demo),
        sections: vec![section(demo)],
        tables: tables(demo),
        settings: settings(demo),
        machine: Vec::new(),
    }
}

/// Whether it passed, whatever its thresholds say: as `DemoResult::passed`.
fn passed(demo: &Demo) -> bool {
    demo.jobs.right == demo.requests
        && demo.jobs.wrong == 0
        && demo.jobs.signatures.bad() == 0
        && demo.sync.failed("wrong_answer") == 0
}

fn section(demo: &Demo) -> Section {
    let runs = [
        run("/sync", Ink::Sync, None, &demo.sync),
        run("/async", Ink::Async, Some("callback"), &demo.ack),
    ];
    Section {
        heading: "Sync against async".to_owned(),
        folded: false,
        figures: vec![
            series::distribution(&runs),
            series::times(&runs),
            series::rates(&runs),
            series::in_flight(&runs),
        ],
    }
}

fn run<'a>(name: &'a str, ink: Ink, end: Option<&'a str>, answers: &'a Answers) -> Run<'a> {
    Run {
        name,
        ink,
        end,
        series: answers.series.as_ref(),
        distribution: answers.distribution.as_ref(),
    }
}

fn checks(demo: &Demo) -> Vec<Check> {
    let mut checks = vec![acknowledged(demo), answers(&demo.sync)];
    checks.extend(promises::checks(&[&demo.jobs]));
    checks
}

fn acknowledged(demo: &Demo) -> Check {
    let promise = "Acknowledged within 100 ms";
    match &demo.ack.latency {
        Some(times) => Check::new(
            Mark::of(times.p95_ms <= ACK_TARGET_MS && demo.ack.failures() == 0),
            promise,
            format!(
                "{} of {} requests to /async, with a p95 of {}",
                demo.ack.ok,
                demo.ack.requests,
                time(times.p95_ms)
            ),
        ),
        None if demo.interrupted => Check::new(Mark::Open, promise, "interrupted before"),
        None => Check::new(Mark::Broken, promise, "no request to /async was accepted"),
    }
}

/// Refusals and timeouts of `/sync` are what the demo shows, and no failure.
fn answers(sync: &Answers) -> Check {
    let wrong = sync.failed("wrong_answer");
    let shed = sync.failed("refused") + sync.failed("timeout");
    let detail = match wrong {
        0 => format!(
            "/sync refused {shed} of {} requests or let them time out, and gave no wrong answer",
            sync.requests
        ),
        wrong => format!("{wrong} answers of /sync were wrong"),
    };
    Check::new(Mark::of(wrong == 0), "Clear answers", detail)
}

fn remarks(demo: &Demo) -> Vec<String> {
    let mut remarks = Vec::new();
    if demo.interrupted {
        remarks.push(format!(
            "The run was interrupted: {} callbacks were not awaited.",
            demo.jobs.not_awaited
        ));
    }
    for (name, answers) in [("/sync", &demo.sync), ("/async", &demo.ack)] {
        if let Some(first) = &answers.first_failure {
            remarks.push(format!("The first failure of {name}: {first}"));
        }
    }
    let lost = demo.why_lost.as_ref();
    remarks.extend(lost.map(|why| format!("An example of a lost job: {why}")));
    remarks
}

fn tables(demo: &Demo) -> Vec<Table> {
    let sides = [
        ("/sync".to_owned(), &demo.sync),
        ("/async".to_owned(), &demo.ack),
    ];
    let jobs: [(String, &Jobs); 1] = [("/async".to_owned(), &demo.jobs)];
    let kinds = kinds(&[&demo.sync, &demo.ack]);
    let header = ["endpoint", "requests", "ok"].map(str::to_owned);
    let row = |(name, answers): &(String, &Answers)| {
        let failed = kinds.iter().map(|kind| answers.failed(kind).to_string());
        [
            name.clone(),
            answers.requests.to_string(),
            answers.ok.to_string(),
        ]
        .into_iter()
        .chain(failed)
        .collect()
    };
    let requests = Table {
        caption: "Requests".to_owned(),
        header: header
            .into_iter()
            .chain(kinds.iter().map(|it| words(it)))
            .collect(),
        rows: sides.iter().map(row).collect(),
    };
    vec![requests, times(&sides, &jobs), counts_of_jobs(&jobs)]
}

fn settings(demo: &Demo) -> Vec<(String, String)> {
    [
        ("API", demo.api.clone()),
        ("callback URL", demo.callback_url.clone()),
        ("requests to each endpoint", demo.requests.to_string()),
        ("records of each report", demo.records.to_string()),
        ("deadline of an answer", known(demo.timeout_ms, time)),
        (
            "time for a callback, beyond that of the work",
            known(demo.patience_ms, time),
        ),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}
