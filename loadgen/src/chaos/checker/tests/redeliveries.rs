//! Redeliveries: each rule rejects the history that breaks it, and no right one.

mod rows;

use std::borrow::Cow;

use storm_shared::models::Status::{self, Completed, Failed, Processing};

use crate::chaos::{
    checker::{
        CheckRule,
        example::{
            ATTEMPTS, BY_FILTER, DELIVERED_AGAIN, Example, INTERRUPTED, MAX_CLAIMS, QUICK,
            REDEEMED, REDELIVERY_CANCELLED, STEP, Story, assert_passes, assert_violation,
            completed, id, limits, refused,
        },
        index::Index,
    },
    history::{Record, RedeliveryAnswer, RowState},
};

fn failed() -> Story {
    let story = Story::of(700).accepted().claimed_by("a");
    let story = (1..ATTEMPTS).fold(story, |story, _| story.attempt_failed().claimed_by("a"));
    story.callback_failed()
}

/// A redelivery of a job with this final status that a worker has claimed.
fn claimed(status: Status) -> Story {
    let job = if status == Completed {
        completed()
    } else {
        failed()
    };
    job.redelivering().claimed_by("b")
}

fn attempt(state: &mut RowState) {
    state.attempts += 1;
}

#[test]
fn ended_each_redelivery_ends() {
    for story in [
        claimed(Completed),
        claimed(Failed).lost(),
        claimed(Completed).called(Some(200)),
    ] {
        assert_violation(story, CheckRule::Ended, "its redelivery never ended");
    }
}

#[test]
fn ended_each_accepted_redelivery_begins() {
    let story = completed().asked_again(RedeliveryAnswer::Accepted);
    assert_violation(story, CheckRule::Ended, "its redelivery is lost");
    // The one that began belongs to another request.
    let story = claimed(Completed).called(Some(200)).redelivered();
    let story = story
        .later(STEP * 2)
        .asked_again(RedeliveryAnswer::Accepted);
    assert_violation(story, CheckRule::Ended, "its redelivery is lost");
}

#[test]
fn named_each_redelivery_was_asked_for() {
    let begun = |job: Story| {
        let story = job.redelivery_inserted().claimed_by("b");
        story.called(Some(200)).redelivered()
    };
    assert_violation(begun(completed()), CheckRule::Named, "no request explains");
    // One request explains one redelivery.
    let twice = begun(claimed(Completed).called(Some(200)).redelivered());
    assert_violation(twice, CheckRule::Named, "no request explains");
    let refusal = refused(503, "database-locked");
    let story = begun(completed().later(STEP * 2).asked_again(refusal));
    assert_violation(story, CheckRule::Named, "no request explains");
}

#[test]
fn named_a_request_without_an_answer_may_begin_a_redelivery_and_need_not() {
    let unknown = [
        RedeliveryAnswer::OutcomeUnknown,
        RedeliveryAnswer::NoAnswer("cut".to_owned()),
    ];
    for answer in unknown {
        let asked = completed().asked_again(answer);
        let story = asked.redelivery_inserted().claimed_by("b");
        assert_passes(story.called(Some(200)).redelivered());
    }
    let nothing = completed().asked_again(RedeliveryAnswer::OutcomeUnknown);
    assert_passes(nothing);
}

#[test]
fn delivered_a_redelivery_succeeds_only_with_a_2xx_of_its_own() {
    for status in [Completed, Failed] {
        for answered in [None, Some(500)] {
            let story = claimed(status).called(answered).redelivered();
            assert_violation(
                story,
                CheckRule::Delivered,
                "no receiver had answered 2xx by then to claim",
            );
        }
        assert_passes(claimed(status).called(Some(200)).redelivered());
    }
}

#[test]
fn delivered_the_2xx_of_an_earlier_claim_is_not_enough() {
    let story = claimed(Completed).called(Some(200)).lost().claimed_by("c");
    assert_violation(
        story.redelivered(),
        CheckRule::Delivered,
        "no receiver had answered 2xx by then to claim 3",
    );
}

#[test]
fn delivered_a_redelivery_has_the_same_bytes() {
    let mut story = claimed(Completed).called(Some(200)).redelivered();
    let last = story
        .records
        .iter_mut()
        .rev()
        .find_map(|record| match record {
            Record::Received(received) => Some(received),
            _ => None,
        });
    "another".clone_into(&mut last.unwrap().body_sha256);
    assert_violation(story, CheckRule::Delivered, "duplicate deliveries differ");
}

