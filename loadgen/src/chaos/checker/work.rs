//! Rule `work`: what came of the work of a handler's job is what its endpoint answered to one of
//! the job's requests. It is committed before the first callback and never replaced, every callback
//! says just that, and the work is never asked for again.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use storm_shared::models::Status;

use super::{
    index::{Index, JobHistory},
    late::first_late_work,
    not_later,
    series::{is_cancel, is_claim},
    verdict::Finding,
};
use crate::chaos::history::{
    Fault, HistoryLimits, RowState, Transition, WorkEnd, WorkRequest, WorkStored,
};

pub(super) fn check(index: &Index<'_>, limits: &HistoryLimits) -> Vec<Finding> {
    let of_job = |job: &JobHistory<'_>| {
        let id = Some(job.id);
        let found = of_job(job, &index.faults, limits).into_iter();
        found
            .map(move |what| Finding { id, what })
            .collect::<Vec<_>>()
    };
    index.jobs().flat_map(of_job).collect()
}

fn of_job(job: &JobHistory<'_>, faults: &[&Fault], limits: &HistoryLimits) -> Vec<String> {
    if job.handler().is_none() {
        let has_work = !job.work_requests.is_empty() || !job.work_stored.is_empty();
        let what = "it has no handler, and a handler was asked for its work";
        return has_work.then(|| what.to_owned()).into_iter().collect();
    }
    let mut found: Vec<String> = wrong_request(job).into_iter().collect();
    found.extend(unclaimed(job));
    found.extend(unanswered_attempts(job));
    match job.work_stored.as_slice() {
        [] => found.extend(unworked(job)),
        [stored, replaced @ ..] => {
            found.extend(replaced.iter().map(|replaced| {
                format!(
                    "what came of its work was stored by {:.3}, and something else by {:.3}",
                    stored.at, replaced.at
                )
            }));
            found.extend(unfounded(job, stored, limits));
            found.extend(asked_again(job, stored, faults, limits));
            found.extend(wrong_callbacks(job, stored));
            found.extend(wrong_end(job, stored));
        }
    }
    found
}

/// A request with another payload than the client's, or with another job's key.
fn wrong_request(job: &JobHistory<'_>) -> Option<String> {
    let wrong = job.work_requests.iter().find(|request| !request.right)?;
    Some(format!(
        "the request to its handler at {:.3} does not have the payload of the job with this key",
        wrong.at
    ))
}

/// A request that no claim explains. A claim asks once at most, and only as long as nothing has
/// come of the work.
fn unclaimed(job: &JobHistory<'_>) -> Option<String> {
    let over = job.work_stored.first().map(|stored| stored.at);
    let moves = job.own.moves.iter().map(AsRef::as_ref);
    let mut claims = moves.filter(|moved: &&Transition| {
        is_claim(moved) && over.is_none_or(|over| not_later(moved.earliest(), over))
    });
    let unexplained = job.work_requests.iter().find(|request| {
        !claims
            .next()
            .is_some_and(|claim| not_later(claim.earliest(), request.at))
    })?;
    Some(format!(
        "its handler was asked at {:.3}, and no claim of unfinished work explains it",
        unexplained.at
    ))
}

/// More recorded attempts with a status than answers with it.
fn unanswered_attempts(job: &JobHistory<'_>) -> Vec<String> {
    let mut left: BTreeMap<u16, usize> = BTreeMap::new();
    for request in &job.work_requests {
        if let Some(status) = request.answered {
            *left.entry(status).or_default() += 1;
        }
    }
    let statuses = job
        .work_attempts
        .iter()
        .filter_map(|attempt| Some((attempt, attempt.status?)));
    let unanswered = statuses.filter(|(_, status)| match left.get_mut(status) {
        Some(left @ 1..) => {
            *left -= 1;
            false
        }
        _ => true,
    });
    unanswered
        .map(|(attempt, status)| {
            format!(
                "attempt {} of claim {} has the status {status}, and its handler did not answer so",
                attempt.number, attempt.claim
            )
        })
        .collect()
}

