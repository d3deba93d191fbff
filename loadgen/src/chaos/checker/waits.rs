//! Rule `waits`: no wait of a job or a redelivery is cut short or drawn out, whatever the wall
//! clock says, and no job ends before it was created.
//!
//! A busy machine makes everything late, so no rule limits how late. But the time at which a job is
//! due is decided before it is written, and a job is claimed after it is due.

use std::time::Duration;

use jiff::Timestamp;
use storm_shared::{config::RETRY_JITTER, models::Status};

use super::{
    CLOCK_TOLERANCE,
    index::JobHistory,
    not_later,
    pauses::{Pause, longest_paused},
    series::{Series, is_claim},
};
use crate::chaos::history::{HistoryLimits, RowKind, Transition};

pub(super) fn check(job: &JobHistory<'_>, limits: &HistoryLimits) -> Vec<String> {
    let mut found: Vec<String> = ended_too_early(job).into_iter().collect();
    // A history from before clock steps does not say when jobs were due.
    if limits.retry_delays.is_empty() {
        return found;
    }
    for series in job.series() {
        let wrong = wrong_waits(series, &job.pauses, limits);
        found.extend(wrong.iter().map(|what| series.name(what)));
    }
    found
}

fn wrong_waits(series: &Series<'_>, pauses: &[Pause], limits: &HistoryLimits) -> Vec<String> {
    let mut found = Vec::new();
    let mut claimed = None;
    for moved in &series.moves {
        found.extend(claimed_too_early(moved));
        let mut wait = wait_of(series, moved, limits);
        if let Some(wait) = wait.as_mut().filter(|wait| wait.is_park) {
            let from = claimed.unwrap_or_else(|| moved.earliest());
            let longest = longest_paused(pauses, from, moved.at, limits);
            wait.longest = wait.longest.max(longest.unwrap_or_default());
        }
        found.extend(wait.and_then(|wait| wrong_due(moved, claimed, &wait)));
        if is_claim(moved) {
            claimed = Some(moved.earliest());
        }
    }
    found
}

fn ended_too_early(job: &JobHistory<'_>) -> Option<String> {
    let row = job.row?;
    let (created, completed) = (row.created_at?, row.completed_at?);
    (completed < created)
        .then(|| format!("it was created at {created:.3}, and completed at {completed:.3}"))
}

/// A claim of a row that was not due yet. A new job may be claimed at once: its due time only
/// leaves it to its notification for a while.
fn claimed_too_early(moved: &Transition) -> Option<String> {
    let before = moved.before.as_ref().filter(|before| before.claim > 0)?;
    let due = moved.was_due.filter(|_| is_claim(moved))?;
    (!not_later(due, moved.at)).then(|| {
        format!(
            "claim {} was made by {:.3}, and was due at {due:.3}",
            before.claim + 1,
            moved.at
        )
    })
}

/// A due time that a wait of the contract can't have set. The wait began after the claim that it
/// ended, and before the transition was committed.
fn wrong_due(moved: &Transition, claimed: Option<Timestamp>, wait: &Wait) -> Option<String> {
    let Some(due) = moved.due else {
        return Some(format!("it waits since {:.3} with no due time", moved.at));
    };
    let latest = moved.at + wait.longest + CLOCK_TOLERANCE;
    if due > latest {
        return Some(format!(
            "it waits since {:.3}, and is due at {due:.3}: the longest wait is {:?}",
            moved.at, wait.longest
        ));
    }
    let earliest = claimed? + wait.shortest? - CLOCK_TOLERANCE;
    (due < earliest).then(|| {
        format!(
            "it waits since {:.3}, and is due at {due:.3}: the shortest wait is {:?}",
            moved.at,
            wait.shortest.unwrap_or_default()
        )
    })
}

/// The bounds of a wait.
struct Wait {
    /// From the claim that the wait ends; none if another worker may have decided it before that.
    shortest: Option<Duration>,
    longest: Duration,
    is_park: bool,
}

