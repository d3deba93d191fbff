//! Nobody wrote under a claim that was over, and every claim that ended early is recorded.

use std::fmt;

use storm_shared::models::Status;

use super::{index::Job, is_over};
use crate::chaos::history::{Held, Limits, Moved};

pub(super) fn check(job: &Job<'_>, _: &Limits) -> Vec<String> {
    let past = first_write_past(&job.moves).map(|index| {
        let moved = job.moves[index];
        format!(
            "a write got past a fence at {:.3}: claim {} was over",
            moved.at, moved.after.claim
        )
    });
    past.into_iter().chain(wrong_events(job)).collect()
}

/// The first write under a claim that had been given back or taken away.
pub(super) fn first_write_past(moves: &[&Moved]) -> Option<usize> {
    let mut over = None;
    for (index, moved) in moves.iter().enumerate() {
        if moved.before.is_some() && over.is_some_and(|over| moved.after.claim <= over) {
            return Some(index);
        }
        if let Some((claim, _)) = early_end(moved) {
            over = over.max(Some(claim));
        }
    }
    None
}

/// How a claim ends that doesn't end its job by its own hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EarlyEnd {
    ClaimLost,
    AttemptFailed,
    GivenBack,
}

impl EarlyEnd {
    const fn as_str(self) -> &'static str {
        match self {
            Self::ClaimLost => "claim_lost",
            Self::AttemptFailed => "attempt_failed",
            Self::GivenBack => "given_back",
        }
    }
}

impl fmt::Display for EarlyEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The claim that a move ended early, and how, told by what it counted.
fn early_end(moved: &Moved) -> Option<(i64, EarlyEnd)> {
    let Moved { before, after, .. } = moved;
    let before = before
        .as_ref()
        .filter(|before| before.status == Status::Processing)?;
    let how = if after.lost_claims > before.lost_claims {
        EarlyEnd::ClaimLost
    } else if after.attempts > before.attempts {
        EarlyEnd::AttemptFailed
    } else {
        EarlyEnd::GivenBack
    };
    match (after.status, how) {
        (Status::Pending, _) | (Status::Failed, EarlyEnd::ClaimLost) => Some((before.claim, how)),
        _ => None,
    }
}

/// Events without their move and moves without their event: each claim that ended early has one of
/// both, and of the same kind.
fn wrong_events(job: &Job<'_>) -> Vec<String> {
    let mut ends: Vec<_> = job
        .moves
        .iter()
        .filter_map(|moved| early_end(moved))
        .collect();
    let mut found = Vec::new();
    for event in &job.events {
        let its_own =
            |(claim, how): &(i64, EarlyEnd)| *claim == event.claim && how.as_str() == event.event;
        if let Some(index) = ends.iter().position(its_own) {
            ends.remove(index);
        } else if let Some(end) = end_under(job, event.claim) {
            found.push(format!(
                "`{}` is recorded of claim {}, which ended its job as {}",
                event.event, event.claim, end.status
            ));
        } else {
            found.push(format!(
                "`{}` is recorded of claim {}, and its row did not move so",
                event.event, event.claim
            ));
        }
    }
    found
        .extend(ends.iter().map(|(claim, how)| {
            format!("claim {claim} ended by `{how}`, and no event records it")
        }));
    found
}

/// How a job ended under this claim, if it did.
fn end_under<'a>(job: &Job<'a>, claim: i64) -> Option<&'a Held> {
    let mut held = job.moves.iter().map(|moved| &moved.after);
    held.find(|held| held.claim == claim && is_over(held.status))
}

#[cfg(test)]
mod tests {
    use storm_shared::models::Status::{Completed, Pending, Processing};

    use super::super::{
        Rule,
        example::{Example, REPEATED, Story, id},
    };
    use crate::chaos::history::Record;

    fn job() -> Story {
        Story::of(700).accepted().claimed_by("a")
    }

    #[track_caller]
    fn is_wrong(story: Story, what: &str) {
        Example::with(story).is_refused(Rule::Fences, id(700), what);
    }

    #[test]
    fn nobody_ends_a_job_that_was_taken_away() {
        let story = job().called(Some(200)).stored().lost();
        let story = story.moved(|held| held.status = Completed);
        is_wrong(story.row(None), "a write got past a fence");
    }

    #[test]
    fn nobody_writes_to_a_job_that_is_anothers_now() {
        let story = job().called(Some(200)).stored().lost().claimed_by("b");
        let story = story.moved(|held| {
            held.status = Completed;
            held.claim = 1;
            held.owner = Some("a".to_owned());
        });
        is_wrong(story.row(None), "claim 1 was over");
    }

    #[test]
    fn nobody_writes_to_a_job_that_he_gave_back() {
        let story = job().called(Some(500)).attempt_failed();
        let story = story.moved(|held| held.attempts += 1).claimed_by("b");
        is_wrong(
            story.called(Some(200)).completed(),
            "a write got past a fence",
        );
    }

    #[test]
    fn a_claim_that_is_over_is_not_taken_up_again() {
        let story = job().given_back().moved(|held| {
            held.status = Processing;
            held.owner = Some("a".to_owned());
        });
        is_wrong(
            story.called(Some(200)).completed(),
            "a write got past a fence",
        );
    }

    #[test]
    fn no_job_completes_under_a_claim_that_was_declared_lost() {
        let story = job().called(Some(200)).event("claim_lost").completed();
        is_wrong(story, "ended its job as COMPLETED");
    }

    #[test]
    fn a_claim_is_recorded_as_what_became_of_it() {
        for event in ["claim_lost", "given_back", "mislaid"] {
            let story = job().event(event).moved(|held| {
                held.status = Pending;
                held.owner = None;
                held.attempts += 1;
            });
            let story = story.claimed_by("b").called(Some(200)).completed();
            let verdict = Example::with(story).verdict();
            // The event has no such move, and the move no such event.
            let rules: Vec<_> = verdict.by_rule().into_iter().collect();
            assert_eq!(rules, [(Rule::Fences, 2)], "{event}");
        }
    }

    #[test]
    fn a_claim_that_ended_early_is_recorded_once() {
        let story = job().moved(|held| {
            held.status = Pending;
            held.owner = None;
        });
        let story = story.claimed_by("b").called(Some(200)).completed();
        is_wrong(story, "ended by `given_back`, and no event records it");

        let mut example = Example::good();
        let event = example
            .records
            .iter()
            .find(|record| matches!(record, Record::Event(event) if event.id == id(REPEATED)));
        let event = event.unwrap().clone();
        example.records.push(event);
        example.is_refused(Rule::Fences, id(REPEATED), "its row did not move so");
    }

    #[test]
    fn an_event_is_of_a_claim_that_there_was() {
        let story = Story::nothing_of(700).unanswered().event("claim_lost");
        is_wrong(story, "its row did not move so");
    }
}