/// A job that says that its work is over, although nothing is stored of it.
fn unworked(job: &JobHistory<'_>) -> Vec<String> {
    let mut found = Vec::new();
    if let Some(callback) = job.callbacks.first() {
        found.push(format!(
            "a callback was read at {:.3}, and nothing is stored of its work",
            callback.at
        ));
    }
    let is_completed = |state: &RowState| state.status == Status::Completed;
    if job.row.is_some_and(|row| is_completed(&row.state)) {
        found.push("it is COMPLETED, and nothing is stored of its work".to_owned());
    }
    found
}

/// Something stored that the endpoint did not answer.
fn unfounded(job: &JobHistory<'_>, stored: &WorkStored, limits: &HistoryLimits) -> Option<String> {
    let by_then = |request: &&&WorkRequest| not_later(request.at, stored.at);
    match &stored.end {
        WorkEnd::Result(result) => {
            let mut requests = job.work_requests.iter().filter(by_then);
            let is_answered =
                requests.any(|request| request.result_sha256.as_ref() == Some(result));
            (!is_answered).then(|| {
                format!(
                    "its result is stored since {:.3}, and its handler had not answered it",
                    stored.at
                )
            })
        }
        WorkEnd::Failure(reason) => {
            let attempts = limits
                .work_retry_delays
                .iter()
                .fold(1, |count, _| count + 1);
            let is_exhausted = job.own.work_attempts == attempts;
            let is_refused = job.work_requests.iter().filter(by_then).any(|request| {
                let is_final = |status: u16| {
                    (400..500).contains(&status) && !matches!(status, 408 | 425 | 429)
                };
                request.answered.is_some_and(is_final)
            });
            let last = job
                .work_attempts
                .iter()
                .max_by_key(|attempt| attempt.number);
            let timed_out = last.is_some_and(|last| last.class == "timeout");
            let is_true = match reason.as_str() {
                "work_timed_out" => is_exhausted && timed_out,
                _ => (is_exhausted || is_refused) && !timed_out,
            };
            (!is_true).then(|| {
                format!(
                    "its work ended with {reason} by {:.3}, after {} attempts and no final answer",
                    stored.at, job.own.work_attempts
                )
            })
        }
    }
}

/// A request that began after the end of the work was committed.
fn asked_again(
    job: &JobHistory<'_>,
    stored: &WorkStored,
    faults: &[&Fault],
    limits: &HistoryLimits,
) -> Option<String> {
    let late = first_late_work(&job.work_requests, stored.at, limits.work_grace, faults)?;
    Some(format!(
        "its handler was asked at {:.3}, and what came of its work is stored since {:.3}",
        late.at, stored.at
    ))
}

/// Callbacks before the end of the work was committed, and those that say something else.
fn wrong_callbacks(job: &JobHistory<'_>, stored: &WorkStored) -> Vec<String> {
    let mut found = Vec::new();
    let early = job
        .callbacks
        .iter()
        .find(|it| !not_later(stored.not_before, it.at));
    if let Some(early) = early {
        found.push(format!(
            "a callback was read at {:.3}, and what came of its work was stored after {:.3}",
            early.at, stored.not_before
        ));
    }
    let mut callbacks = job.callbacks.iter();
    if let Some(other) = callbacks.find(|it| it.right && it.work.as_ref() != Some(&stored.end)) {
        found.push(format!(
            "the callback at {:.3} says something else than what is stored of its work",
            other.at
        ));
    }
    found
}

/// A job that did not end as its work did. What else made it fail is a matter of `reasons`.
fn wrong_end(job: &JobHistory<'_>, stored: &WorkStored) -> Option<String> {
    let WorkEnd::Failure(reason) = &stored.end else {
        return None;
    };
    let row = job.row?;
    let is_cancelled = job.own.end().is_some_and(is_cancel);
    let told = row.failure_reason.as_ref() == Some(reason);
    (row.state.status != Status::Failed || !(told || is_cancelled)).then(|| {
        format!(
            "its work ended with {reason}, and it is {} ({})",
            row.state.status,
            row.failure_reason.as_deref().unwrap_or("no reason")
        )
    })
}
