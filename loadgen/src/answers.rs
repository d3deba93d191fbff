//! The answers to one kind of request: good ones by their latency, bad ones by their kind.

use std::{fmt, time::Duration};

use hyper::StatusCode;
use serde::Serialize;

use crate::latency::{Latencies, Percentiles};

/// Why a request got no good answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestFailure {
    /// The API is saturated and said so: 503 or 429.
    Refused(StatusCode),
    /// No whole answer within the client's patience.
    Timeout,
    /// Another status than the endpoint's good one, with the problem's words.
    Status(StatusCode, String),
    /// The connection could not be made, or broke.
    Connection(String),
    /// The good status, with a body that is not what was asked for.
    WrongAnswer(String),
    /// Too many requests were in flight for this one to be sent.
    NotSent,
}

impl fmt::Display for RequestFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(status) => write!(f, "refused with {status}"),
            Self::Timeout => f.write_str("no answer in time"),
            Self::Status(status, words) => write!(f, "answered {status}: {words}"),
            Self::Connection(error) => write!(f, "no connection: {error}"),
            Self::WrongAnswer(what) => write!(f, "a wrong answer: {what}"),
            Self::NotSent => f.write_str("not sent: too many requests were in flight"),
        }
    }
}

/// How many requests failed, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FailureCounts {
    /// 503 or 429.
    pub refused: u64,
    /// No whole answer in time.
    pub timeout: u64,
    /// Another status than the good one.
    pub other_status: u64,
    /// No connection, or a broken one.
    pub connection: u64,
    /// The good status with a wrong body.
    pub wrong_answer: u64,
    /// Not sent, for too many were in flight.
    pub not_sent: u64,
}

impl FailureCounts {
    /// Each kind in words, with its count. A 429 is a refusal too; this API answers 503.
    pub fn by_kind(&self) -> [(&'static str, u64); 6] {
        [
            ("refused (503)", self.refused),
            ("timeout", self.timeout),
            ("other status", self.other_status),
            ("connection", self.connection),
            ("wrong answer", self.wrong_answer),
            ("not sent", self.not_sent),
        ]
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        self.by_kind().iter().map(|(_, count)| count).sum()
    }

    fn count_mut(&mut self, failure: &RequestFailure) -> &mut u64 {
        match failure {
            RequestFailure::Refused(_) => &mut self.refused,
            RequestFailure::Timeout => &mut self.timeout,
            RequestFailure::Status(..) => &mut self.other_status,
            RequestFailure::Connection(_) => &mut self.connection,
            RequestFailure::WrongAnswer(_) => &mut self.wrong_answer,
            RequestFailure::NotSent => &mut self.not_sent,
        }
    }
}

/// Answers as they come in.
#[derive(Debug, Default)]
pub struct Answers {
    good: Latencies,
    failed: FailureCounts,
    first_failure: Option<String>,
}

impl Answers {
    /// Counts one answer. Only a good one's latency enters the percentiles: a quick refusal would
    /// make a saturated service look fast.
    pub fn record(&mut self, answer: Result<(), RequestFailure>, latency: Duration) {
        match answer {
            Ok(()) => self.good.record(latency),
            Err(failure) => {
                *self.failed.count_mut(&failure) += 1;
                self.first_failure
                    .get_or_insert_with(|| failure.to_string());
            }
        }
    }

    /// What came of `requests` requests.
    pub fn summary(&self, requests: u64) -> AnswerSummary {
        AnswerSummary {
            requests,
            ok: self.good.count(),
            failed: self.failed,
            latency: self.good.percentiles(),
            first_failure: self.first_failure.clone(),
        }
    }
}

/// What came of a number of requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AnswerSummary {
    /// How many were due.
    pub requests: u64,
    /// How many got a good answer.
    pub ok: u64,
    /// How many did not, by kind.
    pub failed: FailureCounts,
    /// The latency of the good answers; none without any.
    pub latency: Option<Percentiles>,
    /// The first failure in words: where many fail, it is mostly for one reason.
    pub first_failure: Option<String>,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hyper::StatusCode;

    use super::{Answers, RequestFailure};

    #[test]
    fn a_failure_is_counted_by_kind_and_never_enters_the_percentiles() {
        let mut answers = Answers::default();
        answers.record(Ok(()), Duration::from_millis(10));
        for failure in [
            RequestFailure::Refused(StatusCode::SERVICE_UNAVAILABLE),
            RequestFailure::Timeout,
            RequestFailure::Status(StatusCode::NOT_FOUND, "nothing here".into()),
            RequestFailure::Connection("refused".into()),
            RequestFailure::WrongAnswer("no id".into()),
            RequestFailure::NotSent,
        ] {
            answers.record(Err(failure), Duration::from_hours(1));
        }
        let summary = answers.summary(7);
        assert_eq!((summary.ok, summary.failed.total()), (1, 6));
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
