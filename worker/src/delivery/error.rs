//! What can go wrong in an attempt, as classes.

use std::{error::Error, fmt, io, time::Duration};

use hyper::StatusCode;
use storm_shared::{models::AttemptClass, services::ssrf::PolicyViolation};
use thiserror::Error;

/// Why an attempt failed.
///
/// `Display` is one bounded line for operators. It can name addresses, and never holds a URL's path
/// or query, or anything of an answer but its status.
#[derive(Clone, Debug, Error)]
pub enum AttemptError {
    /// The policy forbids an address of the URL's host: nothing was sent.
    #[error("{0}")]
    Refused(PolicyViolation),
    /// The host's name has no address, or its look-up failed.
    #[error("the look-up failed: {0}")]
    Resolve(Detail),
    /// None of the host's addresses took a connection.
    #[error("no connection: {0}")]
    Connect(Detail),
    /// The TLS handshake failed: most often the certificate could not be verified.
    #[error("no TLS session: {detail}")]
    Tls {
        /// What in a few words, none of which are the other side's.
        kind: TlsTrouble,
        /// The whole of it: it can tell all names that a certificate has.
        detail: Detail,
    },
    /// Too many look-ups of other names were under way: no attempt was made.
    #[error("no thread was free for the look-up")]
    LookupsBusy,
    /// The deadline passed before a status line came.
    #[error("timed out at {stage}")]
    Timeout {
        /// What the attempt was waiting for.
        stage: Stage,
    },
    /// Any status but 2xx. Redirects count: they are not followed.
    #[error("answered with status {}", .status.as_u16())]
    Status {
        /// The answer's.
        status: StatusCode,
        /// How long the receiver asks to be left alone, where it may.
        retry_after: Option<Duration>,
    },
    /// The connection was cut, or turned out to speak no HTTP, before a status line.
    #[error("cut before a status line: {0}")]
    Interrupted(Detail),
}

impl AttemptError {
    /// What it is, for metrics and records; and whether to try again.
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

    /// The answer's status, where there was one.
    pub const fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Status { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// How long the receiver asks to be left alone.
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// What the job's owner is told: no address that a name led to, and nothing from the inside of
    /// the worker's network.
    pub fn public_detail(&self) -> String {
        match self {
            Self::Refused(refusal) => format!("refused as {}", refusal.class()),
            Self::Resolve(_) => "the name's look-up failed".to_owned(),
            Self::Connect(_) => "no connection could be made".to_owned(),
            Self::Interrupted(_) => {
                "the connection was cut, or spoke no HTTP, before a status line".to_owned()
            }
            Self::Tls { kind, .. } => format!("no TLS session: {}", kind.as_str()),
            Self::Timeout { .. } | Self::Status { .. } | Self::LookupsBusy => self.to_string(),
        }
    }
}

/// What can be wrong with TLS, as far as a job's owner may know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsTrouble {
    /// The certificate is over, or not good yet.
    Expired,
    /// The certificate is for other names.
    OtherName,
    /// Whoever issued the certificate is not trusted.
    UnknownIssuer,
    /// Anything else about the certificate.
    Certificate,
    /// The handshake itself.
    Handshake,
}

impl TlsTrouble {
    /// By what rustls says.
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
            Self::Expired => "the certificate has expired, or is not valid yet",
            Self::OtherName => "the certificate is not for that name",
            Self::UnknownIssuer => "the certificate's issuer is not trusted",
            Self::Certificate => "the certificate can't be verified",
            Self::Handshake => "the handshake failed",
        }
    }
}

/// The TLS error in an error, or in one of its causes. An `io::Error` has its own inside.
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

/// The stages of an attempt, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The host's name is looked up.
    Lookup,
    /// Its addresses are dialled.
    Connect,
    /// TLS is negotiated.
    Tls,
    /// The request is sent and the status line awaited.
    Answer,
}

impl Stage {
    /// Every stage, each at its own number.
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

/// One line about an error and its causes: at most [`Detail::MAX_CHARS`] characters, none of them
/// a control character, for parts of it (a certificate's names, say) come from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Detail(Box<str>);

impl Detail {
    /// The longest detail, in characters.
    pub const MAX_CHARS: usize = 200;

    /// The text of `error`, and of those causes that it doesn't repeat itself.
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

impl fmt::Display for Detail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::{AttemptError, Detail, Stage, TlsTrouble};

    #[test]
    fn a_detail_is_one_bounded_line_whatever_the_error_says() {
        let error = io::Error::other(format!("first\r\nsecond\u{1b}[31m{}", "é".repeat(1000)));
        let text = AttemptError::Tls {
            kind: TlsTrouble::of(&error),
            detail: Detail::of(&error),
        }
        .to_string();
        assert!(
            text.starts_with("no TLS session: first  second [31m"),
            "{text}"
        );
        assert_eq!(
            text.chars().count(),
            "no TLS session: ".len() + Detail::MAX_CHARS
        );
    }

    #[test]
    fn a_cause_that_the_error_tells_already_is_not_told_twice() {
        let error = io::Error::other(io::Error::other("the cause"));
        assert_eq!(Detail::of(&error).to_string(), "the cause");
    }

    #[test]
    fn a_stage_stands_at_its_own_number() {
        for (number, stage) in Stage::ALL.into_iter().enumerate() {
            assert_eq!(stage as usize, number);
        }
    }
}
