//! The report of a chaos run: the verdict, violations, recovery times, and tables.

use std::{fmt::Write as _, time::Duration};

use super::{human, table, table_of, thresholds};
use crate::chaos::{
    ChaosResult,
    engine::Engine,
    history::{Footprint, Record},
    recovery::LongestWait,
};

/// Renders the verdict, the violations, the recovery times, and tables of at most `width` columns.
/// Ends with a newline.
pub fn render(result: &ChaosResult, records: &[Record], width: u16) -> String {
    let mut text = format!("{}\n", figures(result));
    for line in thresholds::lines(&result.thresholds) {
        let _ = writeln!(text, "{line}"); // writing to a String can't fail
    }
    for violation in &result.violations {
        let _ = writeln!(text, "VIOLATION: {violation}");
    }
    if !result.interrupted {
        text.push_str(&result.verdict.render(records));
        if !result.passed() {
            let _ = writeln!(text, "reproduce with: {}", command(result));
        }
        for line in recoveries(result) {
            let _ = writeln!(text, "{line}");
        }
    }
    let _ = write!(
        text,
        "\n{}\n{}\n{}",
        faults(result, width),
        jobs(result, width),
        sizes(result, width)
    );
    text
}

fn faults(result: &ChaosResult, width: u16) -> String {
    let faults = result.verdict.summary.faults.iter();
    let rows = faults.map(|(kind, done)| {
        let counts = [done.min, done.median, done.max].map(|jobs| jobs.to_string());
        let [min, median, max] = counts;
        [kind.clone(), done.times.to_string(), min, median, max]
    });
    let header = ["fault, jobs in flight", "count", "min", "median", "max"];
    table(width, header, rows)
}

fn jobs(result: &ChaosResult, width: u16) -> String {
    let summary = &result.verdict.summary;
    let mut rows = Vec::new();
    let mut row = |what: String, count: u64| rows.push([what, count.to_string()]);
    row("requests accepted (202)".to_owned(), summary.accepted);
    row(
        "requests accepted before (Idempotency-Key)".to_owned(),
        summary.replayed,
    );
    for (status, count) in &summary.refused {
        row(format!("requests refused with {status}"), *count);
    }
    row("requests without a response".to_owned(), summary.unanswered);
    row(
        "requests with an unknown outcome".to_owned(),
        summary.outcome_unknown,
    );
    row(
        "requests not sent (client concurrency limit)".to_owned(),
        result.not_sent,
    );
    for (end, count) in &summary.ended {
        row(format!("jobs {end}"), *count);
    }
    row("requests deleted (RETENTION)".to_owned(), summary.deleted);
    row("requests erased".to_owned(), summary.erased);
    for (answer, count) in &summary.redeliveries_asked {
        row(format!("redeliveries asked for: {answer}"), *count);
    }
    for (end, count) in &summary.redeliveries {
        row(format!("redeliveries of jobs {end}"), *count);
    }
    for (answer, count) in &summary.cancels_asked {
        row(format!("cancellations asked for: {answer}"), *count);
    }
    for (answer, count) in &summary.erasures_asked {
        row(format!("erasures asked for: {answer}"), *count);
    }
    for (answer, count) in &summary.filters {
        row(format!("by filter: {answer}"), *count);
    }
    row("pauses".to_owned(), summary.pauses);
    row("requests to the handler".to_owned(), summary.work_requests);
    row("callbacks".to_owned(), summary.callbacks);
    for (event, count) in &summary.repeats {
        row(format!("duplicate callbacks explained by {event}"), *count);
    }
    for (event, count) in &summary.events {
        row(format!("events {event}"), *count);
    }
    table(width, ["requests, jobs, callbacks", "count"], rows)
}

