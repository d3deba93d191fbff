//! The failures of an attempt, by class.

use std::{error::Error, fmt, io, time::Duration};

use hyper::StatusCode;
use storm_shared::{models::AttemptClass, services::ssrf::PolicyViolation};
use thiserror::Error;

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
    /// The TLS handshake failed, most often because the certificate could not be verified.
    #[error("TLS handshake failed: {detail}")]
    Tls {
        /// The kind of failure, which is safe to show to the tenant.
        kind: TlsFailure,
        /// The full error. It can list every name in the certificate, for example internal hosts.
        detail: ErrorDetail,
    },
    /// The concurrency limit of look-ups was reached. No attempt was made.
    #[error("concurrency limit of name look-ups reached")]
    LookupsBusy,
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
    /// The connection closed, or sent something other than HTTP, before a valid response head.
    #[error("connection closed before a valid HTTP response: {0}")]
    Interrupted(ErrorDetail),
}

impl AttemptError {
    /// The class for metrics and stored attempts. It also decides whether to retry.
    pub fn class(&self) -> AttemptClass {
        match self {
            Self::Refused(_) => AttemptClass::Refused,
            Self::Resolve(_) | Self::LookupsBusy => AttemptClass::Resolve,
            Self::Connect(_) => AttemptClass::Connect,
            Self::Tls { .. } => AttemptClass::Tls,
            Self::Timeout { .. } => AttemptClass::Timeout,
            Self::Status { status, .. } if *status == StatusCode::GONE => AttemptClass::Gone,
            Self::Status { .. } => AttemptClass::Status,
            Self::Interrupted(_) => AttemptClass::Interrupted,
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
            Self::Interrupted(_) => "connection closed before a valid HTTP response".to_owned(),
            Self::Tls { kind, .. } => format!("TLS handshake failed: {}", kind.as_str()),
            // These texts contain nothing but our own words and the receiver's status.
            Self::Timeout { .. } | Self::Status { .. } | Self::LookupsBusy => self.to_string(),
        }
    }
}

/// The kind of TLS failure, as shown to the tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsFailure {
    /// The certificate has expired or is not valid yet.
    Expired,
    /// The certificate is for other names.
    OtherName,
    /// The certificate's issuer is not trusted.
    UnknownIssuer,
    /// The certificate is invalid for another reason.
    Certificate,
    /// Any other failure of the handshake.
    Handshake,
}

impl TlsFailure {
    /// Classifies the rustls error inside `error`.
    pub(super) fn of(error: &(dyn Error + 'static)) -> Self {
        use rustls::CertificateError as Wrong;
        match rustls_error(error) {
            Some(rustls::Error::InvalidCertificate(wrong)) => match wrong {
                Wrong::Expired
                | Wrong::ExpiredContext { .. }
                | Wrong::NotValidYet
                | Wrong::NotValidYetContext { .. } => Self::Expired,
                Wrong::NotValidForName | Wrong::NotValidForNameContext { .. } => Self::OtherName,
                Wrong::UnknownIssuer => Self::UnknownIssuer,
                _ => Self::Certificate,
            },
            _ => Self::Handshake,
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "the certificate has expired or is not valid yet",
            Self::OtherName => "the certificate is for another name",
            Self::UnknownIssuer => "the certificate's issuer is not trusted",
            Self::Certificate => "the certificate is invalid",
            Self::Handshake => "protocol error",
        }
    }
}

/// The first rustls error in the chain of `error` and its causes. An `io::Error` may wrap it
/// without naming it as its source.
fn rustls_error<'a>(mut error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    loop {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        let inside = error.downcast_ref().and_then(io::Error::get_ref);
        error = match inside {
            Some(inside) => inside,
            None => error.source()?,
        };
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

/// One line about an error and its causes, of at most [`ErrorDetail::MAX_CHARS`] characters.
///
/// Control characters are replaced, because parts of the text are untrusted (a certificate's names,
/// for example) and could forge log lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorDetail(Box<str>);

impl ErrorDetail {
    /// The longest detail, in characters.
    pub const MAX_CHARS: usize = 200;

    /// The message of `error`, followed by those of its causes that it does not already contain.
    pub(super) fn of(error: &(dyn Error + 'static)) -> Self {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            let more = error.to_string();
            if !text.contains(&more) {
                text.push_str(": ");
                text.push_str(&more);
            }
            cause = error.source();
        }
        Self::new(&text)
    }

    pub(super) fn new(text: &str) -> Self {
        let printable = |c: char| if c.is_control() { ' ' } else { c };
        Self(text.chars().take(Self::MAX_CHARS).map(printable).collect())
    }
}

impl fmt::Display for ErrorDetail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
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
    fn a_cause_already_in_the_message_is_not_repeated() {
        let error = io::Error::other(io::Error::other("the cause"));
        assert_eq!(ErrorDetail::of(&error).to_string(), "the cause");
    }

    #[test]
    fn each_stage_has_its_own_index() {
        for (number, stage) in Stage::ALL.into_iter().enumerate() {
            assert_eq!(stage as usize, number);
        }
    }
}
