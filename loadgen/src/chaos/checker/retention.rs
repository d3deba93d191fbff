//! Rule `retention`: a request is deleted only when it had ended long enough ago, by the store's
//! clock, and never during a redelivery. Nothing of it is seen after that.
//!
//! That only a finished request is deleted is a matter of the rule `ended`: its final state is that
//! before its deletion.

use std::time::Duration;

use jiff::Timestamp;

use super::{
    CLOCK_TOLERANCE,
    index::JobHistory,
    not_later,
    series::{Series, is_cancel, is_claim},
};
use crate::chaos::history::{Deleted, HistoryLimits};

pub(super) fn check(job: &JobHistory<'_>, limits: &HistoryLimits) -> Vec<String> {
    let Some(deleted) = job.deleted else {
        return Vec::new();
    };
    let mut found = Vec::new();
    if deleted.redelivering {
        found.push(format!(
            "it was deleted by {:.3}, during a redelivery",
            deleted.at
        ));
    }
    found.extend(wrong_age(job, deleted, limits));
    found.extend(seen_later(job, deleted));
    found
}

/// It had not ended long enough ago, or the row does not say when it ended.
fn wrong_age(job: &JobHistory<'_>, deleted: &Deleted, limits: &HistoryLimits) -> Option<String> {
    let Some(ended) = deleted.ended else {
        return Some("it was deleted, and the time of its end was not known".to_owned());
    };
    // A job without an end is reported by the rule `ended`.
    let (earliest, latest) = last_end(job)?;
    if !not_later(earliest, ended) || !not_later(ended, latest) {
        return Some(format!(
            "it ended at {ended:.3} by its row, and between {earliest:.3} and {latest:.3} by its \
             changes"
        ));
    }
    let retention = Duration::from_millis(limits.retention);
    (deleted.at < ended + retention - CLOCK_TOLERANCE).then(|| {
        format!(
            "it ended at {ended:.3}, and was deleted by {:.3}: it is kept for {retention:?}",
            deleted.at
        )
    })
}

/// The bounds of the moment at which the request ended, or its last redelivery did. The end is
/// decided after the claim, and a cancellation after the begin, and before the commit.
fn last_end(job: &JobHistory<'_>) -> Option<(Timestamp, Timestamp)> {
    let has_ended = |series: &&Series<'_>| series.end().is_some();
    let last = job.series().filter(has_ended).last()?;
    let end = last.end()?;
    let mut moves = last.moves.iter().rev().map(AsRef::as_ref);
    let claim = moves.find(|moved| is_claim(moved));
    // One group commit can begin a redelivery and cancel it: both were decided before that.
    let begun = last.begun().filter(|begun| begun.at < end.at);
    let begun = begun.or_else(|| job.own.begun());
    let decided = claim.filter(|_| !is_cancel(end)).or(begun);
    Some((decided?.earliest(), end.at))
}

/// What was seen of it later: a change, or an answer that found it.
fn seen_later(job: &JobHistory<'_>, deleted: &Deleted) -> Option<String> {
    let mut moves = job.series().flat_map(|series| &series.moves);
    if let Some(moved) = moves.find(|moved| !not_later(moved.earliest(), deleted.at)) {
        return Some(format!(
            "it was deleted by {:.3}, and changed by {:.3}",
            deleted.at, moved.at
        ));
    }
    let mut polls = job.polls.iter().filter(|poll| poll.status.is_some());
    let found = polls.find(|poll| !not_later(poll.asked_at, deleted.at))?;
    Some(format!(
        "it was deleted by {:.3}, and a poll found it at {:.3}",
        deleted.at, found.at
    ))
}

#[cfg(test)]
mod tests {
    use jiff::{SignedDuration, Timestamp};
    use storm_shared::models::Status::{Completed, Pending};

    use super::super::{
        CheckRule, check,
        example::{
            DELETED, Example, RETENTION, STEP, Story, assert_passes, assert_violation, completed,
            id, limits,
        },
    };
    use crate::chaos::history::{CancelAnswer, Record};

    /// A job that ended `age` ago, and when.
    fn of_age(age: SignedDuration) -> (Story, Timestamp) {
        let story = completed();
        let ended = story.now - STEP;
        (story.later(age - STEP), ended)
    }

    fn retention() -> SignedDuration {
        SignedDuration::try_from(RETENTION).unwrap()
    }

