//! Rule `sizes`: the WAL, Redis and memory shrink to their limits after the run has settled.

use super::{index::Index, verdict::Finding};
use crate::chaos::history::{Footprint, HistoryLimits};

pub(super) fn check(index: &Index<'_>, limits: &HistoryLimits) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut moment = |name: &str| {
        let at_moment = index.footprints.iter().find(|it| it.moment == name);
        if at_moment.is_none() {
            found.push(format!("there is no footprint for the moment `{name}`"));
        }
        at_moment.copied()
    };
    if let (Some(start), Some(settled), Some(again)) =
        (moment("start"), moment("settled"), moment("again"))
    {
        found.extend(log(start, settled, limits));
        found.extend(redis(start, settled, limits));
        found.extend(memory(settled, again, limits));
        found.extend(database(index, start, settled, again));
    }
    found.into_iter().map(Finding::from).collect()
}

fn log(start: &Footprint, settled: &Footprint, limits: &HistoryLimits) -> Option<String> {
    // A WAL that was longer at the start need not shrink.
    let limit = limits.log.max(start.log);
    (settled.log > limit).then(|| {
        format!(
            "the write-ahead log has {} bytes in the settled state; the limit is {limit}",
            settled.log
        )
    })
}

fn redis(start: &Footprint, settled: &Footprint, limits: &HistoryLimits) -> Vec<String> {
    let mut found = Vec::new();
    // Workers acknowledge and delete each entry, even if its claim lost. So the stream is empty
    // once all jobs have ended.
    if settled.redis_entries > 0 {
        found.push(format!(
            "Redis has {} entries in the settled state",
            settled.redis_entries
        ));
    }
    let limit = start.redis_memory.saturating_add(limits.redis_growth);
    if settled.redis_memory > limit {
        found.push(format!(
            "Redis uses {} bytes in the settled state; the limit is {limit}",
            settled.redis_memory
        ));
    }
    found
}

/// A process may keep the memory of its first load, but must not gain as much again
/// under a second load: that is a leak.
fn memory(settled: &Footprint, again: &Footprint, limits: &HistoryLimits) -> Vec<String> {
    // An empty list would pass every comparison below.
    if settled.resident.is_empty() {
        return vec!["no process's memory was measured".to_owned()];
    }
    let judge = |(name, before): &(String, u64)| {
        let Some((_, after)) = again.resident.iter().find(|(it, _)| it == name) else {
            return Some(format!("the memory of {name} was not measured again"));
        };
        let limit = half_more(*before).saturating_add(limits.resident_growth);
        (*after > limit).then(|| {
            format!("{name} has {after} bytes after a second load, and had {before} before it")
        })
    };
    settled.resident.iter().filter_map(judge).collect()
}

/// The file may grow by the second load's jobs, at 150 % of the first load's bytes per job, and by
/// the pages of the first load that were still in the WAL.
fn database(
    index: &Index<'_>,
    start: &Footprint,
    settled: &Footprint,
    again: &Footprint,
) -> Option<String> {
    // `settled` was measured between the two loads, with no job in flight.
    let rows = index.jobs().filter(|job| job.row.is_some());
    let (first, second): (Vec<_>, Vec<_>) =
        rows.partition(|job| job.started().is_none_or(|started| started < settled.at));
    let (first, second) = (first.len() as u64, second.len() as u64);
    if first == 0 || second == 0 {
        return Some(format!(
            "the first load created {first} rows and the second {second}: growth per job is undefined"
        ));
    }
    let stored = (settled.database + settled.log).saturating_sub(start.database);
    let limit = half_more(stored / first * second).saturating_add(settled.log);
    let grown = again.database.saturating_sub(settled.database);
    (grown > limit).then(|| {
        format!(
            "the database grew by {grown} bytes for {second} jobs, after {stored} bytes for {first}"
        )
    })
}

const fn half_more(bytes: u64) -> u64 {
    bytes.saturating_add(bytes / 2)
}

#[cfg(test)]
mod tests {
    use super::super::{
        CheckRule,
        example::{Example, at},
    };
    use crate::chaos::history::{Footprint, Record};

    const MIB: u64 = 1 << 20;

    fn with(moment: &str, change: impl Fn(&mut Footprint)) -> Example {
        Example::changed(|record| match record {
            Record::Footprint(footprint) if footprint.moment == moment => change(footprint),
            _ => {}
        })
    }

    #[track_caller]
    fn assert_violation(example: &Example, what: &str) {
        example.assert_run_violation(CheckRule::Sizes, what);
    }

    #[test]
    fn a_moment_that_was_not_measured_proves_nothing() {
        for moment in ["start", "settled", "again"] {
            let example = Example::without(
                |record| matches!(record, Record::Footprint(it) if it.moment == moment),
            );
            assert_violation(&example, &format!("for the moment `{moment}`"));
        }
    }

    #[test]
    fn the_log_is_short_again() {
        assert_violation(
            &with("settled", |it| it.log = 4 * MIB + 1),
            "the write-ahead log",
        );
        with("settled", |it| it.log = 4 * MIB).assert_passes();
        // A WAL that was longer at the start need not shrink.
        let mut long = with("settled", |it| it.log = 70 * MIB);
        for record in &mut long.records {
            if let Record::Footprint(footprint) = record
                && footprint.moment == "start"
            {
                footprint.log = 70 * MIB;
            }
        }
        long.assert_passes();
    }

    #[test]
    fn redis_is_empty_again() {
        assert_violation(
            &with("settled", |it| it.redis_entries = 1),
            "Redis has 1 entries",
        );
        assert_violation(
            &with("settled", |it| it.redis_memory = 9 * MIB + 1),
            "Redis uses",
        );
        with("settled", |it| it.redis_memory = 9 * MIB).assert_passes();
    }

    #[test]
    fn memory_does_not_grow_with_each_load() {
        // 40 MiB, plus 50 %, plus 16 MiB.
        assert_violation(
            &with("again", |it| it.resident[1].1 = 76 * MIB + 1),
            "worker 1 has",
        );
        with("again", |it| it.resident[1].1 = 76 * MIB).assert_passes();
    }

    #[test]
    fn every_process_is_measured_each_time() {
        let unmeasured = with("again", |it| it.resident.truncate(1));
        assert_violation(&unmeasured, "worker 1 was not measured again");
        let nothing = with("settled", |it| it.resident.clear());
        assert_violation(&nothing, "no process's memory");
    }

    #[test]
    fn the_database_grows_by_its_jobs_alone() {
        // 88 jobs stored 4 MiB; 68 more at 150 % of that per job; plus the WAL of 1 MiB.
        let allowed = 4 * MIB / 88 * 68 * 3 / 2 + MIB;
        with("again", |it| it.database = 4 * MIB + allowed - 100).assert_passes();
        let grown = with("again", |it| it.database = 4 * MIB + allowed + 100);
        assert_violation(&grown, "the database grew");
    }

    #[test]
    fn growth_is_judged_by_two_loads() {
        let one_load = with("settled", |it| it.at = at(1_000_000));
        assert_violation(&one_load, "growth per job is undefined");
        let none_before = with("settled", |it| it.at = at(0));
        assert_violation(&none_before, "growth per job is undefined");
    }
}
