//! Pauses: the rule rejects the histories that break it, and no right one.

use jiff::SignedDuration;

use crate::chaos::{
    checker::{
        CheckRule, check,
        example::{
            CANCEL_GRACE, Example, LONGEST_PAUSED, ORIGIN, ORIGIN_PAUSED, PAUSED, Story, at, id,
            limits, pause_asked, pause_changed,
        },
    },
    history::{PauseAnswer, Record},
};

const DONE: PauseAnswer = PauseAnswer::Done { changed: true };

/// The valid history with more records.
fn with(records: impl IntoIterator<Item = Record>) -> Example {
    let mut example = Example::good();
    example.records.extend(records);
    example
}

fn unknown() -> PauseAnswer {
    PauseAnswer::Unknown("cut".to_owned())
}

#[test]
fn no_job_is_claimed_while_everything_is_paused() {
    // The claim is two steps of 20 ms after the insert.
    let claimed_at = |millis| {
        let story = Story::of(millis - 40).accepted().claimed_by("a");
        (
            Example::with(story.called(Some(200)).completed()),
            id(millis - 40),
        )
    };
    for millis in [PAUSED.0 + 100, PAUSED.1 - 100] {
        let (example, job) = claimed_at(millis);
        example.assert_violation(CheckRule::Pauses, job, "everything was paused by");
    }
    for millis in [PAUSED.0 - 100, PAUSED.1 + 100, ORIGIN_PAUSED.0 + 100] {
        claimed_at(millis).0.assert_passes();
    }
}

#[test]
fn no_redelivery_is_claimed_while_everything_is_paused() {
    let story = Story::of(PAUSED.0 - 200).accepted().claimed_by("a");
    let story = story.called(Some(200)).completed().redelivering();
    let story = story
        .later(SignedDuration::from_millis(200))
        .claimed_by("b");
    Example::with(story.called(Some(200)).redelivered()).assert_violation(
        CheckRule::Pauses,
        id(PAUSED.0 - 200),
        "everything was paused by",
    );
}

#[test]
fn a_change_that_the_auditor_saw_late_is_judged_by_neither_moment() {
    let mut example = Example::with(
        Story::of(PAUSED.0 - 40)
            .accepted()
            .claimed_by("a")
            .called(Some(200))
            .completed(),
    );
    for record in &mut example.records {
        match record {
            Record::PauseChanged(change) if change.at == at(PAUSED.0) => {
                change.at = at(PAUSED.0 + 10);
            }
            _ => {}
        }
    }
    example.assert_passes();
}

/// A callback that is read this many milliseconds after the pause of its origin.
fn called_after(millis: u64) -> (Example, u64) {
    let start = ORIGIN_PAUSED.0 + millis - 60;
    let story = Story::of(start).accepted().claimed_by("a");
    let story = story.called(Some(200)).completed();
    (Example::with(story), start)
}

#[test]
fn a_paused_origin_is_called_only_as_long_as_an_attempt_may_last() {
    let grace = u64::try_from(CANCEL_GRACE.as_millis()).unwrap();
    called_after(grace - 20).0.assert_passes();
    let (late, start) = called_after(grace + 20);
    late.assert_violation(CheckRule::Pauses, id(start), "`http://a` was paused by");
    // Nor shortly before the resumption, and again after it.
    let length = ORIGIN_PAUSED.1 - ORIGIN_PAUSED.0;
    let (late, start) = called_after(length - 20);
    late.assert_violation(CheckRule::Pauses, id(start), "`http://a` was paused by");
    called_after(length + 20).0.assert_passes();
}

#[test]
fn another_origin_is_called_meanwhile() {
    let (mut example, start) = called_after(2000);
    for record in &mut example.records {
        match record {
            Record::Received(received) if received.id == id(start) => {
                received.origin = Some("http://b".to_owned());
            }
            _ => {}
        }
    }
    example.assert_passes();
}

#[test]
fn a_worker_that_was_frozen_may_call_a_paused_origin_when_it_goes_on() {
    let (mut example, _) = called_after(2000);
    for record in &mut example.records {
        match record {
            Record::Fault(fault) if fault.kind == "freeze_worker" => {
                fault.at = at(ORIGIN_PAUSED.0 - 100);
                fault.healed_at = at(ORIGIN_PAUSED.0 + 1900);
            }
            _ => {}
        }
    }
    example.assert_passes();
}

