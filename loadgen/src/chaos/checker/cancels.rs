//! Rule `cancels`: what was answered as cancelled is cancelled, nothing else is, and no callback of
//! it is read later than its attempts may last.
//!
//! That nothing but a redelivery changes a cancelled job is a matter of the rule `moves`.

use jiff::Timestamp;

use super::{
    asked::was_known,
    index::{Index, JobHistory},
    late::{first_late, first_late_work},
    not_later,
    series::{Series, is_cancel},
    verdict::Finding,
};
use crate::chaos::history::{
    CancelAnswer, CancelAsked, Fault, HistoryLimits, Received, Transition, WorkRequest,
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
    let matched = matched(job);
    let mut found: Vec<_> = matched.unkept.iter().map(|it| unkept(it)).collect();
    found.extend(matched.unasked.iter().map(|end| {
        format!(
            "it was cancelled by {:.3}, and no request explains it",
            end.at
        )
    }));
    found.extend(job.cancels.iter().filter_map(|asked| untrue(job, asked)));
    let answered = matched.kept.iter().map(|(asked, index)| {
        let known = format!("a 200 had said at {:.3} that it is cancelled", asked.at);
        (*index, asked.at, known)
    });
    let by_filter = matched.by_filter.iter().map(|(index, end)| {
        let known = format!("an operator had cancelled it by {:.3}", end.at);
        (*index, end.at, known)
    });
    for (index, since, known) in answered.chain(by_filter) {
        let callback = called_late(job, index, since, faults, limits);
        let callback = callback.map(|it| format!("a callback was read at {:.3}", it.at));
        let work = worked_late(job, index, since, faults, limits);
        let work = work.map(|it| format!("its handler was asked at {:.3}", it.at));
        let late = callback.into_iter().chain(work);
        found.extend(late.map(|what| format!("{what}, and {known}")));
    }
    found.extend(called_unclaimed(job));
    found
}

