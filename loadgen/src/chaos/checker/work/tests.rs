//! Tests of the rule `work`.

use storm_shared::models::Status;

use super::super::{
    CheckRule,
    example::{
        ATTEMPTS, Example, STEP, Story, WORK_GRACE, WORK_REFUSED, WORKED, assert_passes,
        assert_violation, id,
    },
};
use crate::chaos::history::{CancelAnswer, Record, RowState, WorkEnd, WorkRequest, WorkStored};

fn claimed() -> Story {
    Story::of_handler(700).claimed_by("a")
}

/// A job whose work is done, and not its callback.
fn worked() -> Story {
    claimed().worked(Some(200)).work_stored(Some(200))
}

fn refused() -> Story {
    claimed().worked(Some(422)).work_stored(Some(422))
}

fn delivered(story: Story) -> Story {
    story.called(Some(200)).completed()
}

#[track_caller]
fn assert_wrong(story: Story, what: &str) {
    assert_violation(story, CheckRule::Work, what);
}

/// The valid history with another request, or another stored result, of a job.
fn changed(of: u64, change: impl Fn(&mut WorkRequest), other: impl Fn(&mut WorkStored)) -> Example {
    Example::changed(|record| match record {
        Record::WorkRequest(request) if request.id == id(of) => change(request),
        Record::WorkStored(stored) if stored.id == id(of) => other(stored),
        _ => {}
    })
}

#[test]
fn the_payload_arrives_byte_for_byte_under_the_key_of_its_job() {
    changed(WORKED, |request| request.right = false, |_| {}).assert_violation(
        CheckRule::Work,
        id(WORKED),
        "does not have the payload",
    );
}

#[test]
fn what_is_stored_is_what_the_handler_answered() {
    let other = |stored: &mut WorkStored| stored.end = WorkEnd::Result("e2".to_owned());
    let verdict = changed(WORKED, |_| {}, other).verdict();
    let rules: Vec<_> = verdict.by_rule().into_iter().collect();
    // The callback says something else, too.
    assert_eq!(rules, [(CheckRule::Work, 2)]);
    let what = &verdict.violations[0].what;
    assert!(what.contains("its handler had not answered it"), "{what}");
    // Answered after it was stored.
    let late = |request: &mut WorkRequest| request.at += STEP * 2;
    changed(WORKED, late, |_| {}).assert_violation(
        CheckRule::Work,
        id(WORKED),
        "its handler had not answered it",
    );
}

#[test]
fn a_recorded_answer_was_given() {
    let story = claimed().worked(None).work_attempt_failed(Some(500));
    let story = story
        .claimed_by("a")
        .worked(Some(200))
        .work_stored(Some(200));
    assert_wrong(delivered(story), "its handler did not answer so");
    // An answer may be lost, and an attempt without one may not have reached the endpoint.
    let story = claimed().worked(Some(500)).lost().claimed_by("a");
    let story = story.work_attempt_failed(None).claimed_by("a");
    let story = story.worked(Some(200)).work_stored(Some(200));
    assert_passes(delivered(story));
}

#[test]
fn stored_work_is_never_asked_for_again() {
    let again = || worked().lost().claimed_by("b");
    assert_passes(delivered(again()));
    assert_wrong(
        delivered(again().worked(Some(200))),
        "no claim of unfinished work explains it",
    );
    // One that was lost before explains a request, but not one that begins much later.
    let twice = || {
        let story = claimed().lost().claimed_by("b");
        story.worked(Some(200)).work_stored(Some(200))
    };
    assert_passes(delivered(twice().worked(None)));
    assert_wrong(
        delivered(twice().later(WORK_GRACE).worked(None)),
        "what came of its work is stored since",
    );
    assert_wrong(
        refused()
            .lost()
            .claimed_by("b")
            .worked(Some(422))
            .called(Some(200))
            .told_of_failure(),
        "no claim of unfinished work explains it",
    );
}

#[test]
fn a_frozen_worker_may_ask_for_work_when_it_goes_on() {
    let story = claimed().lost().claimed_by("b").worked(Some(200));
    let story = story.work_stored(Some(200)).later(WORK_GRACE);
    let asked = story.now;
    let mut example = Example::with(delivered(story.worked(None)));
    for record in &mut example.records {
        if let Record::Fault(fault) = record
            && fault.kind == "freeze_worker"
        {
            (fault.at, fault.healed_at) = (asked - WORK_GRACE, asked - STEP);
        }
    }
    example.assert_passes();
}

#[test]
fn a_claim_asks_once() {
    let story = claimed()
        .worked(None)
        .worked(Some(200))
        .work_stored(Some(200));
    assert_wrong(delivered(story), "no claim of unfinished work explains it");
}

#[test]
fn what_is_stored_is_never_replaced() {
    let mut story = delivered(worked());
    let mut again = story.records.iter().find_map(|record| match record {
        Record::WorkStored(stored) => Some(stored.clone()),
        _ => None,
    });
    if let Some(again) = &mut again {
        again.at += STEP;
    }
    story.records.extend(again.map(Record::WorkStored));
    assert_wrong(story, "and something else by");
}

