//! Nobody wrote under a claim that was over, and every claim that ended early is recorded.

use storm_shared::models::Status;

use super::{index::Job, is_over};
use crate::chaos::history::{Event, Held, Limits, Moved};

pub(super) fn check(job: &Job<'_>, limits: &Limits) -> Vec<String> {
    let past = first_write_past(&job.moves).map(|index| {
        let moved = job.moves[index];
        format!(
            "a write got past a fence at {:.3}: claim {} was over",
            moved.at, moved.after.claim
        )
    });
    let events = wrong_events(job, limits);
    past.into_iter().chain(events).collect()
}

/// The first write under a claim that had been given back or taken away.
pub(super) fn first_write_past(moves: &[&Moved]) -> Option<usize> {
    let mut over = None;
    for (index, moved) in moves.iter().enumerate() {
        let is_write = moved.before.is_some() && !moved.is_unparking();
        if is_write && over.is_some_and(|over| moved.after.claim <= over) {
            return Some(index);
        }
        over = over.max(ended_early(moved).map(|before| before.claim));
    }
    None
}

/// The row before a move that ended its claim otherwise than by its own worker's ending the job.
fn ended_early(moved: &Moved) -> Option<&Held> {
    let before = moved.before.as_ref()?;
    let condemned =
        moved.after.status == Status::Failed && moved.after.lost_claims > before.lost_claims;
    let early = moved.after.status == Status::Pending || condemned;
    (before.status == Status::Processing && early).then_some(before)
}

/// The events that may record this early end, told by what it counted.
fn events_of(before: &Held, after: &Held, limits: &Limits) -> &'static [&'static str] {
    if after.lost_claims > before.lost_claims {
        &["claim_lost"]
    } else if after.attempts > before.attempts {
        &["attempt_failed"]
    } else if before.lost_claims + 2 >= limits.max_claims {
        // A job that did not die alone is not condemned: the last two losses before that are lone ones.
        &["given_back", "claim_lost"]
    } else {
        &["given_back"]
    }
}

/// Whether an event records the last attempt of a job whose callback failed. It may, and need not.
fn is_last_attempt(event: &Event, moved: &Moved) -> bool {
    let Some(before) = &moved.before else {
        return false;
    };
    let failed = before.status == Status::Processing && moved.after.status == Status::Failed;
    let attempted = moved.after.attempts > before.attempts;
    failed && attempted && event.event == "attempt_failed" && event.claim == before.claim
}

/// Events without their move and moves without their event: each claim that ended early has one of
/// both, and of the same kind.
fn wrong_events(job: &Job<'_>, limits: &Limits) -> Vec<String> {
    let ends = job.moves.iter().filter_map(|moved| {
        // Who is put off was called by nobody: there is nothing to record.
        let before = ended_early(moved).filter(|before| before.parks == moved.after.parks)?;
        Some((before.claim, events_of(before, &moved.after, limits)))
    });
    let mut unrecorded: Vec<_> = ends.collect();
    let mut found = Vec::new();
    let mut last_attempt = job.moves.last();
    for event in &job.events {
        if last_attempt.is_some_and(|moved| is_last_attempt(event, moved)) {
            last_attempt = None; // once
            continue;
        }
        let its_own = unrecorded.iter().position(|(claim, events)| {
            *claim == event.claim && events.contains(&event.event.as_str())
        });
        if let Some(index) = its_own {
            unrecorded.remove(index);
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
    found.extend(unrecorded.iter().map(|(claim, events)| {
        format!(
            "claim {claim} ended early, and no event records it as {}",
            events.join(" or ")
        )
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
    use storm_shared::models::Status::{Completed, Failed, Pending, Processing};

    use super::super::{
        Rule,
        example::{ATTEMPTS, Example, MAX_CLAIMS, REPEATED, Story, id},
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
    fn a_fence_keeps_out_every_older_claim() {
        let story = job().lost().claimed_by("b").given_back();
        let story = story.moved(|held| held.claim = 1);
        let story = story.moved(|held| held.claim = 2).claimed_by("c");
        is_wrong(story.called(Some(200)).completed(), "claim 1 was over");
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
    fn an_event_is_recorded_of_the_claim_that_ended() {
        let verdict = Example::changed(|record| match record {
            Record::Event(event) if event.id == id(REPEATED) => event.claim = 7,
            _ => {}
        })
        .verdict();
        let rules: Vec<_> = verdict.by_rule().into_iter().collect();
        assert_eq!(rules, [(Rule::Fences, 2)]);
    }

    #[test]
    fn a_claim_that_ended_early_is_recorded_once() {
        let story = job().moved(|held| {
            held.status = Pending;
            held.owner = None;
        });
        let story = story.claimed_by("b").called(Some(200)).completed();
        is_wrong(story, "no event records it as given_back");

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
    fn a_job_that_did_not_die_alone_is_not_counted_up_to_its_condemnation() {
        /// A job that has lost so many claims, and then ends one early that is not counted.
        fn story(lost: i64, event: &str) -> Story {
            let job = (0..lost).fold(Story::of(700).accepted(), |story, _| {
                story.claimed_by("a").lost()
            });
            let story = job.claimed_by("a").event(event).moved(|held| {
                held.status = Pending;
                held.owner = None;
            });
            story.claimed_by("b").called(Some(200)).completed()
        }
        Example::with(story(MAX_CLAIMS - 2, "claim_lost")).is_accepted();
        Example::with(story(MAX_CLAIMS - 2, "given_back")).is_accepted();
        let verdict = Example::with(story(MAX_CLAIMS - 3, "claim_lost")).verdict();
        let rules: Vec<_> = verdict.by_rule().into_iter().collect();
        assert_eq!(rules, [(Rule::Fences, 2)]);
    }

    #[test]
    fn the_last_attempt_may_be_recorded_once() {
        /// A job whose last attempt is recorded so often.
        fn story(times: usize) -> Story {
            let story = (1..ATTEMPTS).fold(Story::of(700).accepted(), |story, _| {
                story.claimed_by("a").attempt_failed()
            });
            let story = (0..times).fold(story.claimed_by("a"), |story, _| {
                story.event("attempt_failed")
            });
            let story = story.moved(|held| {
                held.status = Failed;
                held.attempts += 1;
            });
            story.row(Some("callback_failed"))
        }
        Example::with(story(0)).is_accepted();
        Example::with(story(1)).is_accepted();
        is_wrong(story(2), "which ended its job as FAILED");
    }

    #[test]
    fn an_event_is_of_a_claim_that_there_was() {
        let story = Story::nothing_of(700).unanswered().event("claim_lost");
        is_wrong(story, "its row did not move so");
    }
}
