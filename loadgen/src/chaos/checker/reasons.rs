//! A job that is `FAILED` has a true reason.

use std::str::FromStr;

use storm_shared::models::Status;

use super::{delivered::is_success, index::Job, not_later};
use crate::chaos::history::{Limits, Received, Row};

pub(super) fn check(job: &Job<'_>, limits: &Limits) -> Vec<String> {
    let Some(row) = job.row else {
        return Vec::new();
    };
    match (row.held.status, row.failure_reason.as_deref()) {
        (Status::Failed, None) => vec!["it is FAILED without a reason".to_owned()],
        (Status::Failed, Some(reason)) => untrue(job, row, reason, limits),
        (status, Some(reason)) => vec![format!("it is {status} with the reason `{reason}`")],
        (_, None) => Vec::new(),
    }
}

fn untrue(job: &Job<'_>, row: &Row, reason: &str, limits: &Limits) -> Vec<String> {
    match Reason::from_str(reason) {
        Ok(Reason::CallbackFailed) => callback_failed(job, row, limits),
        Ok(Reason::Poison) => poison(job, row, limits),
        Ok(Reason::Sync) if job.is_sync() => Vec::new(),
        _ => vec![format!(
            "nothing in this run can end a job with the reason `{reason}`: {}",
            row.failure_detail.as_deref().unwrap_or("no detail")
        )],
    }
}

/// The reasons that a run can give rise to. The service's own list is not asked: it is judged here.
enum Reason {
    CallbackFailed,
    Poison,
    /// One of `/sync`'s.
    Sync,
}

impl FromStr for Reason {
    type Err = ();

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        match word {
            "callback_failed" => Ok(Self::CallbackFailed),
            "poison" => Ok(Self::Poison),
            "sync_timeout" | "client_gone" | "shut_down" => Ok(Self::Sync),
            _ => Err(()),
        }
    }
}

fn callback_failed(job: &Job<'_>, row: &Row, limits: &Limits) -> Vec<String> {
    let mut found = Vec::new();
    if !row.called_back {
        found.push("its callback failed, and it has no callback URL".to_owned());
    }
    if row.held.attempts != limits.attempts {
        found.push(format!(
            "its callback failed after {} attempts, and it has {}",
            row.held.attempts, limits.attempts
        ));
    }
    let successes = job.callbacks.iter().filter(|callback| is_success(callback));
    for callback in successes.filter(|callback| !went_astray(callback, job, row)) {
        found.push(format!(
            "its callback failed, and its receiver answered 2xx at {:.3}",
            callback.at
        ));
    }
    found
}

/// Whether a receiver's answer may have found nobody who could count it: the attempt was over, or its
/// claim was.
fn went_astray(callback: &Received, job: &Job<'_>, row: &Row) -> bool {
    let ended_after = job.excuses().any(|event| not_later(callback.at, event.at));
    // After the job's end only a worker that had lost it, frozen and awake again, can have called.
    let ended_before = row
        .completed_at
        .is_some_and(|end| !not_later(callback.at, end))
        && job.events.iter().any(|event| event.event == "claim_lost");
    ended_after || ended_before
}