#[test]
fn a_callback_comes_after_the_end_of_the_work_was_stored() {
    let early = claimed().worked(Some(200)).called(Some(200));
    assert_wrong(
        early.work_stored(Some(200)).completed(),
        "and what came of its work was stored after",
    );
    let story = claimed().worked(Some(200)).called(Some(200)).completed();
    let verdict = Example::with(story).verdict();
    assert_eq!(
        verdict.by_rule().into_iter().collect::<Vec<_>>(),
        [(CheckRule::Work, 2)]
    );
}

#[test]
fn a_callback_says_what_is_stored() {
    Example::changed(|record| match record {
        Record::Received(received) if received.id == id(WORKED) => {
            received.work = Some(WorkEnd::Failure("work_failed".to_owned()));
        }
        _ => {}
    })
    .assert_violation(CheckRule::Work, id(WORKED), "says something else");
}

#[test]
fn work_fails_for_good_by_a_final_answer_or_after_all_attempts() {
    for status in [408, 429, 500] {
        let story = claimed().worked(Some(status)).work_stored(Some(status));
        assert_wrong(
            story.called(Some(200)).told_of_failure(),
            "after 1 attempts and no final answer",
        );
    }
    let retried = claimed().worked(Some(500)).work_attempt_failed(Some(500));
    let retried = retried
        .claimed_by("b")
        .worked(None)
        .work_attempt_failed(None);
    let story = retried
        .claimed_by("a")
        .worked(Some(503))
        .work_stored(Some(503));
    assert_passes(story.called(Some(200)).told_of_failure());
}

#[test]
fn work_times_out_when_its_last_attempt_does() {
    let retried = claimed().worked(Some(500)).work_attempt_failed(Some(500));
    let retried = retried
        .claimed_by("b")
        .worked(Some(500))
        .work_attempt_failed(Some(500));
    let story = retried.claimed_by("a").worked(None).work_stored(None);
    assert_wrong(
        story.called(Some(200)).told_of_failure(),
        "its work ended with work_failed by",
    );
}

#[test]
fn a_job_whose_work_failed_is_failed_with_its_reason() {
    let told = |reason: &str| {
        refused()
            .called(Some(200))
            .told_of_failure()
            .row(Some(reason))
    };
    assert_passes(told("work_failed"));
    let verdict = Example::with(told("callback_failed")).verdict();
    let rules: Vec<_> = verdict.by_rule().into_keys().collect();
    assert_eq!(rules, [CheckRule::Reasons, CheckRule::Work]);
    // The reason stays if the client can't be told, and is told before the job ends.
    let untold = (1..ATTEMPTS).fold(refused(), |story, _| {
        story.called(Some(500)).attempt_failed().claimed_by("a")
    });
    assert_passes(
        untold
            .called(Some(500))
            .callback_failed()
            .row(Some("work_failed")),
    );
    let early = refused().called(Some(500)).told_of_failure();
    assert_violation(early, CheckRule::Reasons, "none of which was answered 2xx");
}

#[test]
fn a_redelivery_tells_of_the_failure_again_and_does_not_complete_the_job() {
    let again = || {
        let story = refused().called(Some(200)).told_of_failure().redelivering();
        story.claimed_by("b").called(Some(200))
    };
    assert_passes(again().redelivered());
    let count = |state: &mut RowState| state.attempts += 1;
    let redeemed = again().redelivery_ended_with(Status::Completed, count, |state| {
        state.status = Status::Completed;
    });
    let rules = Example::with(redeemed).verdict().by_rule();
    assert!(rules.contains_key(&CheckRule::Moves), "{rules:?}");
}

#[test]
fn the_work_of_a_cancelled_job_is_not_begun_later() {
    let cancelled = |story: Story| story.cancelled().cancel_asked(CancelAnswer::Job);
    assert_passes(cancelled(claimed()).worked(Some(200)));
    let late = cancelled(claimed()).later(STEP * 26).worked(Some(200));
    assert_violation(late, CheckRule::Cancels, "its handler was asked at");
}

#[test]
fn a_run_with_a_handler_has_results_and_failures() {
    for of in [WORKED, WORK_REFUSED] {
        let mut example = Example::good();
        let ids: Vec<_> = (0..100_000)
            .step_by(1000)
            .map(|start| id(start + of))
            .collect();
        let name = format!("{of:03}");
        example.records.retain(|record| match record {
            Record::Transition(it) => !ids.contains(&it.id),
            Record::Received(it) => !ids.contains(&it.id),
            Record::Row(it) => !ids.contains(&it.id),
            Record::Event(it) => !ids.contains(&it.id),
            Record::WorkRequest(it) => !ids.contains(&it.id),
            Record::WorkStored(it) => !ids.contains(&it.id),
            Record::WorkAttempt(it) => !ids.contains(&it.id),
            Record::Submitted(it) => !it.report_name.ends_with(&name),
            _ => true,
        });
        example.assert_run_violation(CheckRule::Faults, "jobs of a handler were planned");
    }
}

#[test]
fn a_report_is_no_work_of_a_handler() {
    let story = Story::of(700).accepted().claimed_by("a").worked(Some(200));
    assert_wrong(story.called(Some(200)).completed(), "it has no handler");
    let story = worked().moved(|state| state.status = Status::Completed);
    let mut example = Example::with(story.row(None));
    for record in &mut example.records {
        if let Record::Row(row) = record
            && row.id == id(700)
        {
            row.handler = None;
        }
    }
    let rules = example.verdict().by_rule();
    assert!(rules.contains_key(&CheckRule::Named), "{rules:?}");
}