#[test]
fn an_answer_says_what_is_so() {
    let none = || PauseAnswer::Done { changed: false };
    // A repeat.
    with([pause_asked(None, PAUSED.0 + 100, true, none())]).assert_passes();
    with([pause_asked(None, PAUSED.1 + 100, false, none())]).assert_passes();
    for (millis, pauses, what) in [
        (PAUSED.1 + 100, true, "it was not paused"),
        (PAUSED.0 + 100, false, "it was paused all the time"),
    ] {
        let asked = pause_asked(None, millis, pauses, none());
        with([asked]).assert_run_violation(CheckRule::Pauses, what);
    }
    // The pauses of an origin and of everything are two.
    let asked = pause_asked(Some(ORIGIN), PAUSED.0 + 100, true, none());
    with([asked]).assert_run_violation(CheckRule::Pauses, "it was not paused");
    let asked = pause_asked(None, PAUSED.0 + 100, true, DONE);
    with([asked]).assert_run_violation(CheckRule::Pauses, "nothing has changed");
    for (status, passes) in [(503, true), (409, false)] {
        let asked = pause_asked(None, PAUSED.0, true, PauseAnswer::Refused(status));
        assert_eq!(with([asked]).verdict().passed(), passes, "{status}");
    }
}

#[test]
fn nothing_is_paused_or_resumed_that_no_request_explains() {
    let (from, to) = (51_000, 52_000);
    let changes = || [(from, true), (to, false)].map(|it| pause_changed(None, it.0, it.1));
    let pause = |answer| pause_asked(None, from, true, answer);
    let resume = |answer| pause_asked(None, to, false, answer);
    // One that the API has repeated finds that it is so already.
    for answer in [DONE, unknown(), PauseAnswer::Done { changed: false }] {
        let records = changes().into_iter().chain([pause(answer), resume(DONE)]);
        with(records).assert_passes();
    }
    let records = changes().into_iter().chain([resume(DONE)]);
    with(records).assert_run_violation(CheckRule::Pauses, "everything was paused by");
    let records = changes().into_iter().chain([pause(DONE)]);
    with(records).assert_run_violation(CheckRule::Pauses, "everything was resumed by");
    // One without an answer explains one change only.
    let again = [(53_000, true), (54_000, false)].map(|it| pause_changed(None, it.0, it.1));
    let records = changes().into_iter().chain(again);
    let records = records.chain([pause(unknown()), resume(unknown()), resume(unknown())]);
    with(records).assert_run_violation(CheckRule::Pauses, "everything was paused by");
}

#[test]
fn each_pause_and_resumption_has_one_record_in_the_audit() {
    for audited in [0, 2] {
        let mut example = Example::good();
        for record in &mut example.records {
            match record {
                Record::PauseChanged(change) if change.at == at(PAUSED.1) => {
                    change.audited = audited;
                }
                _ => {}
            }
        }
        example.assert_run_violation(CheckRule::Pauses, "times in the audit");
    }
}

#[test]
fn nothing_is_paused_at_the_end() {
    let records = [
        pause_changed(Some("http://b"), 51_000, true),
        pause_asked(Some("http://b"), 51_000, true, DONE),
    ];
    with(records).assert_run_violation(CheckRule::Pauses, "`http://b` is paused at the end");
}

#[test]
fn a_job_whose_receiver_is_paused_may_be_parked_for_longer() {
    let parked_at = |millis| {
        let story = Story::of(millis).accepted().claimed_by("a").parked();
        let longest = SignedDuration::try_from(LONGEST_PAUSED).unwrap();
        let parked = story.now - SignedDuration::from_millis(20);
        let story = story.due_at(parked + longest).later(longest);
        Example::with(story.claimed_by("b").called(Some(200)).completed())
    };
    parked_at(ORIGIN_PAUSED.0 + 10).assert_passes();
    let job = ORIGIN_PAUSED.1 + 2000;
    parked_at(job).assert_violation(CheckRule::Waits, id(job), "the longest wait is");
}

#[test]
fn a_run_that_pauses_has_pauses_of_everything_and_of_an_origin() {
    for origin in [None, Some(ORIGIN)] {
        let origin = origin.map(str::to_owned);
        let example = Example::without(|record| match record {
            Record::PauseAsked(asked) => asked.origin == origin,
            Record::PauseChanged(change) => change.origin == origin,
            _ => false,
        });
        example.assert_run_violation(CheckRule::Faults, "pauses of everything and of origins");
        // An older history promises none.
        let mut limits = limits();
        limits.pauses = false;
        assert!(check(&example.records, &limits).passed());
    }
}
