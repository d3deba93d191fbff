//! Rule `erased`: what was answered as erased is erased, nothing else is, and an erasure changes
//! nothing but the contents. They are never shown again, and no callback of it is read later than
//! its attempts may last.

#[cfg(test)]
mod tests;

use super::{
    asked::{had_ended, is_under_way, was_known},
    index::{Index, JobHistory},
    is_final,
    late::first_late,
    not_later,
    verdict::Finding,
};
use crate::chaos::history::{
    EraseAnswer, EraseAsked, Fault, HistoryLimits, Polled, RowKind, RowState, Transition,
};

pub(super) fn check(index: &Index<'_>, limits: &HistoryLimits) -> Vec<Finding> {
    let of_job = |job| {
        let found = of_job(job, &index.faults, limits).into_iter();
        found.map(|what| Finding {
            id: Some(job.id),
            what,
        })
    };
    index.jobs().flat_map(of_job).collect()
}

fn of_job(job: &JobHistory<'_>, faults: &[&Fault], limits: &HistoryLimits) -> Vec<String> {
    let mut found: Vec<_> = job
        .erasures
        .iter()
        .filter_map(|asked| unkept(job, asked).or_else(|| untrue(job, asked)))
        .collect();
    found.extend(shown_too_early(job));
    let Some(erasure) = job.erasure() else {
        return found;
    };
    if !is_asked(job, erasure) {
        found.push(format!(
            "it was erased by {:.3}, and no request explains it",
            erasure.at
        ));
    }
    found.extend(wrong_erasure(erasure).map(str::to_owned));
    found.extend(changed_later(job));
    found.extend(wrong_rest(job));
    found.extend(
        job.polls
            .iter()
            .filter_map(|poll| shown_later(erasure, poll)),
    );
    let callbacks = job.callbacks.iter().copied();
    let late = first_late(callbacks, erasure.at, faults, limits);
    found.extend(late.map(|callback| {
        format!(
            "a callback was read at {:.3}, and it was erased by {:.3}",
            callback.at, erasure.at
        )
    }));
    found
}

/// A `200` without an erasure by then, or with another time than that of the erasure.
fn unkept(job: &JobHistory<'_>, asked: &EraseAsked) -> Option<String> {
    let EraseAnswer::Erased { erased_at } = &asked.answer else {
        return None;
    };
    if !job.may_be_erased(asked.at) {
        return Some(format!(
            "a 200 at {:.3} says that it is erased, and it is not",
            asked.at
        ));
    }
    let recorded = job.erased.map(|erased| &erased.erased_at);
    recorded.filter(|recorded| *recorded != erased_at).map(|recorded| {
        format!(
            "a 200 at {:.3} says that it was erased at {erased_at}, and its row says {recorded}",
            asked.at
        )
    })
}

/// A refusal that is true at no moment between the request and its answer.
fn untrue(job: &JobHistory<'_>, asked: &EraseAsked) -> Option<String> {
    let EraseAnswer::Refused { status, problem } = &asked.answer else {
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
        // Under load or a fault.
        (503, _) => None,
        _ => Some("no fault of this run can cause that"),
    };
    why.map(|why| {
        format!(
            "an erasure was refused with {status} `{problem}` at {:.3}, and {why}",
            asked.at
        )
    })
}

/// Whether a request explains the erasure.
fn is_asked(job: &JobHistory<'_>, erasure: &Transition) -> bool {
    let mut asked = job.erasures.iter();
    asked.any(|asked| {
        !matches!(asked.answer, EraseAnswer::Refused { .. })
            && not_later(asked.asked_at, erasure.at)
    })
}

/// An erasure of what had not ended, or one that changed more than the contents.
fn wrong_erasure(erasure: &Transition) -> Option<&'static str> {
    let Some(before) = erasure.before.as_ref().filter(|it| is_final(it.status)) else {
        return Some("it was erased before its end");
    };
    let expected = RowState {
        result: None,
        ..before.clone()
    };
    if erasure.after == expected {
        None
    } else if erasure.after.result.is_some() {
        Some("its erasure left the result")
    } else {
        Some("its erasure changed other columns than the contents")
    }
}

/// A change of the job or of a redelivery after the erasure, or a redelivery that was in progress.
/// Only a deletion may follow, which is no transition.
fn changed_later(job: &JobHistory<'_>) -> Option<String> {
    let erased = job.moves.iter().position(|moved| moved.erases)?;
    let (before, after) = job.moves.split_at(erased);
    let redelivered = before
        .iter()
        .rev()
        .find(|it| it.kind == RowKind::Redelivery);
    if redelivered.is_some_and(|last| !is_final(last.after.status)) {
        return Some("it was erased during a redelivery".to_owned());
    }
    let next = after.get(1)?;
    Some(match (next.erases, next.kind) {
        (true, _) => format!("it was erased again by {:.3}", next.at),
        (false, RowKind::Job) => format!("it was erased, and changed by {:.3}", next.at),
        (false, RowKind::Redelivery) => {
            format!("it was erased, and redelivered by {:.3}", next.at)
        }
    })
}

/// An outcome that is not what it was, or contents that are still in the database.
fn wrong_rest(job: &JobHistory<'_>) -> Vec<String> {
    let Some(erased) = job.erased else {
        return vec!["it was erased, and what is left was not recorded".to_owned()];
    };
    let mut found = Vec::new();
    if !erased.outcome_kept {
        found.push("its erasure changed its outcome".to_owned());
    }
    if !erased.left.is_empty() {
        let left = erased.left.join(", ");
        found.push(format!("it was erased, and contents are left: {left}"));
    }
    found
}

/// A poll that shows it as erased before it was.
fn shown_too_early(job: &JobHistory<'_>) -> Option<String> {
    let mut polls = job.polls.iter().filter(|poll| poll.erased);
    let early = polls.find(|poll| !job.may_be_erased(poll.at))?;
    Some(format!(
        "a poll showed it as erased at {:.3}, and it was not",
        early.at
    ))
}

/// A poll after the erasure that does not show it, or one that shows some of the contents.
fn shown_later(erasure: &Transition, poll: &Polled) -> Option<String> {
    let is_later = !not_later(poll.asked_at, erasure.at);
    // A `404` shows nothing. The rule `seen` judges it.
    if poll.status.is_none() || !(poll.erased || is_later) {
        return None;
    }
    if !poll.erased {
        return Some(format!(
            "it was erased by {:.3}, and a poll did not show that at {:.3}",
            erasure.at, poll.at
        ));
    }
    (!poll.shown.is_empty()).then(|| {
        let shown = poll.shown.join(", ");
        format!(
            "it was erased, and a poll showed its {shown} at {:.3}",
            poll.at
        )
    })
}
