//! Requests for a redelivery, compared with the redeliveries: parts of the rules `ended`, `named`
//! and `seen`.

use jiff::Timestamp;

use super::{index::JobHistory, not_later, series::Series};
use crate::chaos::history::{HistoryLimits, RedeliveryAnswer, RedeliveryAsked, Transition};

/// What requests and redeliveries of a job leave over when they are matched one to one.
#[derive(Debug)]
pub(super) struct Unmatched<'s, 'a> {
    /// Requests that were accepted, and began no redelivery.
    pub(super) lost: Vec<&'a RedeliveryAsked>,
    /// The beginnings of redeliveries that no request explains.
    unasked: Vec<&'s Transition>,
}

/// Matches the requests with the redeliveries of a job.
pub(super) fn matched<'s, 'a>(job: &'s JobHistory<'a>) -> Unmatched<'s, 'a> {
    let begun = job.redeliveries.iter().filter_map(Series::begun);
    // Who asked for those that operators began by filter is judged by the rule `filters`.
    let mut begun: Vec<_> = begun.filter(|begun| !begun.by_filter).collect();
    let mut take = |fits: &dyn Fn(&Transition) -> bool| {
        let found = begun.iter().position(|begun| fits(begun));
        found.map(|index| begun.remove(index)).is_some()
    };
    let mut lost = Vec::new();
    // One that was accepted began before its answer. Both are in time order, so that no request
    // takes the redelivery of another one.
    for asked in with_answer(job, |answer| *answer == RedeliveryAnswer::Accepted) {
        let is_its_own = |begun: &Transition| {
            not_later(asked.asked_at, begun.at) && not_later(begun.earliest(), asked.at)
        };
        if !take(&is_its_own) {
            lost.push(asked);
        }
    }
    // The others may have begun one, also after the client gave up.
    for asked in with_answer(job, |answer| {
        matches!(
            answer,
            RedeliveryAnswer::OutcomeUnknown | RedeliveryAnswer::NoAnswer(_)
        )
    }) {
        take(&|begun| not_later(asked.asked_at, begun.at));
    }
    Unmatched {
        lost,
        unasked: begun,
    }
}

fn with_answer<'a>(
    job: &JobHistory<'a>,
    which: fn(&RedeliveryAnswer) -> bool,
) -> impl Iterator<Item = &'a RedeliveryAsked> {
    let asked = job.asked.iter().copied();
    asked.filter(move |asked| which(&asked.answer))
}

/// Rule `named`: one redelivery for one request, and none for one that was refused.
pub(super) fn check_unasked(job: &JobHistory<'_>, _: &HistoryLimits) -> Vec<String> {
    let unasked = matched(job).unasked.into_iter();
    unasked
        .map(|begun| {
            format!(
                "a redelivery began by {:.3}, and no request explains it",
                begun.at
            )
        })
        .collect()
}

/// Rule `seen`: a refusal is true at some moment between the request and its answer.
pub(super) fn check_refusals(job: &JobHistory<'_>, _: &HistoryLimits) -> Vec<String> {
    let wrong = |asked: &&RedeliveryAsked| {
        let RedeliveryAnswer::Refused { status, problem } = &asked.answer else {
            return None;
        };
        let problem = problem.as_deref().unwrap_or_default();
        let why = match (status, problem) {
            (404, _) => {
                let is_wrong = was_known(job, asked.asked_at) && !job.may_be_deleted(asked.at);
                is_wrong.then_some("the job was known")
            }
            (409, "request-unfinished") => {
                had_ended(job, asked.asked_at).then_some("the job had ended")
            }
            (409, "redelivery-under-way") => {
                let is_wrong = !is_under_way(job, asked.asked_at, asked.at);
                is_wrong.then_some("there was no redelivery")
            }
            (409, "request-erased") => {
                (!job.may_be_erased(asked.at)).then_some("it was not erased")
            }
            (409, "nothing-to-redeliver") => {
                is_deliverable(job).then_some("it has a result and a callback URL")
            }
            // Under load or a fault. The rule `named` checks that no redelivery began.
            (503, _) => None,
            _ => Some("no fault of this run can cause that"),
        };
        why.map(|why| {
            format!(
                "a redelivery was refused with {status} `{problem}` at {:.3}, and {why}",
                asked.at
            )
        })
    };
    job.asked.iter().filter_map(wrong).collect()
}

/// Whether the job had been accepted when the request was sent.
pub(super) fn was_known(job: &JobHistory<'_>, asked_at: Timestamp) -> bool {
    let mut accepted = job.acceptances.iter();
    accepted.any(|submitted| submitted.at <= asked_at)
}

/// Whether the job had ended before the request was sent.
pub(super) fn had_ended(job: &JobHistory<'_>, asked_at: Timestamp) -> bool {
    let end = job.own.end();
    end.is_some_and(|end| !not_later(asked_at, end.at))
}

/// Whether a redelivery was in progress at some moment between these two.
pub(super) fn is_under_way(job: &JobHistory<'_>, from: Timestamp, to: Timestamp) -> bool {
    job.redeliveries.iter().any(|series| {
        let begun = series.begun().map(Transition::earliest);
        let begun = begun.is_some_and(|begun| not_later(begun, to));
        let ended = series.end().is_some_and(|end| !not_later(from, end.at));
        begun && !ended
    })
}

fn is_deliverable(job: &JobHistory<'_>) -> bool {
    let row = job.row;
    // A job that was cancelled after its work had failed has nothing to say.
    let is_told = job.result().is_some()
        || job.work_failure() == row.and_then(|row| row.failure_reason.as_deref())
            && job.work_failure().is_some();
    row.is_some_and(|row| row.called_back && is_told)
}
