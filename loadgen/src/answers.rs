//! Statistics of the answers: latencies of successful requests, counts of failed ones by kind.

use std::{fmt, time::Duration};

use hyper::StatusCode;
use serde::Serialize;

use crate::latency::{Bucket, Latencies, Percentiles};

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestFailure {
    /// The API shed load: 503 or 429.
    Refused(StatusCode),
    /// The API does not know whether it has accepted the request: 503 `outcome-unknown`.
    OutcomeUnknown,
    /// No complete answer before the deadline.
    Timeout,
    /// An unexpected status, with the answer's problem body.
    Status(StatusCode, String),
    /// The connection could not be opened, or broke.
    Connection(String),
    /// The expected status, with a body that is not the expected one.
    WrongAnswer(String),
    /// The limit of requests in flight was reached.
    NotSent,
}

impl fmt::Display for RequestFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(status) => write!(f, "refused with {status}"),
            Self::OutcomeUnknown => f.write_str("answered that the outcome is unknown"),
            Self::Timeout => f.write_str("no answer in time"),
            Self::Status(status, body) => write!(f, "answered {status}: {body}"),
            Self::Connection(error) => write!(f, "connection failed: {error}"),
            Self::WrongAnswer(what) => write!(f, "wrong answer: {what}"),
            Self::NotSent => f.write_str("not sent: too many requests were in flight"),
        }
    }
}

/// How many requests failed, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FailureCounts {
    /// 503 or 429.
    pub refused: u64,
    /// No complete answer before the deadline.
    pub timeout: u64,
    /// An unexpected status.
    pub other_status: u64,
    /// A connection that could not be opened, or broke.
    pub connection: u64,
    /// The expected status with a wrong body.
    pub wrong_answer: u64,
    /// Not sent: the limit of requests in flight was reached.
    pub not_sent: u64,
    /// 503 `outcome-unknown`: neither accepted nor refused.
    pub outcome_unknown: u64,
}

impl FailureCounts {
    /// The name and count of each kind. `refused` also includes 429; the name has the usual status.
    pub fn by_kind(&self) -> [(&'static str, u64); 7] {
        [
            ("refused (503)", self.refused),
            ("timeout", self.timeout),
            ("other status", self.other_status),
            ("connection", self.connection),
            ("wrong answer", self.wrong_answer),
            ("not sent", self.not_sent),
            ("outcome unknown", self.outcome_unknown),
        ]
    }

    /// The sum of all kinds.
    pub fn total(&self) -> u64 {
        self.by_kind().iter().map(|(_, count)| count).sum()
    }

    fn count_mut(&mut self, failure: &RequestFailure) -> &mut u64 {
        match failure {
            RequestFailure::Refused(_) => &mut self.refused,
            RequestFailure::OutcomeUnknown => &mut self.outcome_unknown,
            RequestFailure::Timeout => &mut self.timeout,
            RequestFailure::Status(..) => &mut self.other_status,
            RequestFailure::Connection(_) => &mut self.connection,
            RequestFailure::WrongAnswer(_) => &mut self.wrong_answer,
            RequestFailure::NotSent => &mut self.not_sent,
        }
    }
}

/// A running count of answers.
#[derive(Debug, Default)]
pub struct Answers {
    ok: Latencies,
    failed: FailureCounts,
    first_failure: Option<String>,
}

impl Answers {
    /// Counts one answer. Percentiles include only successful requests: fast refusals would make
    /// a saturated service look fast.
    pub fn record(&mut self, answer: Result<(), RequestFailure>, latency: Duration) {
        match answer {
            Ok(()) => self.ok.record(latency),
            Err(failure) => {
                // Only the first failure is kept as text: the number of failures is unbounded.
                *self.failed.count_mut(&failure) += 1;
                self.first_failure
                    .get_or_insert_with(|| failure.to_string());
            }
        }
    }

    /// The distribution of the latencies of successful requests.
    pub fn buckets(&self) -> Vec<Bucket> {
        self.ok.buckets()
    }

    /// The statistics of `requests` requests.
    pub fn summary(&self, requests: u64) -> AnswerSummary {
        AnswerSummary {
            requests,
            ok: self.ok.count(),
            failed: self.failed,
            latency: self.ok.percentiles(),
            first_failure: self.first_failure.clone(),
        }
    }
}

/// The statistics of a set of requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AnswerSummary {
    /// Requests that were due.
    pub requests: u64,
    /// Requests that succeeded.
    pub ok: u64,
    /// Requests that failed, by kind.
    pub failed: FailureCounts,
    /// The latency of successful requests; none if there are none.
    pub latency: Option<Percentiles>,
    /// The first failure as text: if many requests fail, most fail for the same reason.
    pub first_failure: Option<String>,
}

impl AnswerSummary {
    /// Requests that have neither succeeded nor failed. Only an interrupted run has any.
    pub fn unanswered(&self) -> u64 {
        self.requests.saturating_sub(self.ok + self.failed.total())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hyper::StatusCode;

    use super::{Answers, RequestFailure};

    #[test]
    fn a_failure_is_counted_by_kind_and_excluded_from_the_percentiles() {
        let mut answers = Answers::default();
        answers.record(Ok(()), Duration::from_millis(10));
        for failure in [
            RequestFailure::Refused(StatusCode::SERVICE_UNAVAILABLE),
            RequestFailure::Timeout,
            RequestFailure::Status(StatusCode::NOT_FOUND, "nothing here".into()),
            RequestFailure::Connection("refused".into()),
            RequestFailure::WrongAnswer("no id".into()),
            RequestFailure::NotSent,
            RequestFailure::OutcomeUnknown,
        ] {
            answers.record(Err(failure), Duration::from_hours(1));
        }
        let summary = answers.summary(8);
        assert_eq!((summary.ok, summary.failed.total()), (1, 7));
        assert!(
            summary
                .failed
                .by_kind()
                .iter()
                .all(|(_, count)| *count == 1)
        );
        assert!(summary.latency.unwrap().max < Duration::from_millis(11));
        assert!(summary.first_failure.unwrap().contains("503"));
    }
}
