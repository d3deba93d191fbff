//! A receiver heard twice only of jobs with a recorded event that explains it.
//!
//! Each claim makes at most one attempt, and a claim that doesn't end its job ends with one event. So
//! by the k-th callback at least k - 1 claims were over, and as many such events recorded.

use super::{index::Job, not_later};
use crate::chaos::history::{Event, Limits, Received};

pub(super) fn check(job: &Job<'_>, _: &Limits) -> Vec<String> {
    explained(job)
        .into_iter()
        .filter(|(_, event)| event.is_none())
        .map(|(callback, _)| {
            format!(
                "its receiver was called again at {:.3}, and no event explains it",
                callback.at
            )
        })
        .collect()
}

/// Every callback but the first, with the event that explains it: the last one before it that
/// explains no other.
pub(super) fn explained<'a>(job: &Job<'a>) -> Vec<(&'a Received, Option<&'a Event>)> {
    let mut events = job.excuses().peekable();
    let mut unused = Vec::new();
    let repeats = job.callbacks.iter().skip(1).map(|callback| {
        while let Some(event) = events.next_if(|event| not_later(event.at, callback.at)) {
            unused.push(event);
        }
        (*callback, unused.pop())
    });
    repeats.collect()
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::super::{
        Rule,
        example::{ATTEMPTS, Example, HANDED_ON, Story, id},
        index::Index,
    };
    use super::explained;

    #[test]
    fn a_repeat_without_an_event_is_unexplained() {
        let story = Story::of(700).accepted().claimed_by("a");
        let story = story.called(None).called(Some(200)).completed();
        Example::with(story).is_refused(Rule::Repeats, id(700), "no event explains it");
    }

    #[test]
    fn a_repeat_after_the_end_is_no_less_unexplained() {
        let story = Story::of(700).accepted().claimed_by("a");
        let story = story.called(Some(200)).completed().called(Some(200));
        Example::with(story).is_refused(Rule::Repeats, id(700), "no event explains it");
    }

    #[test]
    fn one_event_explains_one_repeat() {
        let story = Story::of(700)
            .accepted()
            .claimed_by("a")
            .called(None)
            .lost();
        let story = story.claimed_by("b").called(Some(200));
        Example::with(story.completed().called(Some(200))).is_refused(
            Rule::Repeats,
            id(700),
            "no event explains it",
        );
    }

    #[test]
    fn the_record_of_the_last_attempt_explains_no_other() {
        let story = (1..ATTEMPTS).fold(Story::of(700).accepted(), |story, _| {
            story.claimed_by("a").called(Some(500)).attempt_failed()
        });
        let story = story.claimed_by("a").called(Some(500)).callback_failed();
        Example::with(story.called(Some(500))).is_refused(
            Rule::Repeats,
            id(700),
            "no event explains it",
        );
    }

    #[test]
    fn an_event_explains_nothing_that_was_before_it() {
        let story = Story::of(700).accepted().claimed_by("a");
        let story = story.called(None).called(None).lost();
        let story = story.claimed_by("b").called(Some(200)).completed();
        Example::with(story).is_refused(Rule::Repeats, id(700), "no event explains it");
    }

    #[test]
    fn two_processes_may_read_the_clock_in_the_wrong_order() {
        /// A callback that seems to come so much before the event that explains it.
        fn story(before: SignedDuration) -> Story {
            let story = Story::of(700).accepted().claimed_by("a").called(None);
            let lost_at = story.now;
            let story = story.lost().claimed_by("b");
            let back = story.now.duration_since(lost_at) + before;
            let story = story.later(-back).called(Some(200));
            story.later(back).completed()
        }
        Example::with(story(SignedDuration::from_millis(5))).is_accepted();
        let too_much = SignedDuration::from_millis(6);
        Example::with(story(too_much)).is_refused(Rule::Repeats, id(700), "no event explains it");
    }

    #[test]
    fn a_repeat_is_explained_by_the_last_event_before_it() {
        let example = Example::good();
        let index = Index::of(&example.records);
        let job = index.jobs().find(|job| job.id == id(HANDED_ON)).unwrap();
        let kinds: Vec<_> = explained(job)
            .into_iter()
            .map(|(_, event)| event.map(|event| (event.event.as_str(), event.claim)))
            .collect();
        assert_eq!(kinds, [Some(("given_back", 2))]);
    }
}
