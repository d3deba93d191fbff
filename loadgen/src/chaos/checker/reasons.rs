//! Rule `reasons`: the failure reason of a `FAILED` job is supported by the history.

use std::str::FromStr;

use storm_shared::models::Status;

use super::{
    delivered::is_success,
    index::JobHistory,
    not_later,
    series::{Series, is_cancel},
};
use crate::chaos::history::{HistoryEvent, HistoryLimits, Received, Row, RowKind, Transition};

pub(super) fn check(job: &JobHistory<'_>, limits: &HistoryLimits) -> Vec<String> {
    let Some(row) = job.row else {
        return Vec::new();
    };
    let mut found: Vec<_> = wrong_reason(row).into_iter().collect();
    let all: Vec<_> = job.series().collect();
    // A cancelled redelivery leaves no reason: the row keeps the one that it had.
    let leaves_none = |series: &Series<'_>, end: &Transition| {
        series.kind == RowKind::Redelivery && is_cancel(end)
    };
    let has_ended = |series: &&Series<'_>| {
        let end = series.end();
        end.is_some_and(|end| !leaves_none(series, end))
    };
    let last_ended = all.iter().rposition(has_ended);
    for (index, series) in all.iter().enumerate() {
        let Some(end) = series.end_as(Status::Failed) else {
            continue;
        };
        if leaves_none(series, end) {
            continue;
        }
        // A redelivery that fails leaves its reason in the row, over that of the job. A `COMPLETED`
        // job keeps none, so the reason is what the transition shows.
        let recorded = row.failure_reason.as_deref();
        let recorded = recorded.filter(|_| last_ended == Some(index));
        // Why the work failed stays the reason, whatever else ends it.
        let reason = job
            .work_failure()
            .filter(|_| !is_cancel(end) && recorded.is_none());
        let reason = recorded.or(reason).unwrap_or_else(|| shown_by(end));
        let next = all.get(index + 1).and_then(|next| next.begun());
        let failed = FailedSeries {
            job,
            series,
            end,
            next,
        };
        let wrong = failed.untrue(reason, limits).into_iter();
        found.extend(wrong.map(|what| series.name(&what)));
    }
    found
}

fn wrong_reason(row: &Row) -> Option<String> {
    match (row.state.status, row.failure_reason.as_deref()) {
        (Status::Failed, None) => Some("it is FAILED without a reason".to_owned()),
        (Status::Failed, Some(_)) | (_, None) => None,
        (status, Some(reason)) => Some(format!("it is {status} with the reason `{reason}`")),
    }
}

fn shown_by(end: &Transition) -> &'static str {
    let before = end.before.as_ref().map_or(0, |before| before.lost_claims);
    if is_cancel(end) {
        "cancelled"
    } else if end.after.lost_claims > before {
        "poison"
    } else {
        "callback_failed"
    }
}

/// In the detail of a failure whose final attempt at the callback got no answer in time.
const TIMED_OUT: &str = "the last: timed out";

/// A job or a redelivery that has failed.
struct FailedSeries<'s, 'a> {
    job: &'s JobHistory<'a>,
    series: &'s Series<'a>,
    end: &'s Transition,
    /// The beginning of the next series of the job.
    next: Option<&'s Transition>,
}

/// The reasons that a run can cause. This does not use the service's own list, which is under test.
enum Reason {
    CallbackFailed,
    Poison,
    Cancelled,
    /// The handler could not do the work.
    Work,
    /// One of the reasons of `/sync`.
    Sync,
}

impl FromStr for Reason {
    type Err = ();

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        match word {
            "callback_failed" => Ok(Self::CallbackFailed),
            "poison" => Ok(Self::Poison),
            "cancelled" => Ok(Self::Cancelled),
            "work_failed" | "work_timed_out" => Ok(Self::Work),
            "sync_timeout" | "client_gone" | "shut_down" => Ok(Self::Sync),
            _ => Err(()),
        }
    }
}