/// The answers of a job and its cancellations, matched with each other.
#[derive(Debug, Default)]
struct Matched<'s, 'a> {
    /// The answers that something is cancelled, and which of the job's series that is.
    kept: Vec<(&'a CancelAsked, usize)>,
    /// Those without it.
    unkept: Vec<&'a CancelAsked>,
    /// Those of operators, by filter, and of which series. The rule `filters` judges who asked.
    by_filter: Vec<(usize, &'s Transition)>,
    /// The cancellations that no request explains.
    unasked: Vec<&'s Transition>,
}

fn matched<'s, 'a>(job: &'s JobHistory<'a>) -> Matched<'s, 'a> {
    let ends = job.series().enumerate();
    let (by_filter, mut cancelled): (Vec<_>, Vec<_>) = ends
        .filter_map(|(index, series)| Some((index, series.end().filter(|end| is_cancel(end))?)))
        .partition(|(_, end)| end.by_filter);
    let mut matched = Matched {
        by_filter,
        ..Matched::default()
    };
    // A job stays cancelled, so that any number of answers may say it. A redelivery is gone.
    if let Some((0, end)) = cancelled.first().copied() {
        let explains = |asked: &&CancelAsked| {
            may_cancel(&asked.answer, &CancelAnswer::Job) && not_later(asked.asked_at, end.at)
        };
        if job.cancels.iter().copied().any(|asked| explains(&asked)) {
            cancelled.remove(0);
        }
    }
    let own = job.own.end().filter(|end| is_cancel(end));
    for asked in job.cancels.iter().copied() {
        match asked.answer {
            CancelAnswer::Job => {
                let is_kept = own.is_some_and(|end| not_later(end.earliest(), asked.at));
                if is_kept {
                    matched.kept.push((asked, 0));
                } else {
                    matched.unkept.push(asked);
                }
            }
            CancelAnswer::Redelivery => {
                let is_its_own = |(index, end): &(usize, &Transition)| {
                    *index > 0
                        && not_later(asked.asked_at, end.at)
                        && not_later(end.earliest(), asked.at)
                };
                match cancelled.iter().position(is_its_own) {
                    Some(found) => matched.kept.push((asked, cancelled.remove(found).0)),
                    None => matched.unkept.push(asked),
                }
            }
            _ => {}
        }
    }
    // The others may have cancelled one redelivery each, also after the client gave up.
    for asked in &job.cancels {
        if matches!(
            asked.answer,
            CancelAnswer::OutcomeUnknown | CancelAnswer::NoAnswer(_)
        ) {
            let found = cancelled
                .iter()
                .position(|(index, end)| *index > 0 && not_later(asked.asked_at, end.at));
            found.map(|found| cancelled.remove(found));
        }
    }
    matched.unasked = cancelled.into_iter().map(|(_, end)| end).collect();
    matched
}

/// Whether a request with this answer may have cancelled `what`.
fn may_cancel(answer: &CancelAnswer, what: &CancelAnswer) -> bool {
    answer == what
        || matches!(
            answer,
            CancelAnswer::OutcomeUnknown | CancelAnswer::NoAnswer(_)
        )
}

fn unkept(asked: &CancelAsked) -> String {
    let what = match asked.answer {
        CancelAnswer::Job => "it",
        _ => "its redelivery",
    };
    format!(
        "a 200 at {:.3} says that {what} is cancelled, and it is not",
        asked.at
    )
}

/// A refusal that is true at no moment between the request and its answer.
fn untrue(job: &JobHistory<'_>, asked: &CancelAsked) -> Option<String> {
    let CancelAnswer::Refused { status, problem } = &asked.answer else {
        return None;
    };
    let problem = problem.as_deref().unwrap_or_default();
    let why = match (status, problem) {
        (404, _) => {
            let is_wrong = was_known(job, asked.asked_at) && !job.may_be_deleted(asked.at);
            is_wrong.then_some("the job was known")
        }
        (409, "request-over") => not_over(job, asked),
        // Under load or a fault.
        (503, _) => None,
        _ => Some("no fault of this run can cause that"),
    };
    why.map(|why| {
        format!(
            "a DELETE was refused with {status} `{problem}` at {:.3}, and {why}",
            asked.at
        )
    })
}

/// Why the job was not over, or was cancelled, all the time from the request to its answer.
fn not_over(job: &JobHistory<'_>, asked: &CancelAsked) -> Option<&'static str> {
    let Some(end) = job
        .own
        .end()
        .filter(|end| not_later(end.earliest(), asked.at))
    else {
        return Some("the job had not ended");
    };
    let was_before = |at: Timestamp| !not_later(asked.asked_at, at);
    let is_after = |at: Timestamp| !not_later(at, asked.at);
    let redelivered = job.redeliveries.iter().any(|series| {
        let begun = series.begun().is_some_and(|begun| was_before(begun.at));
        begun && series.end().is_none_or(|end| is_after(end.earliest()))
    });
    let first = job.redeliveries.first().and_then(Series::begun);
    let untouched = first.is_none_or(|first| is_after(first.earliest()));
    if redelivered {
        Some("a redelivery was in progress")
    } else if is_cancel(end) && was_before(end.at) && untouched {
        Some("the job was cancelled")
    } else {
        None
    }
}

/// A callback of what was cancelled that was read later than an attempt may last that had begun
/// before the worker learned of it.
fn called_late<'a>(
    job: &JobHistory<'a>,
    index: usize,
    since: Timestamp,
    faults: &[&Fault],
    limits: &HistoryLimits,
) -> Option<&'a Received> {
    let callbacks = callbacks_before_the_next(job, index);
    first_late(callbacks, since, faults, limits)
}

/// A request for the work of a cancelled job that began after its worker had learned of it.
fn worked_late<'a>(
    job: &JobHistory<'a>,
    index: usize,
    since: Timestamp,
    faults: &[&Fault],
    limits: &HistoryLimits,
) -> Option<&'a WorkRequest> {
    let requests = job.work_requests.as_slice();
    let requests = if index == 0 { requests } else { &[] };
    first_late_work(requests, since, limits.cancel_grace, faults)
}

/// A callback of a job that was cancelled before any worker had claimed it.
fn called_unclaimed(job: &JobHistory<'_>) -> Option<String> {
    let end = job.own.end().filter(|end| is_cancel(end))?;
    let never_claimed = end.before.as_ref().is_some_and(|before| before.claim == 0);
    let callback = callbacks_before_the_next(job, 0)
        .next()
        .filter(|_| never_claimed)?;
    Some(format!(
        "a callback was read at {:.3}, and it was cancelled before any claim",
        callback.at
    ))
}

/// The callbacks before the beginning of the series after this one.
fn callbacks_before_the_next<'s, 'a>(
    job: &'s JobHistory<'a>,
    index: usize,
) -> impl Iterator<Item = &'a Received> + use<'s, 'a> {
    let next = job.redeliveries.get(index).and_then(Series::begun);
    let callbacks = job.callbacks.iter().copied();
    callbacks.take_while(move |callback| next.is_none_or(|next| callback.at < next.earliest()))
}

#[cfg(test)]
mod tests {
    use storm_shared::models::Status::{Completed, Pending, Processing};

    use super::super::{
        CheckRule, check,
        example::{
            BY_FILTER, CANCELLED, Example, INTERRUPTED, REDELIVERY_CANCELLED, STEP, Story,
            assert_passes, assert_violation, completed, id, limits,
        },
    };
    use crate::chaos::history::{CancelAnswer, Record};

