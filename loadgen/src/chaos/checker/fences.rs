//! Rule `fences`: no write with a stale fencing token, and one event for each claim that ended
//! without ending its job or redelivery.

use storm_shared::models::Status;

use super::{
    index::JobHistory,
    series::{Series, is_cancel},
};
use crate::chaos::history::{HistoryEvent, HistoryLimits, RowKind, RowState, Transition};

pub(super) fn check(job: &JobHistory<'_>, limits: &HistoryLimits) -> Vec<String> {
    let mut found: Vec<_> = job.series().filter_map(fenced_write).collect();
    found.extend(wrong_events(job, limits));
    found
}

fn fenced_write(series: &Series<'_>) -> Option<String> {
    let moved = &series.moves[first_fenced_write(series)?];
    Some(series.name(&format!(
        "a write with a stale fencing token at {:.3}: claim {} had ended",
        moved.at, moved.after.claim
    )))
}

/// The first write with the fencing token of a claim that was released or reclaimed, or of an
/// earlier series.
pub(super) fn first_fenced_write(series: &Series<'_>) -> Option<usize> {
    let mut over = series.claims_before();
    for (index, moved) in series.moves.iter().enumerate() {
        // An insert belongs to no claim. Unparking and erasing change a row that no worker holds.
        let is_write = moved.before.is_some() && !moved.is_unpark() && !moved.erases;
        if is_write && over.is_some_and(|over| moved.after.claim <= over) {
            return Some(index);
        }
        // The highest ended claim, because every lower token is stale too.
        over = over.max(ended_early(moved).map(|before| before.claim));
        let cancelled = moved.before.as_ref().filter(|_| is_cancel(moved));
        over = over.max(cancelled.map(|before| before.claim));
    }
    None
}

/// The state before a transition that ended a claim without its own worker ending the job.
fn ended_early(moved: &Transition) -> Option<&RowState> {
    let before = moved.before.as_ref()?;
    // A poison job does not return to PENDING. The worker that expires its owner's lease fails it
    // in the same transaction.
    let condemned =
        moved.after.status == Status::Failed && moved.after.lost_claims > before.lost_claims;
    let early = moved.after.status == Status::Pending || condemned;
    (before.status == Status::Processing && early).then_some(before)
}

/// The events that may record this end of a claim, by the counter that it incremented.
fn events_of(
    before: &RowState,
    after: &RowState,
    limits: &HistoryLimits,
) -> &'static [&'static str] {
    if after.lost_claims > before.lost_claims {
        &["claim_lost"]
    } else if after.attempts > before.attempts {
        &["attempt_failed"]
    } else if before.lost_claims + 2 >= limits.max_claims {
        // A worker that dies with several jobs does not show which one killed it. So the last two
        // losses before the limit are counted only for a job that was alone in its worker.
        &["given_back", "claim_lost"]
    } else {
        &["given_back"]
    }
}

/// Whether an event records the final attempt of a job whose callback failed. It is optional.
fn is_last_attempt(event: &HistoryEvent, moved: &Transition) -> bool {
    let Some(before) = &moved.before else {
        return false;
    };
    let failed = before.status == Status::Processing && moved.after.status == Status::Failed;
    let attempted = moved.after.attempts > before.attempts;
    failed && attempted && event.event == "attempt_failed" && event.claim == before.claim
}

