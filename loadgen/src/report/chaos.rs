//! A chaos run's tables, and what to say of it in the end.

use std::{fmt::Write as _, time::Duration};

use comfy_table::{Cell, Table};

use super::{human, number_cell, table};
use crate::chaos::{
    ChaosResult,
    history::{Footprint, Record},
    recovery::Longest,
};

/// What was broken, what became of the jobs, how large things were, and the verdict; ends with a
/// newline.
pub fn render(result: &ChaosResult, records: &[Record]) -> String {
    let mut text = format!(
        "\n{}\n{}\n{}\n",
        faults(result),
        jobs(result),
        sizes(result)
    );
    for line in recoveries(result) {
        let _ = writeln!(text, "{line}"); // writing to a String can't fail
    }
    for violation in &result.violations {
        let _ = writeln!(text, "VIOLATION: {violation}");
    }
    text.push_str(&result.verdict.render(records));
    let _ = writeln!(text, "{}", figures(result));
    if !result.passed() {
        let _ = writeln!(text, "again: {}", command(result));
    }
    text
}

fn faults(result: &ChaosResult) -> Table {
    let mut table = table(&["fault", "times", "jobs in flight: least", "median", "most"]);
    for (kind, done) in &result.verdict.summary.faults {
        table.add_row(vec![
            Cell::new(kind),
            number_cell(done.times),
            number_cell(done.min),
            number_cell(done.median),
            number_cell(done.max),
        ]);
    }
    table
}

fn jobs(result: &ChaosResult) -> Table {
    let summary = &result.verdict.summary;
    let mut table = table(&["requests, jobs, callbacks", ""]);
    let mut row = |what: String, count: u64| {
        table.add_row(vec![Cell::new(what), number_cell(count)]);
    };
    row("requests accepted (202)".to_owned(), summary.accepted);
    for (status, count) in &summary.refused {
        row(format!("requests refused with {status}"), *count);
    }
    row("requests without an answer".to_owned(), summary.unanswered);
    row(
        "requests not sent, too many being on their way".to_owned(),
        result.not_sent,
    );
    for (end, count) in &summary.ended {
        row(format!("jobs {end}"), *count);
    }
    row("callbacks".to_owned(), summary.callbacks);
    for (event, count) in &summary.repeats {
        row(format!("callbacks repeated after {event}"), *count);
    }
    for (event, count) in &summary.events {
        row(format!("events {event}"), *count);
    }
    table
}

fn sizes(result: &ChaosResult) -> Table {
    let names = result.footprints.first().map(|first| &first.resident);
    let names = names.into_iter().flatten().map(|(name, _)| name.as_str());
    let header: Vec<_> = ["MiB", "database", "its log", "Redis", "entries"]
        .into_iter()
        .chain(names)
        .collect();
    let mut table = table(&header);
    for footprint in &result.footprints {
        table.add_row(sizes_row(footprint));
    }
    table
}

fn sizes_row(footprint: &Footprint) -> Vec<Cell> {
    let sizes = [footprint.database, footprint.log, footprint.redis_memory];
    let resident = footprint.resident.iter().map(|(_, bytes)| *bytes);
    std::iter::once(Cell::new(&footprint.moment))
        .chain(sizes.map(mebibytes))
        .chain([number_cell(footprint.redis_entries)])
        .chain(resident.map(mebibytes))
        .collect()
}

fn mebibytes(bytes: u64) -> Cell {
    let tenths = bytes * 10 / (1 << 20);
    number_cell(format!("{}.{}", tenths / 10, tenths % 10))
}

fn recoveries(result: &ChaosResult) -> Vec<String> {
    let recovery = &result.recovery;
    let line = |what: &str, Longest { jobs, time }: Longest| {
        format!("{what}: {jobs} jobs waited, the last one {}", human(time))
    };
    vec![
        line(
            &format!("killed workers' jobs (lease {})", human(result.lease)),
            recovery.after_kill,
        ),
        line(
            "killed workers' jobs, the other one being in trouble too",
            recovery.after_kills,
        ),
        line("frozen workers' jobs", recovery.after_freeze),
        line("after FLUSHALL", recovery.after_flush),
    ]
}

/// The figures that a long run is judged by, in one line.
fn figures(result: &ChaosResult) -> String {
    use crate::chaos::checker::Rule;

    let broken = |rules: &[Rule]| -> usize {
        let by_rule = result.verdict.by_rule();
        rules.iter().filter_map(|rule| by_rule.get(rule)).sum()
    };
    format!(
        "seed {}: {} jobs, {} kills, {} lost, {} wrong, {} unexplained; {} violations in all, {}",
        result.seed,
        result.verdict.summary.rows,
        result.kills,
        broken(&[Rule::Ended]),
        broken(&[
            Rule::Named,
            Rule::Delivered,
            Rule::Reasons,
            Rule::Moves,
            Rule::Fences,
            Rule::Seen
        ]),
        broken(&[Rule::Repeats]),
        result.violations.len() + result.verdict.violations.len(),
        human(result.took),
    )
}

/// What runs it again.
fn command(result: &ChaosResult) -> String {
    format!(
        "make chaos SEED={} DURATION={} JOBS={} LEASE={}",
        result.seed,
        setting(result.duration),
        result.jobs,
        setting(result.lease)
    )
}

/// A duration as the scripts take it: one number, one unit.
fn setting(duration: Duration) -> String {
    match duration.as_millis() {
        millis if millis.is_multiple_of(1000) => format!("{}s", millis / 1000),
        millis => format!("{millis}ms"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::setting;

    #[test]
    fn a_duration_is_said_as_the_script_takes_it() {
        for (millis, text) in [(60_000, "60s"), (90_000, "90s"), (2500, "2500ms")] {
            assert_eq!(setting(Duration::from_millis(millis)), text);
        }
    }
}
