//! Checks the history of a run: at-least-once delivery and fencing must hold under every injected
//! fault.
//!
//! The checker is independent of the code under test. Its inputs are the client responses, the
//! deliveries, the database's own log of row changes, and the contract.
//!
//! * One module per rule; [`CheckRule`] lists them. `asked` has what several rules say of requests
//!   for a redelivery, and `late` what they say of callbacks that are read too late.
//! * `series`: the changes of one row. The rules for a job's row hold for that of a redelivery.
//! * [`Verdict`]: the violations and the summary.
//! * [`judge`]: the same for a history stored in a file.

mod asked;
mod cancels;
mod delivered;
mod ended;
mod erased;
#[cfg(test)]
mod example;
mod faults;
mod fences;
mod filters;
mod index;
mod kept;
mod late;
mod moves;
mod named;
mod pauses;
mod reasons;
mod repeats;
mod retention;
mod seen;
mod series;
mod sizes;
mod summary;
#[cfg(test)]
mod tests;
mod verdict;
mod waits;
mod work;

use jiff::{SignedDuration, Timestamp};
use storm_shared::models::Status;

pub(in crate::chaos) use self::repeats::REDELIVERY;
use self::{
    index::{Index, JobHistory},
    verdict::Finding,
};
pub use self::{
    kept::{Judged, judge, read},
    summary::{FaultCount, Summary},
    verdict::{CheckRule, Verdict, Violation},
};
use super::history::{HistoryLimits, Record};

/// Checks one rule for one job. Returns one sentence per violation.
type JobCheck = fn(&JobHistory<'_>, &HistoryLimits) -> Vec<String>;

/// Checks one rule for the run as a whole.
type RunCheck = fn(&Index<'_>, &HistoryLimits) -> Vec<Finding>;

const JOB_RULES: [(CheckRule, JobCheck); 12] = [
    (CheckRule::Ended, ended::check),
    (CheckRule::Named, named::check),
    (CheckRule::Named, asked::check_unasked),
    (CheckRule::Delivered, delivered::check),
    (CheckRule::Reasons, reasons::check),
    (CheckRule::Repeats, repeats::check),
    (CheckRule::Moves, moves::check),
    (CheckRule::Fences, fences::check),
    (CheckRule::Seen, seen::check),
    (CheckRule::Seen, asked::check_refusals),
    (CheckRule::Retention, retention::check),
    (CheckRule::Waits, waits::check),
];

const RUN_RULES: [(CheckRule, RunCheck); 8] = [
    (CheckRule::Named, named::check_requests),
    (CheckRule::Cancels, cancels::check),
    (CheckRule::Filters, filters::check),
    (CheckRule::Erased, erased::check),
    (CheckRule::Pauses, pauses::check),
    (CheckRule::Work, work::check),
    (CheckRule::Sizes, sizes::check),
    (CheckRule::Faults, faults::check),
];

/// Tolerance when timestamps are compared: store time is in milliseconds, and in histories from
/// before clock steps the services' own readings are compared with the run's.
const CLOCK_TOLERANCE: SignedDuration = SignedDuration::from_millis(5);

/// Checks `records` against every rule.
pub fn check(records: &[Record], limits: &HistoryLimits) -> Verdict {
    let index = Index::of(records);
    let mut violations = Vec::new();
    for job in index.jobs() {
        for (rule, check) in JOB_RULES {
            violations.extend(check(job, limits).into_iter().map(|what| Violation {
                rule,
                id: Some(job.id),
                what,
            }));
        }
    }
    for (rule, check) in RUN_RULES {
        let found = check(&index, limits).into_iter();
        violations.extend(found.map(|Finding { id, what }| Violation { rule, id, what }));
    }
    Verdict {
        violations,
        summary: Summary::of(&index),
    }
}

/// Whether `first` may have happened before `second` or at the same time, within `CLOCK_TOLERANCE`.
fn not_later(first: Timestamp, second: Timestamp) -> bool {
    first.duration_since(second) <= CLOCK_TOLERANCE
}

/// Whether this status is final.
fn is_final(status: Status) -> bool {
    matches!(status, Status::Completed | Status::Failed)
}