#[test]
fn delivered_a_job_without_a_callback_url_is_not_redelivered() {
    let story = Story::of(700).without_callback_url().accepted();
    let story = story.claimed_by("a").completed().redelivering();
    let story = story.claimed_by("b").redelivered();
    assert_violation(story, CheckRule::Delivered, "without a callback URL");
}

/// A redelivery that fails after this many attempts.
fn failing(attempts: i64) -> Story {
    let story = (1..attempts).fold(claimed(Completed), |story, _| {
        story.called(Some(500)).attempt_failed().claimed_by("b")
    });
    story.called(Some(500)).redelivery_failed("callback_failed")
}

#[test]
fn reasons_a_redelivery_fails_only_after_all_attempts_of_its_series() {
    assert_passes(failing(ATTEMPTS));
    for attempts in [ATTEMPTS - 1, ATTEMPTS + 1] {
        let what = format!("its callback failed after {attempts} attempts");
        assert_violation(failing(attempts), CheckRule::Reasons, &what);
    }
}

#[test]
fn reasons_a_redelivery_does_not_vanish() {
    // As by a worker whose claim was lost: its attempt is not that of the claim.
    let story = claimed(Completed).called(Some(200));
    let story = story.redelivery_ended(Failed, attempt);
    let verdict = Example::with(story).verdict();
    let rules: Vec<_> = verdict.by_rule().into_iter().collect();
    // Too few attempts, and a success.
    assert_eq!(rules, [(CheckRule::Reasons, 2)]);
}

#[test]
fn reasons_the_2xx_of_another_series_does_not_contradict_a_failure() {
    // The first series of this job succeeded, and one after the failed one does.
    let story = failing(ATTEMPTS).redelivering().claimed_by("c");
    assert_passes(story.called(Some(200)).redelivered());
}

#[test]
fn reasons_a_redelivery_is_poison_only_after_max_claims() {
    let poison = |claims| {
        let story = completed().redelivering();
        let story = (1..claims).fold(story, |story, _| story.claimed_by("a").lost());
        let story = story.claimed_by("a").event("claim_lost");
        story.redelivery_ended(Failed, |state| {
            state.lost_claims += 1;
            state.owner = None;
        })
    };
    assert_passes(poison(MAX_CLAIMS));
    let verdict = Example::with(poison(MAX_CLAIMS - 1)).verdict();
    let rules: Vec<_> = verdict.by_rule().into_iter().collect();
    assert_eq!(rules, [(CheckRule::Reasons, 2)]); // as counted, and as recorded
}

#[test]
fn repeats_a_redelivery_explains_one_duplicate() {
    let story = claimed(Completed).called(None).called(Some(200));
    assert_violation(
        story.redelivered(),
        CheckRule::Repeats,
        "is unexplained: no event precedes it",
    );
    let story = claimed(Completed).called(None).lost().claimed_by("c");
    assert_passes(story.called(Some(200)).redelivered());
}

#[test]
fn repeats_the_last_attempt_of_a_redelivery_explains_no_duplicate() {
    assert_violation(
        failing(ATTEMPTS).called(Some(500)),
        CheckRule::Repeats,
        "is unexplained: no event precedes it",
    );
}

#[test]
fn seen_a_redelivery_turns_failed_into_completed_once() {
    let redeemed = || {
        let story = failed().polled(Some(Failed)).redelivering().claimed_by("b");
        story.polled(Some(Failed)).called(Some(200)).redelivered()
    };
    assert_passes(redeemed().polled(Some(Completed)));
    let back = redeemed().polled(Some(Completed)).polled(Some(Failed));
    assert_violation(back, CheckRule::Seen, "and another FAILED at");
    let too_early = claimed(Failed).polled(Some(Failed)).polled(Some(Completed));
    let story = too_early.called(Some(200)).redelivered();
    assert_violation(story, CheckRule::Seen, "and another FAILED at");
    // One that fails turns nothing.
    let story = (1..ATTEMPTS).fold(claimed(Failed), |story, _| {
        story.called(Some(500)).attempt_failed().claimed_by("b")
    });
    let story = story.called(Some(500)).redelivery_failed("callback_failed");
    let story = story.polled(Some(Failed)).polled(Some(Completed));
    assert_violation(story, CheckRule::Seen, "and another COMPLETED at");
}

