//! The report of a chaos run.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{
    input::{Chaos, Footprint, Violation, Wait},
    model::{
        Axis, Bar, Cell, Check, Figure, Ink, Lanes, Line, Lines, Mark, Page, Plot, Section, Table,
        Unit, Vertical, Weight, figure,
    },
    series::{self, to_f64},
    tables::words,
    time,
};
use crate::chaos::{
    checker::CheckRule,
    course::{Course, CourseFault, CoursePoint},
};

/// The plots whose time is the same.
const TOGETHER: &str = "course";

/// At most so many violations are shown.
const SHOWN: usize = 20;

/// The promises, and the rules that would be broken with them.
const PROMISES: [(&str, &str, &[CheckRule]); 4] = [
    (
        "Durable",
        "every accepted job is there at the end, whatever was killed",
        &[CheckRule::Ended, CheckRule::Named, CheckRule::Retention],
    ),
    (
        "Every job ends",
        "each reached COMPLETED or FAILED, for a true reason",
        &[CheckRule::Ended, CheckRule::Reasons],
    ),
    (
        "At-least-once delivery",
        "what is COMPLETED was delivered, and each repeat has a cause",
        &[CheckRule::Delivered, CheckRule::Repeats, CheckRule::Work],
    ),
    (
        "Bounded",
        "the database, Redis and memory shrank to their limits",
        &[CheckRule::Sizes],
    ),
];

/// The report.
pub(super) fn page(run: &Chaos, passed: bool) -> Page {
    let broken = violations(run);
    let (outcome, verdict) = match (passed, run.interrupted) {
        (_, true) => (
            Mark::Open,
            "interrupted: the history was not checked".to_owned(),
        ),
        (true, _) => (
            Mark::Kept,
            format!("passed: no violation in the history of {} jobs", jobs(run)),
        ),
        (false, _) => (Mark::Broken, format!("failed: {broken} violations")),
    };
    Page {
        title: format!("Chaos: seed {} on {}", run.seed, store(run)),
        lead: format!(
            "{} jobs, while {} faults were injected, {} of which killed a process. The run took {}.",
            jobs(run),
            run.course.as_ref().map_or(0, |it| it.faults.len()),
            run.kills,
            time(run.took_ms)
        ),
        outcome,
        verdict,
        checks: checks(run),
        remarks: remarks(run),
        sections: vec![Section {
            heading: "What was broken when".to_owned(),
            folded: false,
            figures: figures(run.course.as_ref()),
        }],
        tables: tables(run),
        settings: settings(run),
        machine: Vec::new(),
    }
}

fn violations(run: &Chaos) -> usize {
    run.violations.len() + run.verdict.violations.len()
}

fn jobs(run: &Chaos) -> u64 {
    let rows = run.verdict.summary.get("rows").and_then(Value::as_u64);
    rows.unwrap_or_default()
}

fn store(run: &Chaos) -> &str {
    match run.store.as_str() {
        "sqlite" => "SQLite",
        "postgres" => "PostgreSQL",
        other => other,
    }
}

/// The promises first, then every rule.
fn checks(run: &Chaos) -> Vec<Check> {
    let broken_by = |rules: &[CheckRule]| {
        let is_one = |it: &&Violation| rules.iter().any(|rule| rule.as_str() == it.rule);
        run.verdict.violations.iter().filter(is_one).count()
    };
    let check = |name: &str, what: &str, rules: &[CheckRule]| {
        if run.interrupted {
            return Check::new(Mark::Open, name, "not checked: the run was interrupted");
        }
        match broken_by(rules) {
            0 => Check::new(Mark::Kept, name, what),
            1 => Check::new(Mark::Broken, name, format!("{what}: 1 violation")),
            many => Check::new(Mark::Broken, name, format!("{what}: {many} violations")),
        }
    };
    let promises = PROMISES.map(|(name, what, rules)| check(name, what, rules));
    let rules = CheckRule::ALL.map(|rule| {
        check(
            &format!("Rule {}", rule.as_str()),
            rule.statement(),
            &[rule],
        )
    });
    let services = match run.violations.len() {
        _ if run.interrupted => Check::new(Mark::Open, "Services", "the run was interrupted"),
        0 => Check::new(
            Mark::Kept,
            "Services",
            "no process ended by itself, and no answer was invalid",
        ),
        many => Check::new(
            Mark::Broken,
            "Services",
            format!("{many} processes ended by themselves, or answers were invalid"),
        ),
    };
    promises
        .into_iter()
        .chain([services])
        .chain(rules)
        .collect()
}