/// The wait that begins with a transition; none if the row does not wait after it.
fn wait_of(series: &Series<'_>, moved: &Transition, limits: &HistoryLimits) -> Option<Wait> {
    let after = &moved.after;
    if after.status != Status::Pending {
        return None;
    }
    let longest_park = Duration::from_millis(limits.longest_park);
    let Some(before) = &moved.before else {
        return Some(Wait {
            shortest: None,
            // A new job is left to its notification, for less than any park. A redelivery has none.
            longest: match moved.kind {
                RowKind::Job => longest_park,
                RowKind::Redelivery => Duration::ZERO,
            },
            is_park: false,
        });
    };
    if after.attempts > before.attempts {
        // The stack sets no jitter for callbacks. That of handlers only lengthens a wait.
        let (delays, failed, jitter) = if before.attempts < series.work_attempts {
            (&limits.work_retry_delays, before.attempts, RETRY_JITTER)
        } else {
            (&limits.retry_delays, series.attempts(before), 0.0)
        };
        // Another attempt than the last has a delay. The rule `moves` counts the attempts.
        let delay = Duration::from_millis(*delays.get(usize::try_from(failed).ok()?)?);
        return Some(Wait {
            shortest: Some(delay),
            longest: delay.mul_f64(1.0 + jitter),
            is_park: false,
        });
    }
    if after.parks > before.parks {
        return Some(Wait {
            shortest: Some(Duration::ZERO),
            longest: longest_park,
            is_park: true,
        });
    }
    // Released, reclaimed or unparked: due at once.
    Some(Wait {
        shortest: None,
        longest: Duration::ZERO,
        is_park: false,
    })
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;
    use storm_shared::config::RETRY_JITTER;

    use super::super::{
        CheckRule,
        example::{Example, LONGEST_PARK, POLLED, QUICK, RETRY_DELAY, STEP, Story, id, limits},
    };
    use crate::chaos::{checker::check, history::Record};

    fn job() -> Story {
        Story::of(700).accepted().claimed_by("a")
    }

    fn done(story: Story) -> Example {
        Example::with(story.claimed_by("b").called(Some(200)).completed())
    }

    #[track_caller]
    fn assert_violation(story: Story, what: &str) {
        done(story).assert_violation(CheckRule::Waits, id(700), what);
    }

    /// Stories whose last transition begins a wait, with the bounds of that wait: the shortest is
    /// from the claim, `STEP` before, and the longest from the transition.
    fn waits() -> [(Story, Option<SignedDuration>, SignedDuration); 5] {
        let delay = SignedDuration::try_from(RETRY_DELAY).unwrap();
        let park = SignedDuration::try_from(LONGEST_PARK).unwrap();
        let none = SignedDuration::ZERO;
        [
            (job().attempt_failed(), Some(delay), delay),
            (job().parked(), Some(none), park),
            (job().parked().unparked(), None, none),
            (job().released(), None, none),
            (job().lost(), None, none),
        ]
    }

    /// Slightly more than the tolerance for differing clocks.
    const MORE: SignedDuration = SignedDuration::from_millis(6);

    #[test]
    fn no_wait_is_longer_than_its_bound() {
        for (story, _, longest) in waits() {
            let moved = story.now - STEP;
            let days = SignedDuration::from_hours(72);
            let at_most = story.due_at(moved + longest).later(days);
            done(at_most).assert_passes();
        }
        for (story, _, longest) in waits() {
            let moved = story.now - STEP;
            let story = story.due_at(moved + longest + MORE);
            assert_violation(story.later(longest), "the longest wait is");
        }
    }

    #[test]
    fn a_wait_before_a_retry_of_work_has_the_jitter_of_handlers_at_most() {
        let longest = RETRY_DELAY.mul_f64(1.0 + RETRY_JITTER);
        let longest = SignedDuration::try_from(longest).unwrap();
        let retried = |wait: SignedDuration| {
            let story = Story::of_handler(700).claimed_by("a").worked(Some(500));
            let story = story.work_attempt_failed(Some(500));
            let moved = story.now - STEP;
            let story = story.due_at(moved + wait).later(wait).claimed_by("b");
            let story = story.worked(Some(200)).work_stored(Some(200));
            Example::with(story.called(Some(200)).completed())
        };
        let within = MORE - SignedDuration::from_millis(2);
        retried(longest + within).assert_passes();
        let late = retried(longest + MORE);
        late.assert_violation(CheckRule::Waits, id(700), "the longest wait is");
    }

    #[test]
    fn no_wait_is_shorter_than_its_bound() {
        for (story, shortest, _) in waits() {
            let claimed = story.now - STEP * 2;
            let Some(shortest) = shortest else { continue };
            assert_violation(
                story.due_at(claimed + shortest - MORE),
                "the shortest wait is",
            );
        }
        for (story, shortest, _) in waits() {
            let claimed = story.now - STEP * 2;
            let Some(shortest) = shortest else { continue };
            done(story.due_at(claimed + shortest)).assert_passes();
        }
    }

    #[test]
    fn the_bounds_allow_for_what_the_auditor_could_not_see() {
        // The auditor saw the claim late, and the retry early: both were made in between.
        let seen_late = |story: Story, early: SignedDuration| {
            let mut story = story.attempt_failed();
            for record in &mut story.records {
                if let Record::Transition(moved) = record {
                    moved.not_before = Some(moved.at - early);
                }
            }
            let claimed = story.now - STEP * 2;
            let delay = SignedDuration::try_from(RETRY_DELAY).unwrap();
            story.due_at(claimed + delay - MORE)
        };
        done(seen_late(job(), MORE)).assert_passes();
        assert_violation(
            seen_late(job(), SignedDuration::ZERO),
            "the shortest wait is",
        );
    }

    #[test]
    fn a_waiting_job_is_not_claimed_before_it_is_due() {
        let early = |by| {
            let story = job().attempt_failed();
            let due = story.now - STEP + SignedDuration::try_from(RETRY_DELAY).unwrap();
            let until_due = due.duration_since(story.now);
            story.later(until_due - by)
        };
        assert_violation(early(MORE), "claim 2 was made by");
        done(early(SignedDuration::from_millis(1))).assert_passes();
    }

    #[test]
    fn a_waiting_job_has_a_due_time() {
        let mut story = job().attempt_failed();
        story.due = None;
        if let Some(Record::Transition(moved)) = story.records.last_mut() {
            moved.due = None;
        }
        assert_violation(story, "with no due time");
    }

    #[test]
    fn no_job_is_due_later_than_its_notification_grace() {
        let days = SignedDuration::from_hours(72);
        let story = Story::of(700);
        let due = story.now + days;
        let story = story.due_at(due).accepted();
        assert_violation(story, "the longest wait is");
    }

    #[test]
    fn no_job_ends_before_it_was_created() {
        for job in [QUICK, POLLED] {
            let ended_at = |by| {
                Example::changed(|record| match record {
                    Record::Row(row) if row.id == id(job) => {
                        row.completed_at = row.created_at.map(|at| at + by);
                    }
                    _ => {}
                })
            };
            let earlier = SignedDuration::from_millis(-1);
            ended_at(earlier).assert_violation(CheckRule::Waits, id(job), "it was created at");
            ended_at(SignedDuration::ZERO).assert_passes();
        }
    }

    #[test]
    fn a_history_without_due_times_is_not_judged_by_them() {
        let mut story = job().attempt_failed();
        story.due = None;
        if let Some(Record::Transition(moved)) = story.records.last_mut() {
            moved.due = None;
        }
        let mut limits = limits();
        limits.retry_delays.clear();
        assert!(check(&done(story).records, &limits).passed());
    }
}
