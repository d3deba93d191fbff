//! Rule `seen`: polls of a job are linearizable. A final status is stable, unless a redelivery
//! turns `FAILED` into `COMPLETED`, and an accepted job never returns `404` before it is deleted.

use storm_shared::models::Status;

use super::{index::JobHistory, is_final, not_later};
use crate::chaos::history::{HistoryLimits, Polled, Row};

pub(super) fn check(job: &JobHistory<'_>, _: &HistoryLimits) -> Vec<String> {
    let mut found = vanished(job);
    let ends = job.polls.iter().filter(|poll| saw_end(poll));
    // If polls saw two different final statuses, compare against the one that arrived first, or
    // against the one that a redelivery changes no more.
    let may_change =
        |poll: &Polled| poll.status == Some(Status::Failed) && job.redeemed().is_some();
    if let Some(end) = ends.min_by_key(|poll| (may_change(poll), poll.at)) {
        found.extend(went_back(job, end));
    }
    found
}

/// A `404` for a job that had been accepted or seen before the request was sent.
fn vanished(job: &JobHistory<'_>) -> Vec<String> {
    // A poll that was sent before the `202` arrived may have been answered before the commit. So
    // only polls sent afterwards count.
    let promised = job.acceptances.iter().map(|submitted| submitted.at);
    let found = job.polls.iter().filter(|poll| poll.status.is_some());
    let Some(known) = promised.chain(found.map(|poll| poll.at)).min() else {
        return Vec::new();
    };
    let unknown = job
        .polls
        .iter()
        .filter(|poll| poll.status.is_none() && poll.asked_at >= known)
        .filter(|poll| !job.may_be_deleted(poll.at));
    unknown
        .map(|poll| {
            format!(
                "a poll returned 404 at {:.3}, though the job was known since {known:.3}",
                poll.at
            )
        })
        .collect()
}

/// Observations that contradict the final status `end`: another final status at any time, a
/// non-final status in a poll sent later, or another status in the row.
fn went_back(job: &JobHistory<'_>, end: &Polled) -> Vec<String> {
    // A poll that overlaps `end` may have been answered first, so it may still see an earlier
    // status. A second final status is wrong at any time. A 404 is left to `vanished`.
    let contradicts = |poll: &&&Polled| {
        poll.status != end.status
            && poll.status.is_some()
            && (poll.asked_at >= end.at || saw_end(poll))
            && !is_redeemed(job, end, poll)
    };
    let seen = |status: Option<Status>| status.map_or("404", Status::as_str);
    let mut found: Vec<_> = job
        .polls
        .iter()
        .filter(contradicts)
        .map(|poll| {
            format!(
                "a poll returned {} at {:.3}, and another {} at {:.3}",
                seen(end.status),
                end.at,
                seen(poll.status),
                poll.at
            )
        })
        .collect();
    let is_other = |row: &&Row| Some(row.state.status) != end.status && job.redeemed().is_none();
    if let Some(row) = job.row.filter(is_other) {
        found.push(format!(
            "a poll returned {} at {:.3}, and its row is {}",
            seen(end.status),
            end.at,
            row.state.status
        ));
    }
    found
}

/// Whether two polls saw a job on both sides of the change that a redelivery makes: it was `FAILED`
/// at some time before that, and `COMPLETED` at some time after it.
fn is_redeemed(job: &JobHistory<'_>, one: &Polled, other: &Polled) -> bool {
    let (failed, completed) = match (one.status, other.status) {
        (Some(Status::Failed), Some(Status::Completed)) => (one, other),
        (Some(Status::Completed), Some(Status::Failed)) => (other, one),
        _ => return false,
    };
    job.redeemed().is_some_and(|redeemed| {
        not_later(failed.asked_at, redeemed.at) && not_later(redeemed.earliest(), completed.at)
    })
}

fn saw_end(poll: &Polled) -> bool {
    poll.status.is_some_and(is_final)
}

#[cfg(test)]
mod tests {
    use storm_shared::models::Status::{Completed, Failed, Pending, Processing};

    use super::super::{
        CheckRule,
        example::{Example, STEP, Story, id},
    };

    fn done() -> Story {
        let story = Story::of(700).accepted().claimed_by("a");
        story.called(Some(200)).completed()
    }

    #[track_caller]
    fn assert_violation(story: Story, what: &str) {
        Example::with(story).assert_violation(CheckRule::Seen, id(700), what);
    }

    #[test]
    fn a_final_status_is_stable() {
        for status in [Pending, Processing, Failed] {
            let story = done().polled(Some(Completed)).polled(Some(status));
            assert_violation(story, "a poll returned COMPLETED");
        }
    }

    #[test]
    fn a_poll_sent_before_the_end_may_return_an_earlier_status() {
        let before = done().polled(Some(Completed)).later(-STEP);
        Example::with(before.polled(Some(Processing))).assert_violation(
            CheckRule::Seen,
            id(700),
            "a poll returned COMPLETED",
        );
        let overlapping = done().polled(Some(Completed)).later(-STEP * 3 / 2);
        Example::with(overlapping.polled(Some(Processing))).assert_passes();
    }

    #[test]
    fn overlapping_polls_return_the_same_final_status() {
        let overlapping = done().polled(Some(Completed)).later(-STEP * 3 / 2);
        assert_violation(overlapping.polled(Some(Failed)), "and another FAILED at");
    }

    #[test]
    fn the_row_has_the_final_status_that_was_polled() {
        let story = Story::of(700).accepted().polled(Some(Failed));
        let story = story.claimed_by("a").called(Some(200));
        assert_violation(story.completed(), "and its row is COMPLETED");
    }

    #[test]
    fn an_accepted_job_never_returns_404() {
        assert_violation(done().polled(None), "a poll returned 404");
        let story = Story::of(700).accepted().polled(None).claimed_by("a");
        assert_violation(story.called(Some(200)).completed(), "a poll returned 404");
    }

    #[test]
    fn a_job_that_was_found_never_returns_404_later() {
        let story = Story::of(700)
            .unanswered()
            .polled(Some(Pending))
            .polled(None);
        let story = story.claimed_by("a").called(Some(200));
        assert_violation(story.completed(), "a poll returned 404");
    }

    #[test]
    fn a_job_may_return_404_before_its_202() {
        let story = Story::of(700).polled(None).accepted().claimed_by("a");
        Example::with(story.called(Some(200)).completed()).assert_passes();
        // Sent before the 202 arrived; the response came after it.
        let story = Story::of(700).accepted().later(-STEP * 3 / 2).polled(None);
        let story = story.claimed_by("a").called(Some(200));
        Example::with(story.completed()).assert_passes();
    }
}