impl FailedSeries<'_, '_> {
    /// What contradicts this reason.
    fn untrue(&self, reason: &str, limits: &HistoryLimits) -> Vec<String> {
        match Reason::from_str(reason) {
            // Who asked for it is a matter of the rule `cancels`.
            Ok(Reason::Cancelled) if is_cancel(self.end) => Vec::new(),
            Ok(Reason::Cancelled) => {
                vec!["its reason is cancelled, and it ended otherwise".to_owned()]
            }
            _ if is_cancel(self.end) => {
                vec![format!("it was cancelled, and its reason is {reason}")]
            }
            _ if self
                .job
                .work_failure()
                .is_some_and(|failure| failure != reason) =>
            {
                vec![format!(
                    "its work failed for good, and its reason is {reason}"
                )]
            }
            // What the handler answered is a matter of the rule `work`.
            Ok(Reason::Work) if self.job.work_failure().is_some() => self.untold(limits),
            Ok(Reason::CallbackFailed) => self.callback_failed(limits),
            Ok(Reason::Poison) => self.poison(limits),
            Ok(Reason::Sync) if self.job.is_sync() => Vec::new(),
            // Other reasons mean a bug, a damaged row or a refused URL, or belong to `/sync`. No
            // fault of a run causes them for an `/async` job.
            _ => {
                let detail = self.job.row.and_then(|row| row.failure_detail.as_deref());
                vec![format!(
                    "no fault of this run can cause the reason `{reason}`: {}",
                    detail.unwrap_or("no detail")
                )]
            }
        }
    }

    /// A job whose work failed that ended before its callback had told so, or had no attempt left.
    fn untold(&self, limits: &HistoryLimits) -> Vec<String> {
        let called_back = self.job.row.is_some_and(|row| row.called_back);
        let mut callbacks = self.job.callbacks.iter().copied();
        let told = callbacks
            .any(|it| is_success(it) && self.is_its_own(it) && not_later(it.at, self.end.at));
        let before = self
            .end
            .before
            .as_ref()
            .map_or(0, |before| before.lost_claims);
        let poison = self.end.after.lost_claims > before;
        let attempts = self.series.attempts(&self.end.after);
        if !called_back || told || attempts >= limits.attempts {
            Vec::new()
        } else if poison {
            self.poison(limits)
        } else {
            vec![format!(
                "its work failed, and it ended after {attempts} attempts to tell so, none of which \
                 was answered 2xx"
            )]
        }
    }

    fn callback_failed(&self, limits: &HistoryLimits) -> Vec<String> {
        let mut found = Vec::new();
        if self.job.row.is_some_and(|row| !row.called_back) {
            found.push("its reason is callback_failed, and it has no callback URL".to_owned());
        }
        // No attempt is final before the last: the receivers never answer 410, and the SSRF policy
        // allows their address.
        let attempts = self.series.attempts(&self.end.after);
        if attempts != limits.attempts {
            found.push(format!(
                "its callback failed after {attempts} attempts, and it has {}",
                limits.attempts
            ));
        }
        let callbacks = self.job.callbacks.iter().copied();
        let successes = callbacks.filter(|it| is_success(it) && self.is_its_own(it));
        for callback in successes.filter(|callback| !self.outcome_unknown(callback)) {
            found.push(format!(
                "its callback failed, and its receiver answered 2xx at {:.3}",
                callback.at
            ));
        }
        found
    }

    /// Whether a callback was received after its beginning, and before that of the next series.
    fn is_its_own(&self, callback: &Received) -> bool {
        let begun = self.series.begun().map(Transition::earliest);
        begun.is_none_or(|begun| begun <= callback.at)
            && self.next.is_none_or(|next| callback.at < next.earliest())
    }

    /// Whether the worker may have missed the receiver's `2xx`: the attempt had timed out, or its
    /// claim had ended.
    fn outcome_unknown(&self, callback: &Received) -> bool {
        // A claim's event follows its delivery, so an earlier event excuses nothing.
        let ended_after = self
            .job
            .explaining_events()
            .filter(|event| self.series.was_held_under(event.claim))
            .any(|event| not_later(callback.at, event.at));
        // After the end only a worker that was frozen past its lease can have sent a callback.
        let ended_before = !not_later(callback.at, self.end.earliest())
            && self.job.events.iter().any(|event| is_lost_claim(event));
        ended_after || ended_before || self.last_attempt_timed_out(callback)
    }

