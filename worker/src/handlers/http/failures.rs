//! Why an attempt has no result.
//!
//! Clients see the detail, so it has nothing of the operator's network: no address, no URL and no
//! text of the endpoint's. Operators see the internal detail.

use std::{error::Error, time::Duration};

use hyper::{StatusCode, http};
use storm_shared::models::AttemptClass;

use crate::{
    delivery::{AttemptError, ErrorDetail, Interruption, Stage},
    handler::{Failure, Next},
};

const UNREACHABLE: &str = "the handler could not be reached";
const CUT: &str = "the connection to the handler closed before its answer was complete";

/// No answer has come.
pub(super) fn of(error: &AttemptError) -> Failure {
    let detail = match error {
        AttemptError::Shortage(shortage) => return Failure::shortage(*shortage),
        AttemptError::Status {
            status,
            retry_after,
        } => return self::status(*status, *retry_after, None),
        AttemptError::Timeout { .. } => return timed_out(&error.to_string()),
        AttemptError::Refused(_) | AttemptError::Resolve(_) | AttemptError::Connect(_) => {
            UNREACHABLE
        }
        AttemptError::Tls { .. } => "the TLS connection to the handler failed",
        AttemptError::Interrupted { kind, .. } => match kind {
            Interruption::Closed => CUT,
            Interruption::NotHttp => "the handler's answer is not valid HTTP/1.1",
            Interruption::Endless => "the handler sent too many interim (1xx) answers",
        },
    };
    failed(error.class(), detail, error.to_string())
}

/// Nothing has been sent for `time`, because `stage` did not end.
pub(super) fn unreachable(stage: Stage, time: Duration) -> Failure {
    let class = match stage {
        Stage::Lookup => AttemptClass::Resolve,
        Stage::Connect | Stage::Answer => AttemptClass::Connect,
        Stage::Tls => AttemptClass::Tls,
    };
    let internal = format!("no connection within {time:?} (stage: {stage})");
    failed(class, UNREACHABLE, internal)
}

/// The deadline came before the answer had ended.
pub(super) fn timed_out(internal: &str) -> Failure {
    Failure {
        internal_detail: Some(internal.to_owned()),
        ..Failure::timed_out("the handler did not answer in time")
    }
}

/// The connection ended within the body.
pub(super) fn cut(error: &(dyn Error + 'static)) -> Failure {
    let internal = ErrorDetail::of(error).to_string();
    failed(AttemptClass::Interrupted, CUT, internal)
}

/// An answer other than 2xx, with the beginning of its body.
pub(super) fn status(
    status: StatusCode,
    retry_after: Option<Duration>,
    body: Option<&str>,
) -> Failure {
    let next = if is_retried(status) {
        Next::Retry { after: retry_after }
    } else {
        Next::End
    };
    let code = status.as_u16();
    Failure {
        next,
        internal_detail: body.map(|body| format!("HTTP status {code}: {body}")),
        class: AttemptClass::Status,
        status: Some(code),
        ..Failure::last(format!("the handler answered {code}"))
    }
}

/// A 2xx whose head is invalid or too large.
pub(super) fn head() -> Failure {
    invalid("the head of the handler's answer is invalid or over 16 KiB")
}

/// An answer that can't be a result. Another attempt may get a better one.
pub(super) fn invalid(detail: impl Into<String>) -> Failure {
    Failure {
        class: AttemptClass::Invalid,
        ..Failure::retry(detail)
    }
}

/// The URL is not valid in HTTP.
pub(super) fn url(error: &http::Error) -> Failure {
    Failure {
        internal_detail: Some(ErrorDetail::of(error).to_string()),
        class: AttemptClass::Connect,
        ..Failure::last(UNREACHABLE)
    }
}

/// Whether another attempt may get another answer: time-outs, too early, too many requests, and
/// the errors of servers.
fn is_retried(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 425 | 429) || status.is_server_error()
}

fn failed(class: AttemptClass, detail: &str, internal: String) -> Failure {
    Failure {
        internal_detail: Some(internal),
        class,
        ..Failure::retry(detail)
    }
}

#[cfg(test)]
mod tests {
    use storm_shared::models::FailureReason;

    use super::{Stage, of, timed_out};
    use crate::delivery::AttemptError;

    #[test]
    fn work_whose_last_attempt_took_too_long_has_timed_out() {
        let stage = Stage::Answer;
        for failure in [of(&AttemptError::Timeout { stage }), timed_out("body")] {
            assert_eq!(failure.reason, FailureReason::WorkTimedOut);
        }
        let unreachable = super::unreachable(stage, std::time::Duration::from_secs(10));
        assert_eq!(unreachable.reason, FailureReason::WorkFailed);
    }
}
