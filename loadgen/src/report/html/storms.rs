//! The report of one storm, or of several at different rates.

use super::{
    input::{Answers, Jobs, Storm},
    known,
    model::{Check, Mark, Page, Section, Table, figure},
    promises,
    rates::{self, ink},
    series::{self, Run},
    tables::{answered, counts_of_jobs, kinds, times, words},
    time,
};

/// The points of all series of a report: one of many storms has fewer for each.
const POINTS: usize = 4800;

/// The report. There is at least one storm.
pub(super) fn page(mut storms: Vec<Storm>) -> Page {
    storms.sort_by(|a, b| a.rate.total_cmp(&b.rate).then_with(|| b.mode.cmp(&a.mode)));
    let most = (POINTS / storms.len().max(1)).clamp(30, 240);
    for storm in &mut storms {
        storm.series = storm.series.take().map(|it| series::thin(&it, most));
    }
    let checks = checks(&storms);
    let interrupted = storms.iter().filter(|it| it.interrupted).count();
    let broken = checks.iter().any(|check| check.mark == Mark::Broken);
    let (outcome, verdict) = match (broken, interrupted) {
        (false, 0) => (
            Mark::Kept,
            "passed: every answer and every job was right".to_owned(),
        ),
        (true, _) => (
            Mark::Broken,
            "failed: there were wrong or missing answers or jobs".to_owned(),
        ),
        (false, 1) if storms.len() == 1 => (
            Mark::Open,
            "interrupted: what it had measured by then".to_owned(),
        ),
        (false, runs) => (
            Mark::Open,
            format!("{runs} of {} runs were interrupted", storms.len()),
        ),
    };
    Page {
        title: title(&storms),
        lead: lead(&storms),
        outcome,
        verdict,
        checks,
        remarks: remarks(&storms),
        sections: sections(&storms),
        tables: tables(&storms),
        settings: settings(&storms),
        machine: Vec::new(),
    }
}

fn title(storms: &[Storm]) -> String {
    match storms {
        [storm] => format!("Storm: {} at {}/s", endpoint(storm), figure(storm.rate)),
        storms => format!("Storm: {} runs", storms.len()),
    }
}

/// The path under load.
fn endpoint(storm: &Storm) -> String {
    match &storm.handler {
        Some(handler) => format!("/{}/{handler}", storm.mode),
        None => format!("/{}", storm.mode),
    }
}

/// The name of one run among others.
pub(super) fn name(storm: &Storm) -> String {
    format!("{} at {}/s", endpoint(storm), figure(storm.rate))
}

fn size(storm: &Storm) -> String {
    match (storm.records, storm.payload_bytes) {
        (Some(1), _) => "reports of 1 record".to_owned(),
        (Some(records), _) => format!("reports of {records} records"),
        (None, bytes) => format!("payloads of {} bytes", bytes.unwrap_or_default()),
    }
}

/// What was asked for, and how the two endpoints differed at the highest rate of both.
fn lead(storms: &[Storm]) -> String {
    let first = storms.first();
    let what = first.map_or_else(String::new, |storm| {
        format!(
            "{}, for {}{}. ",
            capital(&size(storm)),
            time(storm.duration_ms),
            if storms.len() > 1 { " in each run" } else { "" }
        )
    });
    let of = |mode: &str, rate: f64| {
        let is = |it: &&Storm| it.mode == mode && it.rate.total_cmp(&rate).is_eq();
        storms.iter().find(is)
    };
    let both = storms
        .iter()
        .rev()
        .find_map(|storm| Some((of("sync", storm.rate)?, of("async", storm.rate)?)));
    match (both, storms) {
        (Some((sync, ack)), _) => format!(
            "{what}At {} requests each second, /sync answered {}, and /async {}.",
            figure(sync.rate),
            answered(&sync.answers),
            answered(&ack.answers)
        ),
        (None, [storm]) => format!("{what}It answered {}.", answered(&storm.answers)),
        (None, _) => what,
    }
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(chars).collect()
    })
}

fn checks(storms: &[Storm]) -> Vec<Check> {
    let total = |of: fn(&Storm) -> u64| storms.iter().map(of).sum::<u64>();
    let wrong = total(|it| it.answers.failed("wrong_answer"));
    let other = total(|it| it.answers.failed("other_status") + it.answers.failed("connection"));
    let ok = total(|it| it.answers.ok);
    let in_vain = storms
        .iter()
        .filter(|it| it.answers.ok == 0 && !it.interrupted);
    let in_vain = in_vain.count();
    let shed = total(|it| it.answers.failed("refused") + it.answers.failed("timeout"));
    let interrupted = storms.iter().any(|it| it.interrupted);
    let mark = match (wrong + other, ok) {
        (0, 0) if interrupted => Mark::Open,
        (bad, _) => Mark::of(bad == 0 && in_vain == 0),
    };
    let mut checks = vec![Check::new(
        mark,
        "Clear answers",
        match (wrong + other, ok) {
            (0, 0) => "not one request succeeded".to_owned(),
            (0, _) if in_vain > 0 => {
                format!(
                    "in {in_vain} of {} runs, not one request succeeded",
                    storms.len()
                )
            }
            (0, ok) => format!(
                "{ok} requests succeeded; {shed} were refused or timed out, which a storm may do, \
                 and no answer was wrong"
            ),
            (_, ok) => format!(
                "{ok} requests succeeded, {wrong} answers were wrong, and {other} had another \
                 status or a broken connection"
            ),
        },
    )];
    let jobs: Vec<&Jobs> = storms.iter().filter_map(|it| it.jobs.as_ref()).collect();
    checks.extend(promises::checks(&jobs));
    checks
}

