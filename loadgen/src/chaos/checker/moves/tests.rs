//! Transitions that the contract forbids.

use storm_shared::models::Status::{Completed, Failed, Pending, Processing};

use crate::chaos::{
    checker::{
        CheckRule,
        example::{Example, MAX_CLAIMS, QUICK, SYNC, Story, id},
    },
    history::{Record, RowState},
};

/// An additional, wrong change of a transition.
type RowChange = fn(&mut RowState);

fn job() -> Story {
    Story::of(700).accepted()
}

/// Asserts that a story with one wrong transition is rejected for it.
#[track_caller]
fn assert_violation(story: Story, what: &str) {
    Example::with(story).assert_violation(CheckRule::Moves, id(700), what);
}

#[test]
fn a_job_is_inserted_pending_and_unclaimed() {
    let changes: [RowChange; 6] = [
        |state| state.status = Processing,
        |state| state.claim = 1,
        |state| state.owner = Some("a".to_owned()),
        |state| state.attempts = 1,
        |state| state.lost_claims = 1,
        |state| state.result = Some("{}".to_owned()),
    ];
    for change in changes {
        let mut story = Story::nothing_of(700).accepted();
        change(&mut story.state);
        let story = story.inserted();
        let verdict = Example::with(story.claimed_by("a")).verdict();
        let first = verdict
            .violations
            .iter()
            .find(|it| it.rule == CheckRule::Moves);
        let what = &first.expect("a violation").what;
        assert!(what.contains("it was inserted as"), "{what}");
    }
}

#[test]
fn only_a_sync_request_is_inserted_in_a_final_status() {
    assert_violation(
        Story::nothing_of(700).accepted().inserted_final(),
        "it was inserted as COMPLETED",
    );
    assert_violation(
        Story::nothing_of(700).unanswered().inserted_final(),
        "it was inserted as COMPLETED",
    );
    let mut story = Story::nothing_of(700);
    story.state.attempts = 1;
    assert_violation(story.inserted_final(), "it was inserted as COMPLETED");
    Example::with(Story::nothing_of(700).inserted_final()).assert_passes();
}

#[test]
fn a_sync_request_never_changes() {
    let mut example = Example::good();
    let again = example.records.iter().find_map(|record| match record {
        Record::Transition(moved) if moved.id == id(SYNC) => Some(moved.clone()),
        _ => None,
    });
    let mut again = again.unwrap();
    again.before = Some(again.after.clone());
    again.after.claim = 1;
    again.after.owner = Some("a".to_owned());
    for record in &mut example.records {
        if let Record::Row(row) = record
            && row.id == id(SYNC)
        {
            row.state = again.after.clone();
        }
    }
    example.records.push(Record::Transition(again));
    example.assert_violation(CheckRule::Moves, id(SYNC), "changed after its final status");
}

#[test]
fn a_job_is_inserted_once() {
    let story = job().inserted().claimed_by("a").called(Some(200));
    assert_violation(story.completed(), "it was inserted again");
}

#[test]
fn nothing_moves_that_nobody_holds() {
    let result = job().result();
    let story = job().called(Some(200)).moved(|state| {
        state.status = Completed;
        state.result = Some(result);
    });
    assert_violation(story.row(None), "it changed while no worker held it");
    let story = job().moved(|_| ()).claimed_by("a").called(Some(200));
    assert_violation(story.completed(), "it changed while no worker held it");
}

#[test]
fn a_claim_changes_only_status_claim_and_owner() {
    let claims: [(RowChange, &str); 6] = [
        (
            |state| state.claim += 1,
            "did not increment the fencing token",
        ),
        (
            |state| state.claim -= 1,
            "did not increment the fencing token",
        ),
        (|state| state.owner = None, "without an owner"),
        (|state| state.attempts = 1, "changed other columns"),
        (|state| state.lost_claims = 1, "changed other columns"),
        (
            |state| state.result = Some("{}".to_owned()),
            "changed other columns",
        ),
    ];
    for (change, what) in claims {
        let story = job().moved(|state| {
            state.status = Processing;
            state.claim += 1;
            state.owner = Some("a".to_owned());
            change(state);
        });
        let verdict = Example::with(story.row(None)).verdict();
        let found = verdict
            .violations
            .iter()
            .filter(|it| it.rule == CheckRule::Moves);
        let found: Vec<_> = found.map(|it| it.what.as_str()).collect();
        assert!(
            matches!(found[..], [only] if only.contains(what)),
            "{found:?}"
        );
    }
}

#[test]
fn a_job_in_progress_keeps_its_claim_and_owner() {
    let changes: [(RowChange, &str); 5] = [
        (
            |state| state.claim += 1,
            "fencing token changed without a new claim",
        ),
        (
            |state| state.owner = Some("b".to_owned()),
            "its owner changed",
        ),
        (|state| state.lost_claims += 1, "while the claim continued"),
        (
            |state| state.attempts += 2,
            "its attempts increased by more than one",
        ),
        (|state| state.attempts -= 1, "or decreased"),
    ];
    for (change, what) in changes {
        let story = job().claimed_by("a").called(Some(200)).moved(change);
        assert_violation(story.completed(), what);
    }
}

