//! Why an attempt at the work failed.

use std::time::Duration;

use hyper::StatusCode;
use storm_shared::models::{AttemptClass, FailureReason};

use crate::delivery::Shortage;

/// A failed attempt, and whether another one follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What follows.
    pub next: Next,
    /// What the client sees: one line. It must name no internal address and no secret.
    pub detail: String,
    /// What only operators see: the full error. `None` if the detail says it all.
    pub internal_detail: Option<String>,
    /// The class in the record of the attempt.
    pub class: AttemptClass,
    /// The HTTP status, if an endpoint has answered.
    pub status: Option<u16>,
    /// The reason of the job's failure, if this ends it.
    pub(crate) reason: FailureReason,
}

/// What follows a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Another attempt, if the handler's `retry_delays` have one left.
    Retry {
        /// Not before this time has passed, if it is given.
        after: Option<Duration>,
    },
    /// The end: no other attempt could succeed.
    End,
    /// This worker lacked something before the work began, or could not take its result. It is no
    /// attempt: it is neither recorded nor counted, and the job waits until the worker may have
    /// what it lacked.
    Shortage(Shortage),
}

impl Failure {
    /// A failure that another attempt may not meet.
    pub fn retry(detail: impl Into<String>) -> Self {
        Self::new(Next::Retry { after: None }, detail)
    }

    /// A failure that every other attempt would meet, too.
    pub fn last(detail: impl Into<String>) -> Self {
        Self::new(Next::End, detail)
    }

    /// No attempt, because this worker lacks something.
    pub fn shortage(shortage: Shortage) -> Self {
        Self {
            class: AttemptClass::Connect, // never recorded
            ..Self::new(Next::Shortage(shortage), shortage.to_string())
        }
    }

    /// An attempt that its deadline has ended.
    pub(crate) fn timed_out(detail: impl Into<String>) -> Self {
        Self {
            class: AttemptClass::Timeout,
            reason: FailureReason::WorkTimedOut,
            ..Self::retry(detail)
        }
    }

    /// A result over the limit. Another attempt would get as much.
    pub(crate) fn too_large(most: usize) -> Self {
        let detail = format!("the handler's result is larger than max_result, {most} bytes");
        Self {
            class: AttemptClass::Invalid,
            ..Self::last(detail)
        }
    }

    /// Adds the status that an endpoint has answered with.
    pub(crate) fn with_status(self, status: StatusCode) -> Self {
        Self {
            status: Some(status.as_u16()),
            ..self
        }
    }

    fn new(next: Next, detail: impl Into<String>) -> Self {
        Self {
            next,
            detail: detail.into(),
            internal_detail: None,
            class: AttemptClass::Failed,
            status: None,
            reason: FailureReason::WorkFailed,
        }
    }
}