fn remarks(run: &Chaos) -> Vec<String> {
    let of_history = run.verdict.violations.iter().map(|it| {
        let id = it
            .id
            .as_ref()
            .map_or_else(String::new, |id| format!("{id}: "));
        format!("{} {id}{}", it.rule, it.what)
    });
    let mut all: Vec<String> = run.violations.iter().cloned().chain(of_history).collect();
    if all.len() > SHOWN {
        let more = all.len() - SHOWN;
        all.truncate(SHOWN);
        all.push(format!("and {more} more violations"));
    }
    all
}

fn figures(course: Option<&Course>) -> Vec<Figure> {
    let rates = (
        "Accepted and delivered",
        "Answers with 202, callbacks that a receiver answered \
        with 2xx, and jobs that ended, each second.",
    );
    let left = (
        "Unfinished jobs",
        "Jobs that have not ended: what a fault makes wait, and how fast \
        it is worked off afterwards.",
    );
    let faults = (
        "Faults",
        "Each kind of fault has a lane. A bar lasts from the injection to the \
        repair, and a cross marks the kill of a process.",
    );
    let Some(course) = course else {
        let why = "This result has no course: an earlier version has written it.";
        return [rates, left, faults]
            .map(|(title, about)| series::missing(title.to_owned(), about, why))
            .into();
    };
    let figure = |(title, about): (&str, &str), plot| Figure {
        title: title.to_owned(),
        about: about.to_owned(),
        plot,
    };
    vec![
        figure(rates, rates_plot(course)),
        figure(faults, lanes(course)),
        figure(left, left_plot(course)),
    ]
}

fn rates_plot(course: &Course) -> Plot {
    let interval = to_f64(course.interval_ms.max(1)) / 1000.0;
    let line = |name: &str, ink, weight, of: fn(&CoursePoint) -> u64| -> Line {
        let cell = |point: &CoursePoint| Cell::Value(to_f64(of(point)) / interval);
        let cells = course.points.iter().map(cell).collect();
        series::line(name.to_owned(), ink, weight, true, cells)
    };
    over_time(
        course,
        Axis::new("jobs", Unit::PerSecond, false),
        vec![
            line("accepted", Ink::Async, Weight::Thick, |it| it.accepted),
            line("delivered", Ink::Callback, Weight::Thick, |it| it.delivered),
            line("refused or unanswered", Ink::Bad, Weight::Medium, |it| {
                it.refused
            }),
            Line {
                shown: false,
                ..line("ended", Ink::Neutral, Weight::Medium, |it| it.ended)
            },
        ],
    )
}

fn left_plot(course: &Course) -> Plot {
    let cell = |point: &CoursePoint| Cell::Value(to_f64(point.unfinished));
    let cells = course.points.iter().map(cell).collect();
    over_time(
        course,
        Axis::new("jobs", Unit::Count, false),
        vec![series::line(
            "unfinished".to_owned(),
            Ink::Async,
            Weight::Medium,
            true,
            cells,
        )],
    )
}

fn over_time(course: &Course, y: Axis, lines: Vec<Line>) -> Plot {
    if course.points.is_empty() {
        return Plot::Missing("Nothing was sent.".to_owned());
    }
    let mark = |(at_ms, part): (u64, &str)| Vertical {
        at: to_f64(at_ms) / 1000.0,
        label: match part {
            "storm" => "storm over".to_owned(),
            "again" => "second load done".to_owned(),
            other => other.to_owned(),
        },
        ink: Ink::Neutral,
    };
    let parts = course.parts.iter().map(|it| (it.at_ms, it.part.as_str()));
    Plot::Lines(Lines {
        x: Axis::new("time", Unit::Seconds, false),
        y,
        at: course
            .points
            .iter()
            .map(|it| to_f64(it.at_ms) / 1000.0)
            .collect(),
        lines,
        marks: parts.map(mark).collect(),
        together: Some(TOGETHER),
    })
}

fn lanes(course: &Course) -> Plot {
    if course.faults.is_empty() {
        return Plot::Missing("No fault was injected.".to_owned());
    }
    let mut lanes: Vec<String> = course.faults.iter().map(|it| words(&it.kind)).collect();
    lanes.sort();
    lanes.dedup();
    let bar = |fault: &CourseFault| Bar {
        lane: lanes.binary_search(&words(&fault.kind)).unwrap_or_default(),
        from: to_f64(fault.at_ms) / 1000.0,
        to: to_f64(fault.healed_ms) / 1000.0,
        kill: fault.kill,
        jobs: fault.in_flight,
    };
    let bars = course.faults.iter().map(bar).collect();
    let end = course.points.last().map_or(0, |it| it.at_ms);
    Plot::Lanes(Lanes {
        bars,
        lanes,
        end: to_f64(end) / 1000.0,
        together: Some(TOGETHER),
    })
}

