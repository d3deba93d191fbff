//! An attempt at the work of a job or at its callback, and the outcome.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// An attempt with a known outcome, as the job's owner may see it.
///
/// It contains no response body and no resolved address: the job's owner could use them to explore
/// the operator's network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// The attempt's number within its request, from 1, counted across stages and redeliveries.
    pub number: u32,
    /// What it was an attempt at.
    pub stage: Stage,
    /// When the attempt began: RFC 3339, UTC, with milliseconds.
    pub started_at: String,
    /// Its duration in milliseconds.
    pub duration_ms: u32,
    /// Its outcome.
    pub class: AttemptClass,
    /// The HTTP status, if there was a response.
    pub status: Option<u16>,
    /// What went wrong: one line of limited length.
    pub error: Option<String>,
}

/// The stage of a job in which an attempt is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// The work itself. That of the built-in report is not recorded: it can't fail.
    Work,
    /// The callback.
    Callback,
}

impl Stage {
    /// The word in the table and in responses.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Work => "work",
            Self::Callback => "callback",
        }
    }
}

impl FromStr for Stage {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        [Self::Work, Self::Callback]
            .into_iter()
            .find(|stage| stage.as_str() == word)
            .ok_or_else(|| format!("`{word}` is not a stage"))
    }
}

/// The outcome of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttemptClass {
    /// A 2xx response. Final.
    Success,
    /// The SSRF policy refuses the URL or an address of its host. Nothing was sent. Final.
    Refused,
    /// A 410 response: the receiver does not want the callback. Final.
    Gone,
    /// A response with any other status. Redirects are not followed.
    Status,
    /// The host name has no address, or its look-up failed.
    Resolve,
    /// None of the host's addresses accepted a connection.
    Connect,
    /// The TLS handshake failed.
    Tls,
    /// `CALLBACK_TIMEOUT` passed before a status line arrived.
    Timeout,
    /// The connection closed before a status line arrived.
    Interrupted,
    /// A handler's answer can't be used: it is too large, or it is invalid JSON.
    Invalid,
    /// A handler in Rust reported a failure.
    Failed,
}

impl AttemptClass {
    /// Every class.
    pub const ALL: [Self; 11] = [
        Self::Success,
        Self::Refused,
        Self::Gone,
        Self::Status,
        Self::Resolve,
        Self::Connect,
        Self::Tls,
        Self::Timeout,
        Self::Interrupted,
        Self::Invalid,
        Self::Failed,
    ];

    /// The word in the table, in responses and in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Refused => "refused",
            Self::Gone => "gone",
            Self::Status => "status",
            Self::Resolve => "resolve",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Timeout => "timeout",
            Self::Interrupted => "interrupted",
            Self::Invalid => "invalid",
            Self::Failed => "failed",
        }
    }

    /// Whether the outcome is final: no retry follows.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Success | Self::Refused | Self::Gone)
    }
}

impl fmt::Display for AttemptClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for AttemptClass {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|class| class.as_str() == word)
            .ok_or_else(|| format!("`{word}` is not an attempt class"))
    }
}

#[cfg(test)]
mod tests {
    use super::AttemptClass;

    #[test]
    fn a_class_has_one_word_in_the_table_and_in_json() {
        for class in AttemptClass::ALL {
            assert_eq!(class.as_str().parse(), Ok(class));
            assert_eq!(serde_json::to_value(class).unwrap(), class.as_str());
        }
    }

    #[test]
    fn success_refused_and_gone_are_final() {
        let finals: Vec<_> = AttemptClass::ALL
            .into_iter()
            .filter(|class| class.is_final())
            .collect();
        assert_eq!(
            finals,
            [
                AttemptClass::Success,
                AttemptClass::Refused,
                AttemptClass::Gone
            ]
        );
    }
}