/// One row for each size, because there are more sizes than moments.
fn sizes(result: &ChaosResult, width: u16) -> String {
    let moments = &result.footprints;
    let names = moments.first().map(|first| &first.resident);
    let names = names.into_iter().flatten().map(|(name, _)| name.as_str());
    let row = |name: &str, size: &dyn Fn(&Footprint) -> String| {
        let sizes = moments.iter().map(size);
        std::iter::once(name.to_owned()).chain(sizes).collect()
    };
    let mut rows: Vec<Vec<String>> = vec![row("database, MiB", &|at| mebibytes(at.database))];
    // That of a server is no matter of the services.
    if result.engine == Engine::Sqlite {
        rows.push(row("WAL, MiB", &|at| mebibytes(at.log)));
    }
    rows.extend([
        row("Redis, MiB", &|at| mebibytes(at.redis_memory)),
        row("Redis, stream entries", &|at| at.redis_entries.to_string()),
    ]);
    rows.extend(names.enumerate().map(|(index, name)| {
        row(&format!("{name}, MiB"), &|at| {
            let resident = at.resident.get(index);
            resident.map_or_else(|| "-".to_owned(), |(_, bytes)| mebibytes(*bytes))
        })
    }));
    let header = std::iter::once("size".to_owned());
    let moments = moments.iter().map(|footprint| footprint.moment.clone());
    table_of(width, header.chain(moments).collect(), rows)
}

fn mebibytes(bytes: u64) -> String {
    let tenths = bytes * 10 / (1 << 20);
    format!("{}.{}", tenths / 10, tenths % 10)
}

fn recoveries(result: &ChaosResult) -> Vec<String> {
    let recovery = &result.recovery;
    let line = |what: &str, LongestWait { jobs, time }: LongestWait| {
        format!(
            "recovery time, {what}: max {} over {jobs} jobs",
            human(time)
        )
    };
    let mut lines = vec![
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
    ];
    if result.engine == Engine::Postgres {
        lines.push(line("standby promoted", recovery.after_promotion));
    }
    lines
}

/// The outcome and one summary line, so that long runs can be compared.
fn figures(result: &ChaosResult) -> String {
    use crate::chaos::checker::CheckRule;

    let run = format!(
        "seed {} on {}: {} jobs, {} kills, {}",
        result.seed,
        result.engine,
        result.verdict.summary.rows,
        result.kills,
        steps(result)
    );
    let took = human(result.took);
    if result.interrupted {
        return format!("interrupted: {run} in {took}; the history was not checked");
    }
    // The rules `sizes` and `faults` are not about jobs. They count only in the total.
    let broken = |rules: &[CheckRule]| -> usize {
        let by_rule = result.verdict.by_rule();
        rules.iter().filter_map(|rule| by_rule.get(rule)).sum()
    };
    let word = match thresholds::failure(&result.thresholds) {
        _ if !result.passed() => "failed:".to_owned(),
        Some(failure) => format!("{failure};"),
        None => "passed:".to_owned(),
    };
    format!(
        "{word} {run}, {} lost, {} incorrect, {} unexplained; {} violations in total, {took}",
        broken(&[CheckRule::Ended]),
        broken(&[
            CheckRule::Named,
            CheckRule::Delivered,
            CheckRule::Reasons,
            CheckRule::Moves,
            CheckRule::Fences,
            CheckRule::Seen,
            CheckRule::Cancels,
            CheckRule::Filters,
            CheckRule::Erased,
            CheckRule::Pauses,
            CheckRule::Retention,
            CheckRule::Waits
        ]),
        broken(&[CheckRule::Repeats]),
        result.violations.len() + result.verdict.violations.len(),
    )
}

fn steps(result: &ChaosResult) -> String {
    let none = || "no clock steps (without libfaketime)".to_owned();
    let steps = |steps| format!("{steps} clock steps");
    result.clock_steps.map_or_else(none, steps)
}