    /// Whether this callback is of the final attempt, and that one timed out. No event follows it,
    /// so its own detail has to tell.
    fn last_attempt_timed_out(&self, callback: &Received) -> bool {
        let detail = self.job.row.and_then(|row| row.failure_detail.as_deref());
        let mut earlier = self.job.explaining_events();
        detail.is_some_and(|detail| detail.contains(TIMED_OUT))
            && not_later(callback.at, self.end.at)
            && earlier.all(|event| not_later(event.at, callback.at))
    }

    fn poison(&self, limits: &HistoryLimits) -> Vec<String> {
        let events = self.job.events.iter();
        let recorded =
            events.filter(|event| is_lost_claim(event) && self.series.was_held_under(event.claim));
        // Claims lost beside other jobs are recorded too, and may not be counted.
        let recorded = i64::try_from(recorded.count()).unwrap_or(i64::MAX);
        let counted = self.end.after.lost_claims;
        [(counted, "counted"), (recorded, "recorded")]
            .into_iter()
            .filter(|(lost, _)| *lost < limits.max_claims)
            .map(|(lost, how)| {
                format!(
                    "it was declared poison after {lost} lost claims were {how}; the limit is {}",
                    limits.max_claims
                )
            })
            .collect()
    }
}

fn is_lost_claim(event: &HistoryEvent) -> bool {
    event.event == "claim_lost"
}

#[cfg(test)]
mod tests {
    use storm_shared::models::Status;

    use super::super::{
        CheckRule,
        example::{ATTEMPTS, Example, LATE_DELIVERY, MAX_CLAIMS, POISON, Story, UNDELIVERABLE, id},
    };
    use crate::chaos::history::Record;

    fn with_reason(of: u64, reason: Option<&str>) -> Example {
        Example::changed(|record| match record {
            Record::Row(row) if row.id == id(of) => {
                row.failure_reason = reason.map(str::to_owned);
            }
            _ => {}
        })
    }

    /// An unfinished job with this many failed attempts.
    fn failing(times: i64) -> Story {
        let story = Story::of(700).accepted();
        (0..times).fold(story, |story, _| {
            story.claimed_by("a").called(Some(500)).attempt_failed()
        })
    }

    #[test]
    fn a_failed_job_has_a_reason_and_a_completed_one_has_none() {
        with_reason(UNDELIVERABLE, None).assert_violation(
            CheckRule::Reasons,
            id(UNDELIVERABLE),
            "without a reason",
        );
        let completed = Example::changed(|record| match record {
            Record::Row(row) if row.id == id(0) => row.failure_reason = Some("poison".to_owned()),
            _ => {}
        });
        completed.assert_violation(CheckRule::Reasons, id(0), "COMPLETED with the reason");
    }

    #[test]
    fn internal_reasons_are_violations() {
        for reason in [
            "callback_refused",
            "internal_error",
            "invalid_row",
            "sync_timeout",
            "?",
        ] {
            with_reason(UNDELIVERABLE, Some(reason)).assert_violation(
                CheckRule::Reasons,
                id(UNDELIVERABLE),
                "no fault of this run can cause the reason",
            );
        }
    }

    #[test]
    fn a_sync_request_has_its_own_reasons() {
        for (reason, is_its_own) in [
            ("sync_timeout", true),
            ("client_gone", true),
            ("poison", false),
        ] {
            let story = Story::nothing_of(700).inserted_final();
            let mut example = Example::with(story);
            for record in &mut example.records {
                if let Record::Row(row) = record
                    && row.id == id(700)
                {
                    row.state.status = Status::Failed;
                    row.failure_reason = Some(reason.to_owned());
                } else if let Record::Transition(moved) = record
                    && moved.id == id(700)
                {
                    moved.after.status = Status::Failed;
                }
            }
            assert_eq!(example.verdict().passed(), is_its_own, "{reason}");
        }
    }