/// Events without a matching transition, and transitions without a matching event. Each claim that
/// ended without ending its job has exactly one of each, of the same kind.
fn wrong_events(job: &JobHistory<'_>, limits: &HistoryLimits) -> Vec<String> {
    let moves = job.series().flat_map(|series| &series.moves);
    let ends = moves.filter_map(|moved| {
        // Parking makes no attempt, so it records no event.
        let before = ended_early(moved).filter(|before| before.parks == moved.after.parks)?;
        // Nor does an attempt at the work: the client can't have heard of it.
        let attempts = before.attempts + 1..=job.own.work_attempts;
        if moved.kind == RowKind::Job && attempts.contains(&moved.after.attempts) {
            return None;
        }
        Some((before.claim, events_of(before, &moved.after, limits)))
    });
    let mut unrecorded: Vec<_> = ends.collect();
    let mut found = Vec::new();
    let mut last_attempts: Vec<_> = job.series().filter_map(Series::end).collect();
    for event in &job.events {
        let its_end = last_attempts
            .iter()
            .position(|moved| is_last_attempt(event, moved));
        if let Some(index) = its_end {
            last_attempts.remove(index); // once
            continue;
        }
        // A resend ends no claim.
        if event.event == "resent" && job.series().any(|it| it.was_held_under(event.claim)) {
            continue;
        }
        let its_own = unrecorded.iter().position(|(claim, events)| {
            *claim == event.claim && events.contains(&event.event.as_str())
        });
        if let Some(index) = its_own {
            unrecorded.remove(index);
        } else if let Some(end) = end_under(job, event.claim) {
            found.push(format!(
                "`{}` is recorded for claim {}, which ended as {}",
                event.event, event.claim, end.status
            ));
        } else {
            found.push(format!(
                "`{}` is recorded for claim {}, without a matching transition",
                event.event, event.claim
            ));
        }
    }
    found.extend(unrecorded.iter().map(|(claim, events)| {
        format!(
            "claim {claim} ended without an event: expected {}",
            events.join(" or ")
        )
    }));
    found
}

/// The final state of the job or the redelivery that this claim ended.
fn end_under<'a>(job: &'a JobHistory<'_>, claim: i64) -> Option<&'a RowState> {
    let mut states = job.series().filter_map(|it| it.end().map(|end| &end.after));
    states.find(|state| state.claim == claim)
}

#[cfg(test)]
mod tests {
    use storm_shared::models::Status::{Completed, Failed, Pending, Processing};

    use super::super::{
        CheckRule,
        example::{ATTEMPTS, Example, MAX_CLAIMS, REPEATED, Story, id},
    };
    use crate::chaos::history::Record;

    fn job() -> Story {
        Story::of(700).accepted().claimed_by("a")
    }

    #[track_caller]
    fn assert_violation(story: Story, what: &str) {
        Example::with(story).assert_violation(CheckRule::Fences, id(700), what);
    }

    #[test]
    fn a_resend_belongs_to_a_claim() {
        let mut story = Story::of(700).accepted().claimed_by("a");
        story.state.claim += 1;
        let mut story = story.event("resent");
        story.state.claim -= 1;
        assert_violation(
            story.called(Some(200)).completed(),
            "`resent` is recorded for claim 2, without a matching transition",
        );
    }

    #[test]
    fn a_reclaimed_job_is_not_completed_with_the_old_token() {
        let story = job().called(Some(200)).stored().lost();
        let story = story.moved(|state| state.status = Completed);
        assert_violation(story.row(None), "a write with a stale fencing token");
    }

    #[test]
    fn a_job_claimed_again_is_not_written_with_the_old_token() {
        let story = job().called(Some(200)).stored().lost().claimed_by("b");
        let story = story.moved(|state| {
            state.status = Completed;
            state.claim = 1;
            state.owner = Some("a".to_owned());
        });
        assert_violation(story.row(None), "claim 1 had ended");
    }

    #[test]
    fn every_older_token_is_stale() {
        let story = job().lost().claimed_by("b").released();
        let story = story.moved(|state| state.claim = 1);
        let story = story.moved(|state| state.claim = 2).claimed_by("c");
        assert_violation(story.called(Some(200)).completed(), "claim 1 had ended");
    }

    #[test]
    fn a_released_job_is_not_written_by_its_former_owner() {
        let story = job().called(Some(500)).attempt_failed();
        let story = story.moved(|state| state.attempts += 1).claimed_by("b");
        assert_violation(
            story.called(Some(200)).completed(),
            "a write with a stale fencing token",
        );
    }

