//! How long jobs have waited, for the metrics.
//!
//! By the wall clock: the submission is a moment of the API's, which may run on another host.
//! Nothing acts on these times. A clock that is set makes some of them wrong, and none negative.

use std::time::Duration;

use jiff::Timestamp;
use storm_shared::{
    models::Stage,
    services::store::{InvalidJob, Job, Outcome, Settlement, Work},
};

/// The time from the submission to the claim, for each job that was claimed now for the first time.
pub(super) fn for_first_claim(
    claimed: &[Result<Job, InvalidJob>],
) -> impl Iterator<Item = Duration> {
    let now = Timestamp::now();
    let new = claimed.iter().flatten().filter(|job| job.claim.number == 1);
    let submitted = new.filter_map(|job| job.created_at);
    submitted.map(move |submitted| between(submitted, now))
}

/// The time from the submission of a job to the 2xx that ends it. `None` if it ends otherwise, or
/// not yet, and for a redelivery.
pub(super) fn until_callback(job: &Job, settlement: &Settlement) -> Option<Duration> {
    let Settlement::Finish {
        attempt: Some(attempt),
        outcome: Outcome::Completed,
    } = settlement
    else {
        return None;
    };
    // Without a callback, a job ends with the attempt at its work.
    let is_callback = attempt.stage == Stage::Callback && job.claim.work == Work::Job;
    let submitted = job.created_at.filter(|_| is_callback)?;
    Some(between(submitted, attempt.started_at) + attempt.duration)
}

fn between(earlier: Timestamp, later: Timestamp) -> Duration {
    let time = later.duration_since(earlier);
    Duration::try_from(time).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jiff::Timestamp;
    use storm_shared::{
        models::{
            AttemptClass, Failure, FailureReason, HandlerName, RequestId, Stage, Traceparent,
        },
        services::store::{AttemptRecord, Claim, Job, Outcome, OwnerId, Settlement, Work},
    };

    use super::{for_first_claim, until_callback};

    const SECOND: Duration = Duration::from_secs(1);

    fn job(work: Work, number: i64, submitted: Timestamp) -> Job {
        let id = RequestId::generate();
        Job {
            claim: Claim {
                id,
                work,
                owner: OwnerId::NOBODY,
                number,
            },
            handler: HandlerName::REPORT,
            input: "{}".into(),
            report: None,
            is_long: false,
            worked: None,
            callback: None,
            traceparent: Traceparent::of(id),
            attempts: 0,
            attempts_before: 0,
            created_by: None,
            created_at: Some(submitted),
            parked_for: Duration::ZERO,
            bytes: 0,
        }
    }

    fn attempt(started_at: Timestamp) -> AttemptRecord {
        AttemptRecord {
            number: 1,
            stage: Stage::Callback,
            started_at,
            duration: SECOND,
            class: AttemptClass::Success,
            status: Some(200),
            error: None,
            internal_detail: None,
        }
    }

    #[test]
    fn only_first_claims_are_measured_and_a_clock_set_back_counts_as_no_wait() {
        let now = Timestamp::now();
        let (before, ahead) = (now - 60 * SECOND, now + 60 * SECOND);
        let new = [job(Work::Job, 1, before), job(Work::Job, 1, ahead)];
        let again = [job(Work::Job, 2, before), job(Work::Redelivery, 3, before)];
        let claimed: Vec<_> = new.into_iter().chain(again).map(Ok).collect();
        let waits: Vec<_> = for_first_claim(&claimed).collect();
        assert_eq!(waits.len(), 2);
        assert!(waits[0] >= 60 * SECOND && waits[1] == Duration::ZERO);
    }

    #[test]
    fn the_time_to_a_callback_ends_with_the_2xx_of_the_job_itself() {
        let submitted = Timestamp::now();
        let finish = |outcome| Settlement::Finish {
            attempt: Some(attempt(submitted + 4 * SECOND)),
            outcome,
        };
        let completed = finish(Outcome::Completed);
        let first = job(Work::Job, 2, submitted);
        assert_eq!(until_callback(&first, &completed), Some(5 * SECOND));
        let redelivery = job(Work::Redelivery, 3, submitted);
        assert_eq!(until_callback(&redelivery, &completed), None);
        let failure = Failure::new(FailureReason::CallbackFailed, "");
        let failed = finish(Outcome::Failed(failure));
        assert_eq!(until_callback(&first, &failed), None);
        let polled = Settlement::Finish {
            attempt: None,
            outcome: Outcome::Completed,
        };
        assert_eq!(until_callback(&first, &polled), None, "it has no callback");
        let worked = Settlement::Finish {
            attempt: Some(AttemptRecord {
                stage: Stage::Work,
                ..attempt(submitted)
            }),
            outcome: Outcome::Completed,
        };
        assert_eq!(until_callback(&first, &worked), None, "nor has this one");
    }
}