#[test]
fn seen_a_refusal_is_true() {
    let without_callback = || {
        let story = Story::of(700).without_callback_url().accepted();
        story.claimed_by("a").completed()
    };
    let unfinished = || Story::of(700).accepted().claimed_by("a");
    let done = |story: Story| story.called(Some(200)).completed();
    let again = |story: Story| story.called(Some(200)).redelivered();
    let ask = |story: Story, status, problem| story.asked_again(refused(status, problem));
    for right in [
        done(ask(unfinished(), 409, "request-unfinished")),
        again(ask(claimed(Completed), 409, "redelivery-under-way")),
        ask(without_callback(), 409, "nothing-to-redeliver"),
        ask(completed(), 503, "database-locked"),
    ] {
        assert_passes(right);
    }
    let late = |story: Story| story.later(STEP * 3);
    for wrong in [
        ask(late(completed()), 409, "request-unfinished"),
        done(ask(unfinished(), 409, "redelivery-under-way")),
        ask(late(again(claimed(Completed))), 409, "redelivery-under-way"),
        ask(completed(), 409, "nothing-to-redeliver"),
        ask(late(completed()), 404, "no-such-request"),
        ask(completed(), 500, "internal-error"),
    ] {
        assert_violation(wrong, CheckRule::Seen, "a redelivery was refused with");
    }
}

#[test]
fn faults_a_run_that_asks_for_redeliveries_has_some() {
    let redelivered = [REDEEMED, DELIVERED_AGAIN, INTERRUPTED, REDELIVERY_CANCELLED];
    let begun = |of: u64| redelivered.map(|it| id(of + it));
    let good = Example::good().records;
    let ids = (0..100_000).step_by(1000).flat_map(begun);
    let ids: Vec<_> = ids.chain([id(BY_FILTER), id(BY_FILTER + 1)]).collect();
    let records = good.into_iter().filter(|record| match record {
        Record::FilterAsked(_) | Record::FilterApplied(_) => false,
        Record::Transition(moved) => !ids.contains(&moved.id),
        Record::Received(it) => !ids.contains(&it.id),
        Record::Row(row) => !ids.contains(&row.id),
        Record::Event(event) => !ids.contains(&event.id),
        Record::RedeliveryAsked(asked) => !ids.contains(&asked.id),
        Record::CancelAsked(asked) => !ids.contains(&asked.id),
        Record::Polled(polled) => !ids.contains(&polled.id),
        Record::Submitted(it) => {
            let is_of = |number: &str| it.report_name.ends_with(number);
            !["014", "015", "017", "018", "095000", "095001"]
                .into_iter()
                .any(is_of)
        }
        _ => true,
    });
    let example = Example {
        records: records.collect(),
    };
    let mut limits = limits();
    limits.filters = false;
    let verdict = crate::chaos::checker::check(&example.records, &limits);
    let what = verdict.render(&example.records);
    assert_eq!(verdict.violations.len(), 1, "{what}");
    assert!(what.contains("redeliveries were planned"), "{what}");
    // An older history promises none.
    limits.redeliveries = false;
    assert!(crate::chaos::checker::check(&example.records, &limits).passed());
}

#[test]
fn the_end_of_a_redelivery_includes_what_was_counted_right_before_it() {
    let good = Example::good().records;
    let index = Index::of(&good);
    let job = index.jobs().find(|job| job.id == id(REDEEMED)).unwrap();
    let [series] = &job.redeliveries[..] else {
        panic!("one redelivery: {:?}", job.redeliveries)
    };
    let end = series.moves.last().unwrap();
    assert!(matches!(end, Cow::Owned(_)));
    let before = end.before.as_ref().unwrap();
    assert_eq!((before.status, end.after.status), (Processing, Completed));
    assert_eq!(end.after.attempts, before.attempts + 1);
    assert_eq!(series.written_back.len(), 2);
    assert_eq!(series.attempts(&end.after), 2);
    let job = index.jobs().find(|job| job.id == id(QUICK)).unwrap();
    assert!(job.redeliveries.is_empty());
}

#[test]
fn a_history_from_before_redeliveries_is_read() {
    let story = completed();
    let text = story.records.iter().map(|record| {
        let mut record = serde_json::to_value(record).unwrap();
        record.as_object_mut().unwrap().remove("kind");
        record.to_string() + "\n"
    });
    let text: String = text.collect();
    let read = crate::chaos::checker::read(text.as_bytes()).unwrap();
    assert_eq!(read, story.records);
}
