//! Moves that the contract does not allow.

use storm_shared::models::Status::{Completed, Failed, Pending, Processing};

use crate::chaos::{
    checker::{
        Rule,
        example::{Example, MAX_CLAIMS, QUICK, SYNC, Story, id},
    },
    history::{Held, Record},
};

/// What a wrong move does besides.
type Change = fn(&mut Held);

fn job() -> Story {
    Story::of(700).accepted()
}

/// That a story with one wrong move is refused for it.
#[track_caller]
fn is_wrong(story: Story, what: &str) {
    Example::with(story).is_refused(Rule::Moves, id(700), what);
}

#[test]
fn a_job_is_inserted_as_nobodys() {
    let changes: [Change; 6] = [
        |held| held.status = Processing,
        |held| held.claim = 1,
        |held| held.owner = Some("a".to_owned()),
        |held| held.attempts = 1,
        |held| held.lost_claims = 1,
        |held| held.result = Some("{}".to_owned()),
    ];
    for change in changes {
        let mut story = Story::nothing_of(700).accepted();
        change(&mut story.held);
        let story = story.inserted();
        let verdict = Example::with(story.claimed_by("a")).verdict();
        let first = verdict.violations.iter().find(|it| it.rule == Rule::Moves);
        let what = &first.expect("a violation").what;
        assert!(what.contains("it was inserted as"), "{what}");
    }
}

#[test]
fn only_a_sync_request_is_inserted_when_it_is_over() {
    is_wrong(
        Story::nothing_of(700).accepted().inserted_over(),
        "it was inserted as COMPLETED",
    );
    is_wrong(
        Story::nothing_of(700).unanswered().inserted_over(),
        "it was inserted as COMPLETED",
    );
    let mut story = Story::nothing_of(700);
    story.held.attempts = 1;
    is_wrong(story.inserted_over(), "it was inserted as COMPLETED");
    Example::with(Story::nothing_of(700).inserted_over()).is_accepted();
}

#[test]
fn a_sync_request_is_never_written_again() {
    let mut example = Example::good();
    let again = example.records.iter().find_map(|record| match record {
        Record::Moved(moved) if moved.id == id(SYNC) => Some(moved.clone()),
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
            row.held = again.after.clone();
        }
    }
    example.records.push(Record::Moved(again));
    example.is_refused(Rule::Moves, id(SYNC), "changed after its end");
}

#[test]
fn a_job_is_inserted_once() {
    let story = job().inserted().claimed_by("a").called(Some(200));
    is_wrong(story.completed(), "it was inserted again");
}

#[test]
fn nothing_moves_that_nobody_holds() {
    let result = job().result();
    let story = job().called(Some(200)).moved(|held| {
        held.status = Completed;
        held.result = Some(result);
    });
    is_wrong(story.row(None), "it changed while nobody held it");
    let story = job().moved(|_| ()).claimed_by("a").called(Some(200));
    is_wrong(story.completed(), "it changed while nobody held it");
}

#[test]
fn a_claim_changes_the_claim_and_nothing_else() {
    let claims: [(Change, &str); 6] = [
        (|held| held.claim += 1, "under the wrong number"),
        (|held| held.claim -= 1, "under the wrong number"),
        (|held| held.owner = None, "by nobody"),
        (|held| held.attempts = 1, "changed more than the claim"),
        (|held| held.lost_claims = 1, "changed more than the claim"),
        (
            |held| held.result = Some("{}".to_owned()),
            "changed more than the claim",
        ),
    ];
    for (change, what) in claims {
        let story = job().moved(|held| {
            held.status = Processing;
            held.claim += 1;
            held.owner = Some("a".to_owned());
            change(held);
        });
        let verdict = Example::with(story.row(None)).verdict();
        let found = verdict
            .violations
            .iter()
            .filter(|it| it.rule == Rule::Moves);
        let found: Vec<_> = found.map(|it| it.what.as_str()).collect();
        assert!(
            matches!(found[..], [only] if only.contains(what)),
            "{found:?}"
        );
    }
}

#[test]
fn a_job_that_is_worked_on_stays_its_workers() {
    let changes: [(Change, &str); 5] = [
        (|held| held.claim += 1, "without a new claim"),
        (
            |held| held.owner = Some("b".to_owned()),
            "its owner changed",
        ),
        (|held| held.lost_claims += 1, "lost a claim that goes on"),
        (
            |held| held.attempts += 2,
            "its attempts changed by more than one",
        ),
        (|held| held.attempts -= 1, "or went down"),
    ];
    for (change, what) in changes {
        let story = job().claimed_by("a").called(Some(200)).moved(change);
        is_wrong(story.completed(), what);
    }
}

#[test]
fn a_stored_result_never_changes() {
    let story = job().claimed_by("a").stored().called(Some(200));
    let same_in_other_bytes = format!(" {}", story.result());
    let story = story.moved(|held| {
        held.status = Completed;
        held.result = Some(same_in_other_bytes);
    });
    is_wrong(story.row(None), "a stored result changed");
}