#[test]
fn a_stored_result_never_changes() {
    let story = job().claimed_by("a").stored().called(Some(200));
    let same_in_other_bytes = format!(" {}", story.result());
    let story = story.moved(|state| {
        state.status = Completed;
        state.result = Some(same_in_other_bytes);
    });
    assert_violation(story.row(None), "a stored result changed");
}

#[test]
fn a_pending_job_has_no_owner() {
    let story = job().claimed_by("a").event("given_back");
    let story = story.moved(|state| state.status = Pending).claimed_by("b");
    assert_violation(
        story.called(Some(200)).completed(),
        "PENDING and kept its owner",
    );
}

#[test]
fn a_lost_claim_is_counted_as_one_lost_claim() {
    for (attempts, lost_claims, what) in [
        (1, 1, "counted as an attempt"),
        (0, 2, "its lost claims increased by more than one"),
    ] {
        let story = job().claimed_by("a").event("claim_lost").moved(|state| {
            state.status = Pending;
            state.owner = None;
            state.attempts += attempts;
            state.lost_claims += lost_claims;
        });
        let story = story.claimed_by("b").called(Some(200));
        assert_violation(story.completed(), what);
    }
}

#[test]
fn a_lost_claim_stores_no_result() {
    let result = job().result();
    let story = job()
        .claimed_by("a")
        .event("claim_lost")
        .moved(|state| {
            state.status = Pending;
            state.owner = None;
            state.lost_claims += 1;
            state.result = Some(result);
        })
        .claimed_by("b");
    assert_violation(story.called(Some(200)).completed(), "or stored a result");
}

#[test]
fn lost_claims_never_decrease() {
    let story = job().claimed_by("a").lost().claimed_by("a");
    let story = story.event("given_back").moved(|state| {
        state.status = Pending;
        state.owner = None;
        state.lost_claims -= 1;
    });
    let story = story.claimed_by("b").called(Some(200));
    assert_violation(story.completed(), "or decreased");
}

#[test]
fn dead_lettering_a_poison_job_does_not_change_its_owner() {
    /// A poison job, dead-lettered by a transition that sets `owner`.
    fn dead_lettered(owner: Option<&str>) -> Story {
        let story = (1..MAX_CLAIMS).fold(job(), |story, _| story.claimed_by("a").lost());
        let story = story.claimed_by("a").event("claim_lost").moved(|state| {
            state.status = Failed;
            state.lost_claims += 1;
            state.owner = owner.map(str::to_owned);
        });
        story.row(Some("poison"))
    }
    assert_violation(dead_lettered(Some("b")), "its owner changed");
    Example::with(dead_lettered(None)).assert_passes();
    Example::with(dead_lettered(Some("a"))).assert_passes();
}

#[test]
fn a_job_completes_with_its_result() {
    let story = job().claimed_by("a").called(Some(200));
    let story = story.moved(|state| state.status = Completed);
    assert_violation(story.row(None), "without a result");
}

#[test]
fn a_finished_job_never_changes() {
    let story = job().claimed_by("a").called(Some(200)).stored();
    let story = story.moved(|state| state.status = Completed);
    assert_violation(
        story.moved(|_| ()).row(None),
        "changed after its final status",
    );
}

#[test]
fn the_row_equals_the_end_of_its_last_transition() {
    Example::changed(|record| match record {
        Record::Row(row) if row.id == id(QUICK) => row.state.attempts += 1,
        _ => {}
    })
    .assert_violation(CheckRule::Moves, id(QUICK), "its last transition ended in");
}

#[test]
fn an_unrecorded_change_is_a_missing_transition() {
    let mut story = job().claimed_by("a");
    story.state.attempts = 1;
    assert_violation(
        story.called(Some(200)).completed(),
        "a transition is missing before",
    );
}

#[test]
fn every_row_has_transitions_and_all_transitions_have_a_row() {
    let story = Story::of(700).unanswered();
    assert_violation(story, "its row was deleted");
    Example::without(|record| {
        matches!(record, Record::Transition(moved) if moved.id == id(QUICK) && moved.before.is_none())
    })
    .assert_violation(CheckRule::Moves, id(QUICK), "its insert was not recorded");
    Example::without(|record| matches!(record, Record::Transition(moved) if moved.id == id(QUICK)))
        .assert_violation(CheckRule::Moves, id(QUICK), "no recorded transition");
}

#[test]
fn a_job_may_be_parked_and_unparked_any_number_of_times() {
    let story = job().claimed_by("a").parked().unparked().unparked();
    let story = story.claimed_by("b").lost().claimed_by("c").parked();
    let story = story.claimed_by("d").called(Some(200));
    Example::with(story.completed()).assert_passes();
}

#[test]
fn parking_counts_one_park_and_no_attempt() {
    let changes: [RowChange; 2] = [|state| state.parks += 1, |state| state.attempts += 1];
    for change in changes {
        let story = job().claimed_by("a").moved(|state| {
            state.status = Pending;
            state.owner = None;
            state.parks += 1;
            change(state);
        });
        let story = story.claimed_by("b").called(Some(200)).completed();
        assert_violation(story, "parking did not add one to `parks`");
    }
}

#[test]
fn only_a_parked_job_is_unparked() {
    let story = job().unparked().claimed_by("a").called(Some(200));
    assert_violation(story.completed(), "it changed while no worker held it");
}