    fn job() -> Story {
        Story::of(700).accepted()
    }

    fn cancelled(story: Story) -> Story {
        story.cancelled().cancel_asked(CancelAnswer::Job)
    }

    fn refused(status: u16, problem: &str) -> CancelAnswer {
        CancelAnswer::Refused {
            status,
            problem: Some(problem.to_owned()),
        }
    }

    #[test]
    fn what_was_answered_as_cancelled_is_cancelled() {
        let story = completed().cancel_asked(CancelAnswer::Job);
        assert_violation(
            story,
            CheckRule::Cancels,
            "that it is cancelled, and it is not",
        );
        let story = completed().redelivering().claimed_by("b").called(Some(200));
        let story = story.cancel_asked(CancelAnswer::Redelivery).redelivered();
        assert_violation(
            story,
            CheckRule::Cancels,
            "that its redelivery is cancelled",
        );
        // Answered before it was done.
        let story = job().cancel_asked(CancelAnswer::Job).later(STEP);
        assert_violation(
            story.cancelled(),
            CheckRule::Cancels,
            "that it is cancelled, and it is not",
        );
    }

    #[test]
    fn one_redelivery_is_cancelled_by_one_request() {
        let story = completed().redelivering().redelivery_cancelled();
        let once = || {
            let story = completed().redelivering().redelivery_cancelled();
            story.cancel_asked(CancelAnswer::Redelivery)
        };
        assert_violation(story, CheckRule::Cancels, "no request explains it");
        assert_passes(once());
        let twice = once().later(-STEP).cancel_asked(CancelAnswer::Redelivery);
        assert_violation(
            twice,
            CheckRule::Cancels,
            "that its redelivery is cancelled",
        );
    }

    #[test]
    fn nothing_is_cancelled_that_no_request_explains() {
        assert_violation(
            job().cancelled(),
            CheckRule::Cancels,
            "no request explains it",
        );
        let busy = || refused(503, "database-locked");
        let story = job().cancelled().cancel_asked(busy());
        assert_violation(story, CheckRule::Cancels, "no request explains it");
        for answer in [
            CancelAnswer::OutcomeUnknown,
            CancelAnswer::NoAnswer("cut".into()),
        ] {
            assert_passes(job().cancelled().cancel_asked(answer));
        }
        // Sent after it.
        let late = job().cancelled().later(STEP * 3);
        let late = late.cancel_asked(CancelAnswer::OutcomeUnknown);
        assert_violation(late, CheckRule::Cancels, "no request explains it");
    }

    #[test]
    fn a_callback_may_follow_only_as_long_as_its_attempt_may_last() {
        let running = || cancelled(job().claimed_by("a").stored());
        assert_passes(running().later(STEP * 20).called(Some(200)));
        let late = running().later(STEP * 26).called(Some(200));
        assert_violation(late, CheckRule::Cancels, "a callback was read at");
        // That of a redelivery is its own.
        let again = running().later(STEP * 26).redelivering().claimed_by("b");
        assert_passes(again.called(Some(200)).redelivered());

        let cancelled = completed()
            .redelivering()
            .claimed_by("b")
            .redelivery_cancelled();
        let cancelled = cancelled.cancel_asked(CancelAnswer::Redelivery);
        let late = cancelled.later(STEP * 26).called(Some(200));
        assert_violation(late, CheckRule::Cancels, "a callback was read at");
    }

    #[test]
    fn a_worker_that_was_frozen_may_call_when_it_goes_on() {
        let late = || {
            let story = cancelled(job().claimed_by("a").stored());
            story.later(STEP * 26).called(Some(200))
        };
        let called = late().now - STEP;
        for (before, excused) in [(STEP, true), (STEP * 30, false)] {
            let mut example = Example::with(late());
            for record in &mut example.records {
                if let Record::Fault(fault) = record
                    && fault.kind == "freeze_worker"
                {
                    fault.at = called - STEP * 60;
                    fault.healed_at = called - before;
                }
            }
            assert_eq!(example.verdict().passed(), excused);
        }
    }

    #[test]
    fn a_job_that_was_never_claimed_is_never_called_back() {
        let story = cancelled(job()).called(Some(200));
        assert_violation(story, CheckRule::Cancels, "cancelled before any claim");
    }