    #[test]
    fn an_ended_claim_is_not_resumed() {
        let story = job().released().moved(|state| {
            state.status = Processing;
            state.owner = Some("a".to_owned());
        });
        assert_violation(
            story.called(Some(200)).completed(),
            "a write with a stale fencing token",
        );
    }

    #[test]
    fn no_job_completes_under_a_lost_claim() {
        let story = job().called(Some(200)).event("claim_lost").completed();
        assert_violation(story, "which ended as COMPLETED");
    }

    #[test]
    fn the_event_matches_how_the_claim_ended() {
        for event in ["claim_lost", "given_back", "mislaid"] {
            let story = job().event(event).moved(|state| {
                state.status = Pending;
                state.owner = None;
                state.attempts += 1;
            });
            let story = story.claimed_by("b").called(Some(200)).completed();
            let verdict = Example::with(story).verdict();
            // The event lacks a transition, and the transition lacks an event.
            let rules: Vec<_> = verdict.by_rule().into_iter().collect();
            assert_eq!(rules, [(CheckRule::Fences, 2)], "{event}");
        }
    }

    #[test]
    fn an_event_names_the_claim_that_ended() {
        let verdict = Example::changed(|record| match record {
            Record::Event(event) if event.id == id(REPEATED) => event.claim = 7,
            _ => {}
        })
        .verdict();
        let rules: Vec<_> = verdict.by_rule().into_iter().collect();
        assert_eq!(rules, [(CheckRule::Fences, 2)]);
    }

    #[test]
    fn each_ended_claim_has_one_event() {
        let story = job().moved(|state| {
            state.status = Pending;
            state.owner = None;
        });
        let story = story.claimed_by("b").called(Some(200)).completed();
        assert_violation(story, "ended without an event: expected given_back");

        let mut example = Example::good();
        let event = example
            .records
            .iter()
            .find(|record| matches!(record, Record::Event(event) if event.id == id(REPEATED)));
        let event = event.unwrap().clone();
        example.records.push(event);
        example.assert_violation(
            CheckRule::Fences,
            id(REPEATED),
            "without a matching transition",
        );
    }

    #[test]
    fn a_claim_lost_beside_others_may_be_uncounted_near_the_poison_limit() {
        /// A job with `lost` lost claims, and then one more claim end that is not counted.
        fn story(lost: i64, event: &str) -> Story {
            let job = (0..lost).fold(Story::of(700).accepted(), |story, _| {
                story.claimed_by("a").lost()
            });
            let story = job.claimed_by("a").event(event).moved(|state| {
                state.status = Pending;
                state.owner = None;
            });
            story.claimed_by("b").called(Some(200)).completed()
        }
        Example::with(story(MAX_CLAIMS - 2, "claim_lost")).assert_passes();
        Example::with(story(MAX_CLAIMS - 2, "given_back")).assert_passes();
        let verdict = Example::with(story(MAX_CLAIMS - 3, "claim_lost")).verdict();
        let rules: Vec<_> = verdict.by_rule().into_iter().collect();
        assert_eq!(rules, [(CheckRule::Fences, 2)]);
    }

    #[test]
    fn the_last_attempt_may_be_recorded_once() {
        /// A job whose final attempt is recorded `times` times.
        fn story(times: usize) -> Story {
            let story = (1..ATTEMPTS).fold(Story::of(700).accepted(), |story, _| {
                story.claimed_by("a").attempt_failed()
            });
            let story = (0..times).fold(story.claimed_by("a"), |story, _| {
                story.event("attempt_failed")
            });
            let story = story.moved(|state| {
                state.status = Failed;
                state.attempts += 1;
            });
            story.row(Some("callback_failed"))
        }
        Example::with(story(0)).assert_passes();
        Example::with(story(1)).assert_passes();
        assert_violation(story(2), "which ended as FAILED");
    }

    #[test]
    fn an_event_requires_a_claim() {
        let story = Story::nothing_of(700).unanswered().event("claim_lost");
        assert_violation(story, "without a matching transition");
    }
}