fn poison(job: &Job<'_>, row: &Row, limits: &Limits) -> Vec<String> {
    let recorded = job
        .events
        .iter()
        .filter(|event| event.event == "claim_lost");
    // Those that it lost beside others are recorded too, and may not have been counted.
    let recorded = i64::try_from(recorded.count()).unwrap_or(i64::MAX);
    [(row.held.lost_claims, "counted"), (recorded, "recorded")]
        .into_iter()
        .filter(|(lost, _)| *lost < limits.max_claims)
        .map(|(lost, how)| {
            format!(
                "it was condemned after {lost} lost claims were {how}, and {} condemn a job",
                limits.max_claims
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use storm_shared::models::Status;

    use super::super::{
        Rule,
        example::{
            ATTEMPTS, Example, HEARD_TOO_LATE, MAX_CLAIMS, POISONOUS, Story, UNDELIVERABLE, id,
        },
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

    /// A job that has failed so often, and not ended yet.
    fn failing(times: i64) -> Story {
        let story = Story::of(700).accepted();
        (0..times).fold(story, |story, _| {
            story.claimed_by("a").called(Some(500)).attempt_failed()
        })
    }

    #[test]
    fn a_failed_job_has_a_reason_and_a_completed_one_has_none() {
        with_reason(UNDELIVERABLE, None).is_refused(
            Rule::Reasons,
            id(UNDELIVERABLE),
            "without a reason",
        );
        let completed = Example::changed(|record| match record {
            Record::Row(row) if row.id == id(0) => row.failure_reason = Some("poison".to_owned()),
            _ => {}
        });
        completed.is_refused(Rule::Reasons, id(0), "COMPLETED with the reason");
    }

    #[test]
    fn no_fault_that_is_done_here_can_be_the_services_own() {
        for reason in [
            "callback_refused",
            "internal_error",
            "invalid_row",
            "sync_timeout",
            "?",
        ] {
            with_reason(UNDELIVERABLE, Some(reason)).is_refused(
                Rule::Reasons,
                id(UNDELIVERABLE),
                "nothing in this run can end a job",
            );
        }
    }

    #[test]
    fn a_sync_request_fails_for_reasons_of_its_own() {
        for (reason, is_its_own) in [
            ("sync_timeout", true),
            ("client_gone", true),
            ("poison", false),
        ] {
            let story = Story::nothing_of(700).inserted_over();
            let mut example = Example::with(story);
            for record in &mut example.records {
                if let Record::Row(row) = record
                    && row.id == id(700)
                {
                    row.held.status = Status::Failed;
                    row.failure_reason = Some(reason.to_owned());
                } else if let Record::Moved(moved) = record
                    && moved.id == id(700)
                {
                    moved.after.status = Status::Failed;
                }
            }
            assert_eq!(example.verdict().passed(), is_its_own, "{reason}");
        }
    }

    #[test]
    fn a_callback_has_failed_only_when_every_attempt_has() {
        let early = failing(ATTEMPTS - 2).claimed_by("b").called(None);
        Example::with(early.callback_failed()).is_refused(
            Rule::Reasons,
            id(700),
            "after 3 attempts",
        );
        let late = failing(ATTEMPTS).claimed_by("b").called(None);
        Example::with(late.callback_failed()).is_refused(
            Rule::Reasons,
            id(700),
            "after 5 attempts",
        );
        let just_right = failing(ATTEMPTS - 1).claimed_by("b").called(None);
        Example::with(just_right.callback_failed()).is_accepted();
    }

    #[test]
    fn a_callback_that_was_answered_in_time_has_not_failed() {
        let story = failing(ATTEMPTS - 1).claimed_by("b").called(Some(200));
        Example::with(story.callback_failed()).is_refused(Rule::Reasons, id(700), "answered 2xx");
    }

    #[test]
    fn a_claim_that_was_lost_before_excuses_no_answer_to_a_later_one() {
        let story = (1..ATTEMPTS).fold(
            Story::of(700).accepted().claimed_by("a").lost(),
            |story, _| story.claimed_by("b").called(Some(500)).attempt_failed(),
        );
        let story = story.claimed_by("b").called(Some(200));
        Example::with(story.callback_failed()).is_refused(Rule::Reasons, id(700), "answered 2xx");
    }

    #[test]
    fn an_answer_after_the_end_is_excused_only_to_a_worker_that_had_lost_the_job() {
        let story = failing(ATTEMPTS - 2).claimed_by("a").given_back();
        let story = story.claimed_by("b").called(Some(500)).attempt_failed();
        let story = story.claimed_by("b").callback_failed().called(Some(200));
        Example::with(story).is_refused(Rule::Reasons, id(700), "answered 2xx");
        Example::good().is_accepted(); // where one had lost it
        assert!(
            Example::good()
                .records
                .iter()
                .any(|record| matches!(record, Record::Event(event)
                if event.id == id(HEARD_TOO_LATE) && event.event == "claim_lost"))
        );
    }

    #[test]
    fn a_job_that_is_not_called_back_can_not_fail_so() {
        let story = (1..ATTEMPTS).fold(Story::of(700).accepted(), |story, _| {
            story.claimed_by("a").attempt_failed()
        });
        let story = story.without_callback_url().claimed_by("a");
        Example::with(story.callback_failed()).is_refused(
            Rule::Reasons,
            id(700),
            "no callback URL",
        );
    }

    #[test]
    fn a_job_is_condemned_only_after_so_many_lost_claims() {
        let story = (2..MAX_CLAIMS).fold(Story::of(700).accepted(), |story, _| {
            story.claimed_by("a").lost()
        });
        let verdict = Example::with(story.claimed_by("a").condemned()).verdict();
        let found: Vec<_> = verdict
            .violations
            .iter()
            .map(|it| (it.rule, it.what.split(" were ").next().unwrap_or_default()))
            .collect();
        let too_few = (Rule::Reasons, "it was condemned after 4 lost claims");
        assert_eq!(found, [too_few, too_few]);
    }

    #[test]
    fn a_job_is_condemned_for_lost_claims_that_are_recorded() {
        let verdict = Example::without(
            |record| matches!(record, Record::Event(event) if event.id == id(POISONOUS) && event.claim == 2),
        )
        .verdict();
        let rules: Vec<_> = verdict.by_rule().into_iter().collect();
        assert_eq!(rules, [(Rule::Reasons, 1), (Rule::Fences, 1)]);
    }
}
