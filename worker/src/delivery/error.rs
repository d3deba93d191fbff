//! The failures of an attempt, by class.

use std::{fmt, time::Duration};

use hyper::StatusCode;
use storm_shared::{models::AttemptClass, services::ssrf::PolicyViolation};
use thiserror::Error;

use super::{detail::ErrorDetail, shortage::Shortage, tls_failure::TlsFailure};

/// Why an attempt failed.
///
/// `Display` is one bounded line for operators. It can contain addresses. It never contains a URL's
/// path or query, and of a response it contains only the status.
#[derive(Clone, Debug, Error)]
pub enum AttemptError {
    /// The SSRF policy refuses the port or an address of the URL's host. Nothing was sent.
    #[error("{0}")]
    Refused(PolicyViolation),
    /// The host's name has no address, or its look-up failed.
    #[error("name look-up failed: {0}")]
    Resolve(ErrorDetail),
    /// No address of the host accepted a connection.
    #[error("could not connect: {0}")]
    Connect(ErrorDetail),
    /// TLS failed, most often because the certificate could not be verified.
    #[error("{}: {detail}", tls_failed(*.established))]
    Tls {
        /// Whether the handshake was over: a receiver that requires a client certificate refuses
        /// its lack only then (TLS 1.3).
        established: bool,
        /// The kind of failure, which is safe to show to the tenant.
        kind: TlsFailure,
        /// The full error. It can list every name in the certificate, for example internal hosts.
        detail: ErrorDetail,
    },
    /// This worker lacks something. It is no attempt: it is neither recorded nor counted.
    #[error("{0}")]
    Shortage(#[from] Shortage),
    /// The timeout expired before a status line arrived.
    #[error("timed out (stage: {stage})")]
    Timeout {
        /// The stage in progress.
        stage: Stage,
    },
    /// Any status other than 2xx. This includes redirects, which are not followed.
    #[error("HTTP status {}", .status.as_u16())]
    Status {
        /// The response's status.
        status: StatusCode,
        /// The delay in `Retry-After` of a 429 or 503.
        retry_after: Option<Duration>,
    },
    /// The connection ended without a status line.
    #[error("{}: {detail}", .kind.as_str())]
    Interrupted {
        /// How, which is safe to show to the tenant.
        kind: Interruption,
        /// The full error.
        detail: ErrorDetail,
    },
}

impl AttemptError {
    /// The class for metrics and stored attempts. It also decides whether to retry.
    pub fn class(&self) -> AttemptClass {
        match self {
            Self::Refused(_) => AttemptClass::Refused,
            Self::Resolve(_) => AttemptClass::Resolve,
            // A shortage is never recorded. It has a class only because every error has one.
            Self::Connect(_) | Self::Shortage(_) => AttemptClass::Connect,
            Self::Tls { .. } => AttemptClass::Tls,
            Self::Timeout { .. } => AttemptClass::Timeout,
            Self::Status { status, .. } if *status == StatusCode::GONE => AttemptClass::Gone,
            Self::Status { .. } => AttemptClass::Status,
            Self::Interrupted { .. } => AttemptClass::Interrupted,
        }
    }

    /// The response's status, if there was a response.
    pub const fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Status { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// The delay that the receiver asked for.
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// The detail shown to the tenant. It contains no resolved address and nothing about the
    /// worker's network: with such details, a tenant could map that network by its callback URLs.
    pub fn public_detail(&self) -> String {
        match self {
            Self::Refused(refusal) => format!("refused as {}", refusal.class()),
            Self::Resolve(_) => "name look-up failed".to_owned(),
            Self::Connect(_) => "could not connect".to_owned(),
            Self::Interrupted { kind, .. } => kind.as_str().to_owned(),
            Self::Tls {
                established, kind, ..
            } => format!("{}: {}", tls_failed(*established), kind.text()),
            // These texts contain nothing but our own words and the receiver's status.
            Self::Timeout { .. } | Self::Status { .. } | Self::Shortage(_) => self.to_string(),
        }
    }
}

const fn tls_failed(established: bool) -> &'static str {
    if established {
        "TLS connection failed"
    } else {
        "TLS handshake failed"
    }
}

/// How a connection ended without a status line, as shown to the tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interruption {
    /// It closed.
    Closed,
    /// It sent something other than an HTTP/1.1 answer.
    NotHttp,
    /// It sent interim (1xx) answers without end.
    Endless,
}

impl Interruption {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "connection closed before a valid HTTP response",
            Self::NotHttp => "not a valid HTTP/1.1 response",
            Self::Endless => "too many interim (1xx) responses",
        }
    }
}

/// The stages of an attempt, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The look-up of the host's name.
    Lookup,
    /// Dialling its addresses.
    Connect,
    /// The TLS handshake.
    Tls,
    /// Sending the request and waiting for the status line.
    Answer,
}

impl Stage {
    /// Every stage, at the index of its discriminant.
    pub(super) const ALL: [Self; 4] = [Self::Lookup, Self::Connect, Self::Tls, Self::Answer];

    /// The stage's stable name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lookup => "lookup",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Answer => "answer",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::{AttemptError, ErrorDetail, Stage, TlsFailure};

    #[test]
    fn a_detail_is_one_bounded_line_for_any_error() {
        let error = io::Error::other(format!("first\r\nsecond\u{1b}[31m{}", "é".repeat(1000)));
        let text = AttemptError::Tls {
            established: false,
            kind: TlsFailure::of(&error),
            detail: ErrorDetail::of(&error),
        }
        .to_string();
        assert!(
            text.starts_with("TLS handshake failed: first  second [31m"),
            "{text}"
        );
        assert_eq!(
            text.chars().count(),
            "TLS handshake failed: ".len() + ErrorDetail::MAX_CHARS
        );
    }

    #[test]
    fn each_stage_has_its_own_index() {
        for (number, stage) in Stage::ALL.into_iter().enumerate() {
            assert_eq!(stage as usize, number);
        }
    }
}
