//! Judges a run's history: whether every promise was kept, whatever was broken.
//!
//! It knows nothing of the code that it judges. It has what clients were told, what receivers got,
//! the database's own account of every change, and the contract.
//!
//! * One module for each rule; [`Rule`] lists them.
//! * [`Verdict`]: what they found, and the figures for the summary.
//! * [`judge`]: the same for a history that was kept in a file.

mod delivered;
mod ended;
#[cfg(test)]
mod example;
mod faults;
mod fences;
mod index;
mod kept;
mod moves;
mod named;
mod reasons;
mod repeats;
mod seen;
mod sizes;
mod summary;
#[cfg(test)]
mod tests;
mod verdict;

use jiff::{SignedDuration, Timestamp};
use storm_shared::models::Status;

use self::{
    index::{Index, Job},
    verdict::Finding,
};
pub use self::{
    kept::{Judged, judge, read},
    summary::{Summary, TimesDone},
    verdict::{Rule, Verdict, Violation},
};
use super::history::{Limits, Record};

/// What one rule finds in one job: a sentence for each violation.
type JobRule = fn(&Job<'_>, &Limits) -> Vec<String>;

/// What one rule finds in the run as a whole.
type RunRule = fn(&Index<'_>, &Limits) -> Vec<Finding>;

const JOB_RULES: [(Rule, JobRule); 8] = [
    (Rule::Ended, ended::check),
    (Rule::Named, named::check),
    (Rule::Delivered, delivered::check),
    (Rule::Reasons, reasons::check),
    (Rule::Repeats, repeats::check),
    (Rule::Moves, moves::check),
    (Rule::Fences, fences::check),
    (Rule::Seen, seen::check),
];

const RUN_RULES: [(Rule, RunRule); 3] = [
    (Rule::Named, named::check_requests),
    (Rule::Sizes, sizes::check),
    (Rule::Faults, faults::check),
];

/// How far two processes' readings of the same clock may stand in the wrong order: one rounds to
/// milliseconds, and each reads it a moment beside the thing itself.
const CLOCKS: SignedDuration = SignedDuration::from_millis(5);

/// Judges `records` by every rule.
pub fn check(records: &[Record], limits: &Limits) -> Verdict {
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

/// Whether `first` may have been before `second`, or at the same time.
fn not_later(first: Timestamp, second: Timestamp) -> bool {
    first.duration_since(second) <= CLOCKS
}

/// Whether a job in this status is over.
fn is_over(status: Status) -> bool {
    matches!(status, Status::Completed | Status::Failed)
}
