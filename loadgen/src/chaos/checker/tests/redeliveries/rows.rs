//! The rules for the changes of a row: `moves`, `fences` and `waits`.

use jiff::SignedDuration;
use storm_shared::models::Status::{Completed, Failed, Pending, Processing};

use super::{attempt, claimed, failed};
use crate::chaos::{
    checker::{
        CheckRule,
        example::{
            ATTEMPTS, Example, RETRY_DELAY, STEP, Story, assert_passes, assert_violation, completed,
        },
    },
    history::{Record, RedeliveryAnswer, RowKind, RowState},
};

/// A wrong change of a state.
type RowChange = fn(&mut RowState);

/// Asserts that a violation of this rule is among those of the story.
#[track_caller]
fn assert_found(story: Story, rule: CheckRule, what: &str) {
    let verdict = Example::with(story).verdict();
    let mut found = verdict.violations.iter();
    assert!(
        found.any(|it| it.rule == rule && it.what.contains(what)),
        "{what}: {:?}",
        verdict.violations
    );
}

#[test]
fn moves_a_redelivery_counts_on_from_its_job() {
    let changes: [RowChange; 7] = [
        |state| state.status = Processing,
        |state| state.claim += 1,
        |state| state.claim -= 1,
        |state| state.attempts -= 1,
        |state| state.parks += 1,
        |state| state.lost_claims = 1,
        |state| state.owner = Some("b".to_owned()),
    ];
    for change in changes {
        let mut story = failed().redelivering();
        for record in &mut story.records {
            if let Record::Transition(moved) = record
                && moved.kind == RowKind::Redelivery
            {
                change(&mut moved.after);
            }
        }
        change(&mut story.state);
        assert_found(story, CheckRule::Moves, "it began as");
    }
}

#[test]
fn moves_only_a_job_that_has_ended_is_redelivered() {
    let mut story = Story::of(700).accepted().claimed_by("a").called(Some(200));
    story.state.result = Some(story.result());
    let what = "in a redelivery, its job was PROCESSING when it began";
    assert_found(story.redelivering(), CheckRule::Moves, what);
}

#[test]
fn moves_a_redelivery_follows_the_transitions_of_a_job() {
    for (change, what) in [
        (
            (|state| state.claim += 1) as RowChange,
            "in a redelivery, its fencing token changed without a new claim",
        ),
        (
            |state| state.owner = Some("c".to_owned()),
            "in a redelivery, its owner changed",
        ),
        (
            |state| state.lost_claims += 1,
            "a lost claim was counted while the claim continued",
        ),
        (|state| state.attempts += 2, "increased by more than one"),
    ] {
        let story = claimed(Completed).called(Some(200)).moved(change);
        // A second change, because the end includes the one right before it.
        let story = story.moved(|_| ()).redelivered();
        assert_found(story, CheckRule::Moves, what);
    }
}

#[test]
fn moves_the_end_of_a_redelivery_writes_back_what_it_has_counted() {
    let changes: [RowChange; 5] = [
        |state| state.claim -= 1,
        |state| state.attempts -= 1,
        |state| state.owner = None,
        |state| state.lost_claims += 1,
        |state| state.parks += 1,
    ];
    for change in changes {
        let story = claimed(Completed).called(Some(200));
        let story = story.redelivery_ended_with(Completed, attempt, change);
        assert_violation(story, CheckRule::Moves, "and left its job");
    }
}

#[test]
fn moves_only_a_success_changes_the_status_of_a_job_and_only_to_completed() {
    let failing = |job| {
        (1..ATTEMPTS).fold(claimed(job), |story, _| {
            story.called(Some(500)).attempt_failed().claimed_by("b")
        })
    };
    // A failure leaves it.
    for (job, other) in [(Completed, Failed), (Failed, Completed)] {
        let story = failing(job).called(Some(500)).event("attempt_failed");
        let story = story.redelivery_ended_with(Failed, attempt, |state| state.status = other);
        assert_found(story, CheckRule::Moves, "and left its job");
    }
    // A success completes it.
    let story = claimed(Failed).called(Some(200));
    let story = story.redelivery_ended_with(Completed, attempt, |state| state.status = Failed);
    let verdict = Example::with(story).verdict();
    assert!(verdict.by_rule().contains_key(&CheckRule::Moves));
}

