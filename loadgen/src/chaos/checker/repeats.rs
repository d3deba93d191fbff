//! Rule `repeats`: every duplicate delivery is explained by a recorded event (at-least-once).
//!
//! Each claim makes at most one attempt, and each claim that does not end its job, or redelivery,
//! ends with one event. A callback that goes out again within an attempt is an event too
//! (`resent`), recorded before it is sent. So at least k - 1 events and beginnings of a redelivery
//! precede the k-th delivery.

use jiff::Timestamp;

use super::{index::JobHistory, not_later};
use crate::chaos::history::{HistoryLimits, Received};

/// The cause of a callback that was asked for again.
pub(in crate::chaos) const REDELIVERY: &str = "redelivery";

pub(super) fn check(job: &JobHistory<'_>, _: &HistoryLimits) -> Vec<String> {
    explained(job)
        .into_iter()
        .filter(|(_, cause)| cause.is_none())
        .map(|(callback, _)| {
            format!(
                "the duplicate delivery at {:.3} is unexplained: no event precedes it",
                callback.at
            )
        })
        .collect()
}

/// What explains one duplicate delivery.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cause<'a> {
    /// Its earliest moment.
    at: Timestamp,
    /// The kind of event, or [`REDELIVERY`].
    pub(super) what: &'a str,
}

/// Every delivery but the first, with its cause: the latest earlier one that is not used yet. Each
/// cause explains one duplicate.
pub(super) fn explained<'a>(job: &JobHistory<'a>) -> Vec<(&'a Received, Option<Cause<'a>>)> {
    // Causes and callbacks are both in time order, so one pass is enough. The rule only needs some
    // earlier cause; the latest is taken because the summary counts duplicates by their cause.
    let mut causes = causes(job).into_iter().peekable();
    let mut unused = Vec::new();
    let repeats = job.callbacks.iter().skip(1).map(|callback| {
        while let Some(cause) = causes.next_if(|cause| not_later(cause.at, callback.at)) {
            unused.push(cause);
        }
        (*callback, unused.pop())
    });
    repeats.collect()
}

/// By time.
fn causes<'a>(job: &JobHistory<'a>) -> Vec<Cause<'a>> {
    let events = job.explaining_events().map(|event| Cause {
        at: event.earliest(),
        what: &event.event,
    });
    let redeliveries = job.redeliveries.iter().filter_map(|series| {
        let begun = series.begun()?;
        Some(Cause {
            at: begun.earliest(),
            what: REDELIVERY,
        })
    });
    let mut causes: Vec<_> = events.chain(redeliveries).collect();
    causes.sort_by_key(|cause| cause.at);
    causes
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::super::{
        CheckRule,
        example::{ATTEMPTS, Example, RELEASED, Story, id},
        index::Index,
    };
    use super::explained;

    #[test]
    fn a_duplicate_without_an_event_is_unexplained() {
        let story = Story::of(700).accepted().claimed_by("a");
        let story = story.called(None).called(Some(200)).completed();
        Example::with(story).assert_violation(
            CheckRule::Repeats,
            id(700),
            "is unexplained: no event precedes it",
        );
    }

    #[test]
    fn a_duplicate_after_the_end_needs_an_event_too() {
        let story = Story::of(700).accepted().claimed_by("a");
        let story = story.called(Some(200)).completed().called(Some(200));
        Example::with(story).assert_violation(
            CheckRule::Repeats,
            id(700),
            "is unexplained: no event precedes it",
        );
    }

    #[test]
    fn a_recorded_resend_explains_one_duplicate_within_a_claim() {
        let story = Story::of(700).accepted().claimed_by("a").called(None);
        let story = story.event("resent").called(Some(200));
        Example::with(story.completed()).assert_passes();
        let story = Story::of(700).accepted().claimed_by("a").called(None);
        let story = story.event("resent").called(None).called(Some(200));
        Example::with(story.completed()).assert_violation(
            CheckRule::Repeats,
            id(700),
            "is unexplained: no event precedes it",
        );
    }

    #[test]
    fn a_resend_before_a_crash_is_explained_beside_the_lost_claim() {
        let story = Story::of(700).accepted().claimed_by("a").called(None);
        let story = story.event("resent").called(None).lost();
        let story = story.claimed_by("b").called(Some(200));
        Example::with(story.completed()).assert_passes();
    }

    #[test]
    fn one_event_explains_one_duplicate() {
        let story = Story::of(700)
            .accepted()
            .claimed_by("a")
            .called(None)
            .lost();
        let story = story.claimed_by("b").called(Some(200));
        Example::with(story.completed().called(Some(200))).assert_violation(
            CheckRule::Repeats,
            id(700),
            "is unexplained: no event precedes it",
        );
    }

    #[test]
    fn the_event_of_the_final_attempt_explains_no_duplicate() {
        let story = (1..ATTEMPTS).fold(Story::of(700).accepted(), |story, _| {
            story.claimed_by("a").called(Some(500)).attempt_failed()
        });
        let story = story.claimed_by("a").called(Some(500)).callback_failed();
        Example::with(story.called(Some(500))).assert_violation(
            CheckRule::Repeats,
            id(700),
            "is unexplained: no event precedes it",
        );
    }

    #[test]
    fn an_event_does_not_explain_an_earlier_duplicate() {
        let story = Story::of(700).accepted().claimed_by("a");
        let story = story.called(None).called(None).lost();
        let story = story.claimed_by("b").called(Some(200)).completed();
        Example::with(story).assert_violation(
            CheckRule::Repeats,
            id(700),
            "is unexplained: no event precedes it",
        );
    }

    #[test]
    fn clock_readings_of_two_processes_have_a_tolerance() {
        /// A callback with a timestamp this long before the event that explains it.
        fn story(before: SignedDuration) -> Story {
            let story = Story::of(700).accepted().claimed_by("a").called(None);
            let lost_at = story.now;
            let story = story.lost().claimed_by("b");
            let back = story.now.duration_since(lost_at) + before;
            let story = story.later(-back).called(None).later(back);
            // The claim that completes the job has its own success.
            story.event("resent").called(Some(200)).completed()
        }
        Example::with(story(SignedDuration::from_millis(5))).assert_passes();
        let too_much = SignedDuration::from_millis(6);
        Example::with(story(too_much)).assert_violation(
            CheckRule::Repeats,
            id(700),
            "is unexplained: no event precedes it",
        );
    }

    #[test]
    fn a_duplicate_is_explained_by_the_latest_earlier_event() {
        let example = Example::good();
        let index = Index::of(&example.records);
        let job = index.jobs().find(|job| job.id == id(RELEASED)).unwrap();
        let last = job.events.iter().find(|event| event.claim == 2).unwrap();
        let causes: Vec<_> = explained(job)
            .into_iter()
            .map(|(_, cause)| cause.map(|cause| (cause.what, cause.at)))
            .collect();
        assert_eq!(causes, [Some(("given_back", last.at))]);
    }
}