    #[test]
    fn a_redelivery_may_be_cancelled_in_the_commit_that_begins_it() {
        let story = completed().redelivering().later(-STEP * 2);
        let begun = story.now;
        let decided = Some(begun - STEP / 2);
        let story = story.redelivery_cancelled();
        let story = story.cancel_asked(CancelAnswer::Redelivery);
        assert_passes(story.later(retention()).deleted_as(decided, false));
        // In the next one, it was decided after the begin.
        let story = completed().redelivering().redelivery_cancelled();
        let story = story.cancel_asked(CancelAnswer::Redelivery);
        let early = story.later(retention()).deleted_as(decided, false);
        assert_violation(early, CheckRule::Retention, "by its row, and between");
    }

    #[test]
    fn a_request_is_kept_for_its_time() {
        let (story, ended) = of_age(retention());
        Example::with(story.deleted_as(Some(ended), false)).assert_passes();
        let (story, ended) = of_age(retention() - STEP);
        let early = story.deleted_as(Some(ended), false);
        assert_violation(early, CheckRule::Retention, "it is kept for 10s");
        let (story, _) = of_age(retention());
        let undated = story.deleted_as(None, false);
        assert_violation(undated, CheckRule::Retention, "was not known");
    }

    #[test]
    fn the_time_of_its_end_is_that_of_its_changes() {
        for by in [STEP * 3, -STEP] {
            let (story, ended) = of_age(retention() * 2);
            let wrong = story.deleted_as(Some(ended - by), false);
            assert_violation(wrong, CheckRule::Retention, "by its changes");
        }
        // Its redelivery ended later.
        let story = completed();
        let first = story.now - STEP;
        let story = story.redelivering().claimed_by("b").called(Some(200));
        let story = story.redelivered().later(retention());
        assert_violation(
            story.deleted_as(Some(first), false),
            CheckRule::Retention,
            "by its changes",
        );
    }

    #[test]
    fn the_end_of_a_cancelled_redelivery_counts() {
        let deleted = |by_last: bool| {
            let story = completed();
            let first = story.now - STEP;
            let story = story.redelivering().redelivery_cancelled();
            let last = story.now - STEP;
            let story = story.cancel_asked(CancelAnswer::Redelivery);
            let ended = if by_last { last } else { first };
            story.later(retention()).deleted_as(Some(ended), false)
        };
        Example::with(deleted(true)).assert_passes();
        assert_violation(deleted(false), CheckRule::Retention, "by its changes");
    }

    #[test]
    fn a_redelivery_keeps_its_request() {
        let (story, ended) = of_age(retention());
        let story = story.deleted_as(Some(ended), true);
        assert_violation(story, CheckRule::Retention, "during a redelivery");
    }

    #[test]
    fn an_unfinished_job_is_not_deleted() {
        let story = Story::of(700).accepted().claimed_by("a").row(None);
        let story = story.later(retention()).deleted_as(Some(id_time()), false);
        assert_violation(story, CheckRule::Ended, "its row is PROCESSING");
    }

    fn id_time() -> Timestamp {
        Story::of(700).now
    }

    #[test]
    fn nothing_is_seen_of_a_request_after_its_deletion() {
        let (story, ended) = of_age(retention());
        let found = story.deleted_as(Some(ended), false).later(STEP);
        let found = found.polled(Some(Completed));
        assert_violation(found, CheckRule::Retention, "a poll found it");
        let (story, ended) = of_age(retention());
        let changed = story.deleted_as(Some(ended), false).later(STEP);
        let verdict = Example::with(changed.moved(|state| state.status = Pending)).verdict();
        let rules: Vec<_> = verdict.by_rule().into_keys().collect();
        assert!(rules.contains(&CheckRule::Retention), "{rules:?}");
    }

    #[test]
    fn a_404_before_the_deletion_is_not_true() {
        let (story, ended) = of_age(retention());
        let story = story.polled(None).deleted_as(Some(ended), false);
        assert_violation(story, CheckRule::Seen, "a poll returned 404");
    }

    #[test]
    fn a_long_run_deletes_something() {
        let kept = |record: &Record| matches!(record, Record::Deleted(_));
        let mut example = Example::without(kept);
        // What was answered with a 404 after it.
        example.records.retain(|record| match record {
            Record::Polled(polled) => polled.status.is_some(),
            Record::RedeliveryAsked(asked) => {
                !(0..100_000)
                    .step_by(1000)
                    .any(|start| asked.id == id(start + DELETED))
                    || asked.answer == crate::chaos::history::RedeliveryAnswer::Accepted
            }
            _ => true,
        });
        example.assert_run_violation(CheckRule::Faults, "old requests were to be deleted");
        // A short one, or an older history, promises none.
        let mut limits = limits();
        limits.deletions = false;
        assert!(check(&example.records, &limits).passed());
    }
}