/// The command that reproduces the run.
fn command(result: &ChaosResult) -> String {
    let store = match result.engine {
        Engine::Sqlite => String::new(),
        Engine::Postgres => format!(" STORE={}", result.engine.as_str()),
    };
    format!(
        "make chaos{store} SEED={} DURATION={} JOBS={} LEASE={}",
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
pub(super) mod tests {
    use std::time::Duration;

    use jiff::Timestamp;

    use super::{render, setting};
    use crate::chaos::{
        ChaosResult,
        checker::{FaultCount, Summary, Verdict},
        course::Course,
        engine::Engine,
        history::Footprint,
        recovery::Recovery,
    };

    /// A long run: its counts are as wide as they get.
    pub(in crate::report) fn result(interrupted: bool) -> ChaosResult {
        let count = FaultCount {
            times: 100,
            min: 10_000,
            median: 10_000,
            max: 10_000,
        };
        let summary = Summary {
            faults: [("half_open_connections".to_owned(), count)].into(),
            repeats: [("attempt_failed".to_owned(), 100_000)].into(),
            redeliveries_asked: [("409 redelivery-under-way".to_owned(), 100_000)].into(),
            redeliveries: [("COMPLETED, not delivered".to_owned(), 100_000)].into(),
            cancels_asked: [("409 request-over".to_owned(), 100_000)].into(),
            erasures_asked: [("409 redelivery-under-way".to_owned(), 100_000)].into(),
            rows: 2_000_000,
            ..Summary::default()
        };
        let footprint = |moment: &str| Footprint {
            at: Timestamp::UNIX_EPOCH,
            moment: moment.to_owned(),
            database: 1 << 33,
            log: 1 << 23,
            redis_memory: 1 << 23,
            redis_entries: 100_000,
            resident: vec![
                ("api".to_owned(), 1 << 27),
                ("worker-1".to_owned(), 1 << 27),
            ],
        };
        ChaosResult {
            seed: u64::MAX,
            engine: Engine::Sqlite,
            duration: Duration::from_hours(1),
            jobs: 2_000_000,
            lease: Duration::from_secs(3),
            took: Duration::from_hours(1),
            kills: 1000,
            clock_steps: Some(80),
            not_sent: 0,
            recovery: Recovery::default(),
            footprints: ["start", "storm", "settled", "again"].map(footprint).into(),
            interrupted,
            violations: Vec::new(),
            verdict: Verdict {
                violations: Vec::new(),
                summary,
            },
            thresholds: Vec::new(),
            course: Course::default(),
        }
    }

    #[test]
    fn its_tables_fit_60_columns() {
        let text = render(&result(false), &[], 60);
        let tables = text.split_once("\n\n").unwrap().1;
        assert!(
            tables.lines().all(|line| line.chars().count() <= 60),
            "{text}"
        );
        assert!(text.starts_with("passed: seed"), "{text}");
        // Each table has a header, a line below it, and one line for each row.
        let lines: Vec<_> = tables
            .split("\n\n")
            .map(|table| table.trim().lines().count())
            .collect();
        assert_eq!(lines, [3, 17, 8], "{text}");
    }

    #[test]
    fn it_says_how_often_the_clock_was_stepped() {
        let mut result = result(false);
        assert!(render(&result, &[], 80).contains(" 1000 kills, 80 clock steps, "));
        result.clock_steps = None;
        let text = render(&result, &[], 80);
        assert!(
            text.contains("no clock steps (without libfaketime)"),
            "{text}"
        );
    }

    #[test]
    fn it_names_the_engine_and_how_to_run_on_it_again() {
        let mut result = result(false);
        assert!(render(&result, &[], 80).contains(" on SQLite: "));
        result.engine = Engine::Postgres;
        result.violations.push("a fault".to_owned());
        let text = render(&result, &[], 80);
        assert!(
            text.starts_with("failed: seed 18446744073709551615 on PostgreSQL: "),
            "{text}"
        );
        assert!(
            text.contains("reproduce with: make chaos STORE=postgres SEED="),
            "{text}"
        );
        assert!(
            text.contains("standby promoted") && !text.contains("WAL"),
            "{text}"
        );
    }

    #[test]
    fn an_interrupted_run_has_no_verdict_and_loses_nothing() {
        let text = render(&result(true), &[], 80);
        assert!(text.starts_with("interrupted: seed"), "{text}");
        assert!(text.contains("half_open_connections"), "{text}");
        assert!(!text.contains("lost") && !text.contains("passed"), "{text}");
    }

    #[test]
    fn durations_are_formatted_as_the_script_parses_them() {
        for (millis, text) in [(60_000, "60s"), (90_000, "90s"), (2500, "2500ms")] {
            assert_eq!(setting(Duration::from_millis(millis)), text);
        }
    }
}
