//! The report of a chaos run: tables, recovery times, violations and the verdict.

use std::{fmt::Write as _, time::Duration};

use comfy_table::{Cell, Table};

use super::{human, number_cell, table};
use crate::chaos::{
    ChaosResult,
    history::{Footprint, Record},
    recovery::LongestWait,
};

/// Renders the faults, the jobs, the resource sizes, the recovery times and the verdict. Ends with
/// a newline.
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
        let _ = writeln!(text, "reproduce with: {}", command(result));
    }
    text
}

fn faults(result: &ChaosResult) -> Table {
    let mut table = table(&[
        "injected fault",
        "count",
        "jobs in flight: min",
        "median",
        "max",
    ]);
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
    row("requests without a response".to_owned(), summary.unanswered);
    row(
        "requests not sent (client concurrency limit)".to_owned(),
        result.not_sent,
    );
    for (end, count) in &summary.ended {
        row(format!("jobs {end}"), *count);
    }
    row("callbacks".to_owned(), summary.callbacks);
    for (event, count) in &summary.repeats {
        row(format!("duplicate callbacks explained by {event}"), *count);
    }
    for (event, count) in &summary.events {
        row(format!("events {event}"), *count);
    }
    table
}

fn sizes(result: &ChaosResult) -> Table {
    let names = result.footprints.first().map(|first| &first.resident);
    let names = names.into_iter().flatten().map(|(name, _)| name.as_str());
    let header: Vec<_> = ["MiB", "database", "WAL", "Redis", "stream entries"]
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
    let line = |what: &str, LongestWait { jobs, time }: LongestWait| {
        format!(
            "recovery time, {what}: max {} over {jobs} jobs",
            human(time)
        )
    };
    vec![
        line(
            &format!("worker killed (lease {})", human(result.lease)),
            recovery.after_kill,
        ),
        line(
            "worker killed, other worker disrupted too",
            recovery.after_kills,
        ),
        line("worker frozen", recovery.after_freeze),
        line("FLUSHALL", recovery.after_flush),
        line("Redis failover", recovery.after_failover),
    ]
}

/// One summary line, so that long runs can be compared.
fn figures(result: &ChaosResult) -> String {
    use crate::chaos::checker::CheckRule;

    // The rules `sizes` and `faults` are not about jobs. They count only in the total.
    let broken = |rules: &[CheckRule]| -> usize {
        let by_rule = result.verdict.by_rule();
        rules.iter().filter_map(|rule| by_rule.get(rule)).sum()
    };
    format!(
        "seed {}: {} jobs, {} kills, {} lost, {} incorrect, {} unexplained; {} violations in total, {}",
        result.seed,
        result.verdict.summary.rows,
        result.kills,
        broken(&[CheckRule::Ended]),
        broken(&[
            CheckRule::Named,
            CheckRule::Delivered,
            CheckRule::Reasons,
            CheckRule::Moves,
            CheckRule::Fences,
            CheckRule::Seen
        ]),
        broken(&[CheckRule::Repeats]),
        result.violations.len() + result.verdict.violations.len(),
        human(result.took),
    )
}

/// The command that reproduces the run.
fn command(result: &ChaosResult) -> String {
    format!(
        "make chaos SEED={} DURATION={} JOBS={} LEASE={}",
        result.seed,
        setting(result.duration),
        result.jobs,
        setting(result.lease)
    )
}

/// A duration in the format of `scripts/chaos.sh`: one number and one unit.
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
    fn durations_are_formatted_as_the_script_parses_them() {
        for (millis, text) in [(60_000, "60s"), (90_000, "90s"), (2500, "2500ms")] {
            assert_eq!(setting(Duration::from_millis(millis)), text);
        }
    }
}