fn tables(run: &Chaos) -> Vec<Table> {
    vec![
        counts(run),
        faults(run),
        recoveries(run),
        sizes(&run.footprints),
    ]
}

fn counts(run: &Chaos) -> Table {
    let mut rows = Vec::new();
    for (field, value) in &run.verdict.summary {
        match value {
            // They have a table of their own.
            Value::Object(_) if field == "faults" => {}
            Value::Object(kinds) => {
                let row = |(kind, count): (&String, &Value)| {
                    vec![format!("{}: {kind}", words(field)), count.to_string()]
                };
                rows.extend(kinds.iter().map(row));
            }
            count => rows.push(vec![words(field), count.to_string()]),
        }
    }
    rows.push(vec!["not sent".to_owned(), run.not_sent.to_string()]);
    let steps = run.clock_steps.map_or("–".to_owned(), |it| it.to_string());
    rows.push(vec!["clock steps".to_owned(), steps]);
    rows.push(vec!["kills".to_owned(), run.kills.to_string()]);
    Table {
        caption: "Requests, jobs and callbacks".to_owned(),
        header: ["what", "count"].map(str::to_owned).into(),
        rows,
    }
}

fn faults(run: &Chaos) -> Table {
    let kinds = run.verdict.summary.get("faults").and_then(Value::as_object);
    let row = |(kind, counts): (&String, &Value)| {
        let of = |field: &str| {
            counts
                .get(field)
                .map_or("–".to_owned(), ToString::to_string)
        };
        vec![words(kind), of("times"), of("min"), of("median"), of("max")]
    };
    let header = ["fault", "count", "jobs in flight: min", "median", "max"];
    Table {
        caption: "Faults".to_owned(),
        header: header.map(str::to_owned).into(),
        rows: kinds.into_iter().flatten().map(row).collect(),
    }
}

fn recoveries(run: &Chaos) -> Table {
    let row = |(what, wait): (&String, &Wait)| {
        vec![words(what), wait.jobs.to_string(), figure(wait.longest_ms)]
    };
    Table {
        caption: "Recovery times".to_owned(),
        header: ["recovery", "jobs", "longest, ms"]
            .map(str::to_owned)
            .into(),
        rows: run.recovery.iter().map(row).collect(),
    }
}

fn sizes(footprints: &[Footprint]) -> Table {
    let processes = footprints
        .first()
        .into_iter()
        .flat_map(|it| it.resident.iter());
    let processes: Vec<&str> = processes.map(|(name, _)| name.as_str()).collect();
    let header = [
        "moment",
        "database, MiB",
        "WAL, MiB",
        "Redis, MiB",
        "stream entries",
    ];
    let header = header.map(str::to_owned).into_iter();
    let header = header.chain(processes.iter().map(|name| format!("{name}, MiB")));
    let row = |at: &Footprint| {
        let resident: BTreeMap<&str, u64> = at
            .resident
            .iter()
            .map(|(name, bytes)| (name.as_str(), *bytes))
            .collect();
        let resident = processes.iter().map(|name| {
            resident
                .get(name)
                .map_or("–".to_owned(), |it| mebibytes(*it))
        });
        [
            at.moment.clone(),
            mebibytes(at.database),
            mebibytes(at.log),
            mebibytes(at.redis_memory),
            at.redis_entries.to_string(),
        ]
        .into_iter()
        .chain(resident)
        .collect()
    };
    Table {
        caption: "Sizes".to_owned(),
        header: header.collect(),
        rows: footprints.iter().map(row).collect(),
    }
}

fn mebibytes(bytes: u64) -> String {
    figure((to_f64(bytes) / f64::from(1 << 20) * 10.0).round() / 10.0)
}

fn settings(run: &Chaos) -> Vec<(String, String)> {
    [
        ("seed", run.seed.to_string()),
        ("store", store(run).to_owned()),
        ("duration of the faults", time(run.duration_ms)),
        ("requests in that time", run.jobs.to_string()),
        ("lease of the workers", time(run.lease_ms)),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}
