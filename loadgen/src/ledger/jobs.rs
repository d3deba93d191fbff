//! The outcome of one job, and the statistics of all jobs.

use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use storm_shared::models::RequestId;

use crate::{
    deviation::Deviation,
    latency::{Latencies, Percentiles, as_millis},
    signatures::SignatureCounts,
    thresholds::JobFigures,
};

/// What a `202` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The id of the job.
    pub id: RequestId,
    /// When the job should be done; none if the API doesn't say.
    pub expected_at: Option<Timestamp>,
}

/// Two `202` answers had the same id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DuplicateId;

/// The end of a job, as the API reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobEnd {
    /// The job is `COMPLETED`.
    Completed {
        /// The report, or what the handler has answered, as JSON.
        result: String,
        /// The time from acceptance to completion, by the API's clock.
        took: Duration,
        /// When it was completed, by the API's clock.
        completed_at: Timestamp,
    },
    /// The job is `FAILED`.
    Failed,
}

/// What has become of a run's jobs, while it runs.
#[derive(Clone, Debug)]
pub struct JobsSoFar {
    /// Jobs with a `202`.
    pub accepted: u64,
    /// Those whose end is not known yet.
    pub open: u64,
    /// Callbacks with a wrong field, or with other bytes than the job's first one.
    pub wrong: u64,
    /// Jobs with status `FAILED`.
    pub failed: u64,
    /// The times to completion of correct jobs.
    pub times: Latencies,
}

/// The statistics of a run's jobs. Durations are milliseconds in JSON.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct JobSummary {
    /// Jobs with a `202`.
    pub accepted: u64,
    /// Jobs whose first callback (or polled result) was correct.
    pub right: u64,
    /// Accepted jobs without a callback or polled result, although the run waited for it.
    pub lost: u64,
    /// The same in an interrupted run, which did not wait: nothing is known about them.
    pub not_awaited: u64,
    /// Repeated callbacks with the same bytes. Delivery is at least once, so they are allowed.
    pub repeated: u64,
    /// Callbacks with a wrong field, or with other bytes than the job's first one.
    pub wrong: u64,
    /// Jobs with status `FAILED`. Reports fail only if they are polled: no callback tells of that.
    pub failed: u64,
    /// Callbacks with an id that no `202` had: the `202` was not read, or the sender is unknown.
    pub unexpected: u64,
    /// The signature checks. A job whose first callback has an invalid signature is not correct.
    pub signatures: SignatureCounts,
    /// The duration of a report without any queueing; zero for jobs of a handler.
    #[serde(rename = "ideal_ms", serialize_with = "as_millis")]
    pub ideal: Duration,
    /// For correct jobs: the time from the moment the request was due to the callback's arrival.
    /// For polled jobs: the time from acceptance to completion, by the API's clock.
    pub time_to_completion: Option<Percentiles>,
    /// `time_to_completion` minus `ideal`.
    pub lateness: Option<Percentiles>,
    /// For correct jobs whose `202` had an `expected_at`: the actual end minus that. A callback's
    /// arrival is taken by the clock of this machine, which must agree with that of the API.
    pub deviation: Option<Deviation>,
    /// Correct jobs per second, from the run's start to the last correct job.
    pub completed_per_s: f64,
}

impl JobSummary {
    /// Whether every accepted job was correct, and no callback was wrong or had an invalid
    /// signature.
    pub fn all_right(&self) -> bool {
        self.right == self.accepted && self.wrong == 0 && self.signatures.bad() == 0
    }

    /// The statistics of an interrupted run: a missing job is not lost.
    pub fn interrupted(self) -> Self {
        Self {
            lost: 0,
            not_awaited: self.lost,
            ..self
        }
    }
}

impl From<&JobSummary> for JobFigures {
    fn from(jobs: &JobSummary) -> Self {
        Self {
            completion: jobs.time_to_completion,
            lateness: jobs.lateness,
            accepted: jobs.accepted,
            right: jobs.right,
            lost: jobs.lost,
            wrong: jobs.wrong,
            failed: jobs.failed,
            repeated: jobs.repeated,
            unexpected: jobs.unexpected,
            completed_per_s: jobs.completed_per_s,
        }
    }
}
