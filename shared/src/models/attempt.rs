//! One callback attempt whose outcome is known.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// An attempt as the job's owner may see it: nothing of an answer but its status, and no address that a
/// name led to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// Of its request, from 1, redeliveries included.
    pub number: u32,
    /// When it began: RFC 3339, UTC, milliseconds.
    pub started_at: String,
    /// How long it took, in milliseconds.
    pub duration_ms: u32,
    /// What came of it.
    pub class: AttemptClass,
    /// The answer's status, where there was one.
    pub status: Option<u16>,
    /// What went wrong: one bounded line.
    pub error: Option<String>,
}

/// What can come of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttemptClass {
    /// A 2xx.
    Success,
    /// The guard forbids the URL or an address of its host; nothing was sent. Final.
    Refused,
    /// A 410: the receiver wants no more of it. Final.
    Gone,
    /// Any other status, redirects included.
    Status,
    /// The host's name has no address, or its look-up failed.
    Resolve,
    /// None of the host's addresses took a connection.
    Connect,
    /// The TLS handshake failed.
    Tls,
    /// `CALLBACK_TIMEOUT` passed before a status line came.
    Timeout,
    /// The connection was cut before a status line.
    Interrupted,
}

impl AttemptClass {
    /// Every class.
    pub const ALL: [Self; 9] = [
        Self::Success,
        Self::Refused,
        Self::Gone,
        Self::Status,
        Self::Resolve,
        Self::Connect,
        Self::Tls,
        Self::Timeout,
        Self::Interrupted,
    ];

    /// The word in the table, in answers and in metrics.
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
        }
    }

    /// Whether another attempt could not end otherwise.
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
            .ok_or_else(|| format!("`{word}` is no class of attempts"))
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
    fn only_what_is_over_for_good_is_final() {
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