    #[test]
    fn a_cancelled_job_has_the_reason_and_no_other_has_it() {
        let story = cancelled(job()).row(Some("callback_failed"));
        assert_violation(
            story,
            CheckRule::Reasons,
            "it was cancelled, and its reason is",
        );
        let story = job().claimed_by("a").callback_failed();
        let story = story.row(Some("cancelled"));
        assert_violation(
            story,
            CheckRule::Reasons,
            "its reason is cancelled, and it ended",
        );
        // A cancelled redelivery leaves the reason of its job.
        for of in [INTERRUPTED, REDELIVERY_CANCELLED] {
            Example::changed(|record| match record {
                Record::Row(row) if row.id == id(of) => {
                    row.failure_reason = Some("poison".to_owned());
                }
                _ => {}
            })
            .assert_violation(CheckRule::Reasons, id(of), "reason");
        }
    }

    #[test]
    fn a_cancellation_takes_the_job_away_and_changes_nothing_else() {
        let asked = |story: Story| story.cancel_asked(CancelAnswer::Job);
        for (change, what) in [
            ("attempts", "changed other columns"),
            ("result", "changed other columns"),
            ("parks", "changed other columns"),
        ] {
            let story = job().claimed_by("a").cancelled_with(|state| match change {
                "attempts" => state.attempts += 1,
                "result" => state.result = Some("{}".to_owned()),
                _ => state.parks += 1,
            });
            assert_violation(asked(story), CheckRule::Moves, what);
        }
        // Without a new claim number, its worker could still write.
        let story = job()
            .claimed_by("a")
            .cancelled_with(|state| state.claim = 1);
        let verdict = Example::with(asked(story)).verdict();
        let rules: Vec<_> = verdict.by_rule().into_keys().collect();
        assert_eq!(rules, [CheckRule::Reasons, CheckRule::Cancels]);
    }

    #[test]
    fn a_cancelled_job_is_not_resumed() {
        for status in [Pending, Processing, Completed] {
            let story = cancelled(job().claimed_by("a").stored());
            let story = story.moved(|state| state.status = status).row(None);
            assert!(!Example::with(story).verdict().passed(), "{status}");
        }
        let story = cancelled(job().claimed_by("a").stored()).moved(|state| {
            state.status = Completed;
            state.claim = 1;
            state.owner = Some("a".to_owned());
        });
        assert_violation(story.row(None), CheckRule::Fences, "claim 1 had ended");
    }

    #[test]
    fn a_refusal_was_true_at_some_moment() {
        let over = || refused(409, "request-over");
        assert_passes(completed().cancel_asked(over()));
        let early = job().cancel_asked(over()).claimed_by("a").called(Some(200));
        assert_violation(
            early.completed(),
            CheckRule::Cancels,
            "the job had not ended",
        );
        let again = completed().redelivering().claimed_by("b").later(STEP * 2);
        let again = again.cancel_asked(over()).called(Some(200)).redelivered();
        assert_violation(again, CheckRule::Cancels, "a redelivery was in progress");
        let story = cancelled(job()).later(STEP * 2).cancel_asked(over());
        assert_violation(story, CheckRule::Cancels, "the job was cancelled");
        for (answer, what) in [
            (refused(404, "not-found"), "the job was known"),
            (refused(422, "validation"), "no fault of this run"),
        ] {
            let story = completed().later(STEP * 2).cancel_asked(answer);
            assert_violation(story, CheckRule::Cancels, what);
        }
    }

    #[test]
    fn a_run_that_cancels_has_some_cancellations() {
        let mut example = Example::good();
        let cancelled: Vec<_> = (0..100_000)
            .step_by(1000)
            .flat_map(|start| {
                [CANCELLED, INTERRUPTED, REDELIVERY_CANCELLED].map(|it| id(start + it))
            })
            .chain([id(BY_FILTER), id(BY_FILTER + 1)])
            .collect();
        let names = ["016", "017", "018", "095000", "095001"];
        example.records.retain(|record| match record {
            Record::FilterAsked(_) | Record::FilterApplied(_) => false,
            Record::Transition(moved) => !cancelled.contains(&moved.id),
            Record::Received(it) => !cancelled.contains(&it.id),
            Record::Row(row) => !cancelled.contains(&row.id),
            Record::Event(event) => !cancelled.contains(&event.id),
            Record::RedeliveryAsked(asked) => !cancelled.contains(&asked.id),
            Record::CancelAsked(asked) => !cancelled.contains(&asked.id),
            Record::Polled(polled) => !cancelled.contains(&polled.id),
            Record::Submitted(it) => !names.iter().any(|name| it.report_name.ends_with(name)),
            _ => true,
        });
        let mut limits = limits();
        limits.filters = false;
        let verdict = check(&example.records, &limits);
        let what = verdict.render(&example.records);
        assert_eq!(verdict.violations.len(), 1, "{what}");
        assert!(what.contains("cancellations were planned"), "{what}");
        // An older history promises none.
        limits.cancellations = false;
        assert!(check(&example.records, &limits).passed());
    }
}
