//! Rule `faults`: every planned kind of fault was injected, and each fault while jobs were in
//! flight. Redeliveries were in progress too, if the clients asked for them, something was
//! cancelled, erased and paused, operators acted by filter, and old requests were deleted.
//!
//! Without this rule an idle run without faults would pass.

use super::{index::Index, series::is_cancel, verdict::Finding};
use crate::chaos::history::{FilterAction, HistoryLimits, WorkEnd};

pub(super) fn check(index: &Index<'_>, limits: &HistoryLimits) -> Vec<Finding> {
    let happened = |kind: &str| index.faults.iter().any(|fault| fault.kind == kind);
    let promised = limits.faults.iter();
    let missing = promised
        .filter(|kind| !happened(kind))
        .map(|kind| format!("`{kind}` was planned and never injected"));
    let idle = index
        .faults
        .iter()
        .filter(|fault| fault.in_flight == 0)
        .map(|fault| {
            format!(
                "`{}` at {:.3} was injected while no job was in flight",
                fault.kind, fault.at
            )
        });
    let redelivered = index.jobs().any(|job| !job.redeliveries.is_empty());
    let none = (limits.redeliveries && !redelivered)
        .then(|| "redeliveries were planned, and none began".to_owned());
    let cancelled = index.jobs().any(|job| {
        let mut ends = job.series().filter_map(|series| series.end());
        ends.any(is_cancel)
    });
    let not_cancelled = (limits.cancellations && !cancelled)
        .then(|| "cancellations were planned, and there was none".to_owned());
    let deleted = index.jobs().any(|job| job.deleted.is_some());
    let not_deleted = (limits.deletions && !deleted)
        .then(|| "old requests were to be deleted, and none was".to_owned());
    let erased = index.jobs().any(|job| job.erasure().is_some());
    let not_erased = (limits.erasures && !erased)
        .then(|| "erasures were planned, and there was none".to_owned());
    let none = none.into_iter().chain(not_cancelled).chain(not_deleted);
    let paused = |everything: bool| {
        let mut changes = index.pause_changes.iter();
        changes.any(|change| change.paused && change.origin.is_none() == everything)
    };
    let not_paused = (limits.pauses && !(paused(true) && paused(false)))
        .then(|| "pauses of everything and of origins were planned, and not made".to_owned());
    let filtered = |action: FilterAction| {
        let mut applied = index.filters_applied.iter();
        applied.any(|it| it.action == action && it.changed > 0)
    };
    let tried = index.filters_applied.iter().any(|it| it.dry_run);
    let is_filtered = filtered(FilterAction::Cancel) && filtered(FilterAction::Redeliver) && tried;
    let not_filtered = (limits.filters && !is_filtered).then(|| {
        "cancellations, redeliveries and dry runs by filter were planned, and not all came"
            .to_owned()
    });
    let worked = |told: fn(&WorkEnd) -> bool| {
        let mut stored = index.jobs().flat_map(|job| &job.work_stored);
        stored.any(|stored| told(&stored.end))
    };
    let is_result = |end: &WorkEnd| matches!(end, WorkEnd::Result(_));
    let is_failure = |end: &WorkEnd| matches!(end, WorkEnd::Failure(_));
    let not_worked = (limits.handlers && !(worked(is_result) && worked(is_failure)))
        .then(|| "jobs of a handler were planned, and not all kinds of their ends came".to_owned());
    let none = none.chain(not_erased).chain(not_paused).chain(not_worked);
    let none = none.chain(not_filtered);
    missing.chain(idle).chain(none).map(Finding::from).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{CheckRule, example::Example};
    use crate::chaos::history::Record;

    #[test]
    fn every_planned_fault_is_injected() {
        Example::without(|record| matches!(record, Record::Fault(it) if it.kind == "kill_worker"))
            .assert_run_violation(
                CheckRule::Faults,
                "`kill_worker` was planned and never injected",
            );
    }

    #[test]
    fn every_fault_is_injected_while_jobs_are_in_flight() {
        let mut example = Example::good();
        let idle = example.records.iter().find_map(|record| match record {
            Record::Fault(fault) => Some(fault.clone()),
            _ => None,
        });
        let mut idle = idle.unwrap();
        idle.in_flight = 0;
        example.records.push(Record::Fault(idle));
        example.assert_run_violation(CheckRule::Faults, "while no job was in flight");
    }
}