fn remarks(storms: &[Storm]) -> Vec<String> {
    let mut remarks = Vec::new();
    for storm in storms {
        let run = name(storm);
        if storm.interrupted {
            let jobs = storm.jobs.as_ref().map_or(0, |it| it.not_awaited);
            remarks.push(format!(
                "{run} was interrupted: {} answers and {jobs} jobs were not awaited.",
                storm.unanswered
            ));
        }
        if let Some(first) = &storm.answers.first_failure {
            remarks.push(format!("The first failure of {run}: {first}"));
        }
        if let Some(why) = storm.completion.as_ref().and_then(|it| it.why.as_ref()) {
            remarks.push(format!(
                "The jobs of {run} were polled, not called back: {why}"
            ));
        }
    }
    remarks
}

/// Those of a rate share their plots. The highest rate, where endpoints differ most, comes first.
fn sections(storms: &[Storm]) -> Vec<Section> {
    let mut sections = Vec::new();
    let mut rates: Vec<f64> = storms.iter().map(|it| it.rate).collect();
    rates.dedup();
    if rates.len() > 1 {
        sections.push(Section {
            heading: "Sync against async, rate by rate".to_owned(),
            folded: false,
            figures: vec![rates::throughput(storms), rates::latency(storms)],
        });
    }
    for (number, rate) in rates.iter().rev().enumerate() {
        let runs: Vec<&Storm> = storms
            .iter()
            .filter(|it| it.rate.total_cmp(rate).is_eq())
            .collect();
        let names: Vec<String> = runs.iter().map(|it| endpoint(it)).collect();
        let runs: Vec<Run<'_>> = runs
            .iter()
            .zip(&names)
            .map(|(storm, name)| run_of(storm, name))
            .collect();
        let heading = match rates.len() {
            1 => "Over time".to_owned(),
            _ => format!("At {} requests each second", figure(*rate)),
        };
        sections.push(Section {
            heading,
            folded: number > 0,
            figures: vec![
                series::times(&runs),
                series::distribution(&runs),
                series::rates(&runs),
                series::in_flight(&runs),
            ],
        });
    }
    sections
}

fn run_of<'a>(storm: &'a Storm, name: &'a str) -> Run<'a> {
    let by_callback = storm
        .completion
        .as_ref()
        .is_some_and(|it| it.by == "callback");
    let end = if by_callback {
        "callback"
    } else {
        "completion"
    };
    Run {
        name,
        ink: ink(&storm.mode),
        end: storm.jobs.is_some().then_some(end),
        series: storm.series.as_ref(),
        distribution: storm.distribution.as_ref(),
    }
}

fn tables(storms: &[Storm]) -> Vec<Table> {
    let name = |storm: &Storm| name(storm);
    let answers: Vec<_> = storms.iter().map(|it| (name(it), &it.answers)).collect();
    let jobs: Vec<_> = storms
        .iter()
        .filter_map(|it| Some((name(it), it.jobs.as_ref()?)))
        .collect();
    let mut tables = vec![requests(storms, &name), times(&answers, &jobs)];
    if !jobs.is_empty() {
        tables.push(counts_of_jobs(&jobs));
    }
    tables
}

fn requests(storms: &[Storm], name: &impl Fn(&Storm) -> String) -> Table {
    let header = ["run", "offered", "sent", "ok"].map(str::to_owned);
    let answers: Vec<&Answers> = storms.iter().map(|it| &it.answers).collect();
    let kinds = kinds(&answers);
    let row = |storm: &Storm| {
        let counts = [storm.offered, storm.sent, storm.answers.ok].map(|it| it.to_string());
        let failed = kinds
            .iter()
            .map(|kind| storm.answers.failed(kind).to_string());
        std::iter::once(name(storm))
            .chain(counts)
            .chain(failed)
            .collect()
    };
    Table {
        caption: "Requests".to_owned(),
        header: header
            .into_iter()
            .chain(kinds.iter().map(|it| words(it)))
            .collect(),
        rows: storms.iter().map(row).collect(),
    }
}

fn settings(storms: &[Storm]) -> Vec<(String, String)> {
    let distinct = |of: &dyn Fn(&Storm) -> String| {
        let mut values: Vec<String> = Vec::new();
        for storm in storms {
            let value = of(storm);
            if !values.contains(&value) {
                values.push(value);
            }
        }
        values.join(", ")
    };
    let pairs = [
        ("API", distinct(&|it| it.api.clone())),
        ("endpoints", distinct(&endpoint)),
        ("requests each second", distinct(&|it| figure(it.rate))),
        ("duration of a run", distinct(&|it| time(it.duration_ms))),
        ("size", distinct(&size)),
        (
            "most requests in flight",
            distinct(&|it| known(it.max_in_flight, |it| it.to_string())),
        ),
        (
            "deadline of an answer",
            distinct(&|it| known(it.timeout_ms, time)),
        ),
        (
            "time for a callback, beyond that of the work",
            distinct(&|it| known(it.patience_ms, time)),
        ),
    ];
    pairs.map(|(name, value)| (name.to_owned(), value)).into()
}