#[test]
fn moves_nothing_else_changes_a_job_that_has_ended() {
    let story = claimed(Completed).called(Some(200)).redelivered();
    assert_violation(
        story.moved(|_| ()).row(None),
        CheckRule::Moves,
        "changed after its final status",
    );
}

#[test]
fn fences_a_redelivery_is_not_ended_with_a_stale_token() {
    // Claim 2 was lost, and its worker ends the redelivery while claim 3 holds it.
    let story = claimed(Completed).called(Some(200)).lost().claimed_by("c");
    let story = story.redelivery_ended(Completed, |state| {
        state.claim = 2;
        state.owner = Some("b".to_owned());
        state.attempts += 1;
    });
    assert_found(
        story,
        CheckRule::Fences,
        "in a redelivery, a write with a stale fencing token",
    );
}

#[test]
fn fences_a_redelivery_does_not_end_while_nobody_holds_it() {
    for story in [
        completed().redelivering(),
        claimed(Completed).called(Some(200)).lost(),
    ] {
        let story = story.redelivery_ended(Completed, attempt);
        let verdict = Example::with(story).verdict();
        let found = verdict.by_rule();
        assert!(found.contains_key(&CheckRule::Fences), "{found:?}");
    }
}

#[test]
fn fences_the_tokens_of_the_job_are_stale_in_its_redelivery() {
    let story = completed().redelivering().moved(|state| {
        state.status = Processing;
        state.owner = Some("a".to_owned());
    });
    let verdict = Example::with(story.called(Some(200)).redelivered()).verdict();
    assert!(verdict.by_rule().contains_key(&CheckRule::Fences));
}

#[test]
fn fences_each_claim_of_a_redelivery_that_did_not_end_it_has_an_event() {
    let story = claimed(Completed).moved(|state| {
        state.status = Pending;
        state.owner = None;
        state.lost_claims += 1;
    });
    assert_violation(
        story.claimed_by("c").called(Some(200)).redelivered(),
        CheckRule::Fences,
        "claim 2 ended without an event: expected claim_lost",
    );
    let story = claimed(Completed).event("claim_lost").called(Some(200));
    assert_violation(
        story.redelivered(),
        CheckRule::Fences,
        "`claim_lost` is recorded for claim 2, which ended as COMPLETED",
    );
}

#[test]
fn waits_a_redelivery_is_due_at_once_and_its_retries_after_their_delay() {
    let later = SignedDuration::from_millis(6);
    let story = completed().redelivery_inserted();
    let due = story.now - STEP + later;
    let story = story.due_at(due).asked_again(RedeliveryAnswer::Accepted);
    let story = story.claimed_by("b").called(Some(200)).redelivered();
    assert_violation(story, CheckRule::Waits, "the longest wait is 0ns");

    // The schedule begins anew: the job has used up its delays, and the redelivery has all.
    let retried = |by: SignedDuration| {
        let story = claimed(Failed).called(Some(500)).attempt_failed();
        let delay = SignedDuration::try_from(RETRY_DELAY).unwrap();
        let due = story.now - STEP + delay + by;
        let story = story.due_at(due).later(by).claimed_by("b");
        story.called(Some(200)).redelivered()
    };
    assert_passes(retried(SignedDuration::ZERO));
    assert_violation(retried(later), CheckRule::Waits, "the longest wait is 10ms");
}

#[test]
fn waits_a_redelivery_is_not_claimed_before_it_is_due() {
    let story = claimed(Completed).called(Some(500)).attempt_failed();
    let early = story.later(-STEP).claimed_by("b").called(Some(200));
    assert_violation(
        early.redelivered(),
        CheckRule::Waits,
        "in a redelivery, claim 3 was made by",
    );
}