#[test]
fn a_job_that_comes_back_is_nobodys() {
    let story = job().claimed_by("a").event("given_back");
    let story = story.moved(|held| held.status = Pending).claimed_by("b");
    is_wrong(story.called(Some(200)).completed(), "kept its owner");
}

#[test]
fn a_lost_claim_is_charged_as_one_lost_claim() {
    for (attempts, lost_claims, what) in [
        (1, 1, "charged as an attempt"),
        (0, 2, "its lost claims changed by more than one"),
    ] {
        let story = job().claimed_by("a").event("claim_lost").moved(|held| {
            held.status = Pending;
            held.owner = None;
            held.attempts += attempts;
            held.lost_claims += lost_claims;
        });
        let story = story.claimed_by("b").called(Some(200));
        is_wrong(story.completed(), what);
    }
}

#[test]
fn a_lost_claim_stores_no_result() {
    let result = job().result();
    let story = job()
        .claimed_by("a")
        .event("claim_lost")
        .moved(|held| {
            held.status = Pending;
            held.owner = None;
            held.lost_claims += 1;
            held.result = Some(result);
        })
        .claimed_by("b");
    is_wrong(story.called(Some(200)).completed(), "or stored a result");
}

#[test]
fn lost_claims_never_go_down() {
    let story = job().claimed_by("a").lost().claimed_by("a");
    let story = story.event("given_back").moved(|held| {
        held.status = Pending;
        held.owner = None;
        held.lost_claims -= 1;
    });
    let story = story.claimed_by("b").called(Some(200));
    is_wrong(story.completed(), "or went down");
}

#[test]
fn whoever_condemns_a_job_does_not_become_its_owner() {
    /// A job condemned by a move that makes `owner` its owner.
    fn condemned(owner: Option<&str>) -> Story {
        let story = (1..MAX_CLAIMS).fold(job(), |story, _| story.claimed_by("a").lost());
        let story = story.claimed_by("a").event("claim_lost").moved(|held| {
            held.status = Failed;
            held.lost_claims += 1;
            held.owner = owner.map(str::to_owned);
        });
        story.row(Some("poison"))
    }
    is_wrong(condemned(Some("b")), "its owner changed");
    Example::with(condemned(None)).is_accepted();
    Example::with(condemned(Some("a"))).is_accepted();
}

#[test]
fn a_job_completes_with_its_result() {
    let story = job().claimed_by("a").called(Some(200));
    let story = story.moved(|held| held.status = Completed);
    is_wrong(story.row(None), "without a result");
}

#[test]
fn a_job_that_is_over_stays_as_it_is() {
    let story = job().claimed_by("a").called(Some(200)).stored();
    let story = story.moved(|held| held.status = Completed);
    is_wrong(story.moved(|_| ()).row(None), "changed after its end");
}

#[test]
fn a_row_is_what_its_last_move_made_of_it() {
    Example::changed(|record| match record {
        Record::Row(row) if row.id == id(QUICK) => row.held.attempts += 1,
        _ => {}
    })
    .is_refused(Rule::Moves, id(QUICK), "its last move left it");
}

#[test]
fn a_change_that_nobody_recorded_leaves_a_gap() {
    let mut story = job().claimed_by("a");
    story.held.attempts = 1;
    is_wrong(
        story.called(Some(200)).completed(),
        "a move is missing before",
    );
}

#[test]
fn a_row_has_its_moves_and_moves_have_their_row() {
    let story = Story::of(700).unanswered();
    is_wrong(story, "its row was deleted");
    Example::without(|record| {
        matches!(record, Record::Moved(moved) if moved.id == id(QUICK) && moved.before.is_none())
    })
    .is_refused(Rule::Moves, id(QUICK), "its insert was not recorded");
    Example::without(|record| matches!(record, Record::Moved(moved) if moved.id == id(QUICK)))
        .is_refused(Rule::Moves, id(QUICK), "no move of it was recorded");
}

#[test]
fn a_job_may_be_put_off_and_let_go_on_as_often_as_its_receiver_needs() {
    let story = job().claimed_by("a").parked().unparked().unparked();
    let story = story.claimed_by("b").lost().claimed_by("c").parked();
    let story = story.claimed_by("d").called(Some(200));
    Example::with(story.completed()).is_accepted();
}

#[test]
fn a_job_is_put_off_once_at_a_time_and_without_an_attempt() {
    let changes: [Change; 2] = [|held| held.parks += 1, |held| held.attempts += 1];
    for change in changes {
        let story = job().claimed_by("a").moved(|held| {
            held.status = Pending;
            held.owner = None;
            held.parks += 1;
            change(held);
        });
        let story = story.claimed_by("b").called(Some(200)).completed();
        is_wrong(story, "it was put off otherwise than once");
    }
}

#[test]
fn only_a_job_that_was_put_off_is_let_go_on() {
    let story = job().unparked().claimed_by("a").called(Some(200));
    is_wrong(story.completed(), "it changed while nobody held it");
}