    #[test]
    fn a_callback_fails_only_after_all_attempts() {
        let early = failing(ATTEMPTS - 2).claimed_by("b").called(None);
        Example::with(early.callback_failed()).assert_violation(
            CheckRule::Reasons,
            id(700),
            "after 3 attempts",
        );
        let late = failing(ATTEMPTS).claimed_by("b").called(None);
        Example::with(late.callback_failed()).assert_violation(
            CheckRule::Reasons,
            id(700),
            "after 5 attempts",
        );
        let just_right = failing(ATTEMPTS - 1).claimed_by("b").called(None);
        Example::with(just_right.callback_failed()).assert_passes();
    }

    #[test]
    fn a_callback_answered_2xx_in_time_has_not_failed() {
        let story = failing(ATTEMPTS - 1).claimed_by("b").called(Some(200));
        Example::with(story.callback_failed()).assert_violation(
            CheckRule::Reasons,
            id(700),
            "answered 2xx",
        );
    }

    #[test]
    fn a_2xx_is_excused_if_the_final_attempt_says_that_it_timed_out() {
        let detailed = |detail: &str| {
            let story = failing(ATTEMPTS - 1).claimed_by("b").called(Some(200));
            let mut example = Example::with(story.callback_failed());
            for record in &mut example.records {
                if let Record::Row(row) = record
                    && row.id == id(700)
                {
                    row.failure_detail = Some(detail.to_owned());
                }
            }
            example
        };
        let timed_out = "All 4 attempts failed; the last: timed out (stage: answer).";
        detailed(timed_out).assert_passes();
        let answered = "All 4 attempts failed; the last: HTTP status 500.";
        detailed(answered).assert_violation(CheckRule::Reasons, id(700), "answered 2xx");
    }

    #[test]
    fn an_earlier_lost_claim_does_not_excuse_a_2xx_to_a_later_claim() {
        let story = (1..ATTEMPTS).fold(
            Story::of(700).accepted().claimed_by("a").lost(),
            |story, _| story.claimed_by("b").called(Some(500)).attempt_failed(),
        );
        let story = story.claimed_by("b").called(Some(200));
        Example::with(story.callback_failed()).assert_violation(
            CheckRule::Reasons,
            id(700),
            "answered 2xx",
        );
    }

    #[test]
    fn a_2xx_after_the_end_is_excused_only_by_a_lost_claim() {
        let story = failing(ATTEMPTS - 2).claimed_by("a").released();
        let story = story.claimed_by("b").called(Some(500)).attempt_failed();
        let story = story.claimed_by("b").callback_failed().called(Some(200));
        Example::with(story).assert_violation(CheckRule::Reasons, id(700), "answered 2xx");
        Example::good().assert_passes(); // here a claim was lost
        assert!(
            Example::good()
                .records
                .iter()
                .any(|record| matches!(record, Record::Event(event)
                if event.id == id(LATE_DELIVERY) && event.event == "claim_lost"))
        );
    }

    #[test]
    fn a_job_without_a_callback_url_cannot_fail_with_callback_failed() {
        let story = (1..ATTEMPTS).fold(Story::of(700).accepted(), |story, _| {
            story.claimed_by("a").attempt_failed()
        });
        let story = story.without_callback_url().claimed_by("a");
        Example::with(story.callback_failed()).assert_violation(
            CheckRule::Reasons,
            id(700),
            "no callback URL",
        );
    }

    #[test]
    fn a_job_is_poison_only_after_max_claims_lost_claims() {
        let story = (2..MAX_CLAIMS).fold(Story::of(700).accepted(), |story, _| {
            story.claimed_by("a").lost()
        });
        let verdict = Example::with(story.claimed_by("a").dead_lettered()).verdict();
        let found: Vec<_> = verdict
            .violations
            .iter()
            .map(|it| (it.rule, it.what.split(" were ").next().unwrap_or_default()))
            .collect();
        let too_few = (
            CheckRule::Reasons,
            "it was declared poison after 4 lost claims",
        );
        assert_eq!(found, [too_few, too_few]);
    }

    #[test]
    fn each_lost_claim_of_a_poison_job_is_recorded() {
        let verdict = Example::without(
            |record| matches!(record, Record::Event(event) if event.id == id(POISON) && event.claim == 2),
        )
        .verdict();
        let rules: Vec<_> = verdict.by_rule().into_iter().collect();
        assert_eq!(rules, [(CheckRule::Reasons, 1), (CheckRule::Fences, 1)]);
    }
}
