//! Why a request ended without success.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The reason and the story of a `FAILED` row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Of the documented list.
    pub reason: FailureReason,
    /// One sentence for a person.
    pub detail: String,
}

impl Failure {
    /// A failure for `reason`, with `detail` for a person.
    pub fn new(reason: FailureReason, detail: impl Into<String>) -> Self {
        Self {
            reason,
            detail: detail.into(),
        }
    }
}

/// Every way for a request to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureReason {
    /// `/sync`: not done within `SYNC_TIMEOUT`.
    SyncTimeout,
    /// `/sync`: the client went away before the answer.
    ClientGone,
    /// The policy forbids the callback's address; nothing was sent there.
    CallbackRefused,
    /// Every callback attempt failed; the detail tells of the last.
    CallbackFailed,
    /// `/sync`: the API was shut down before the report was done.
    ShutDown,
    /// A fault of the service itself; its log says which.
    InternalError,
    /// `MAX_CLAIMS` workers in a row died with it, the last two while they ran nothing else.
    Poison,
    /// The row doesn't hold what the API writes: somebody else changed it.
    InvalidRow,
}

impl FailureReason {
    /// Every reason.
    pub const ALL: [Self; 8] = [
        Self::SyncTimeout,
        Self::ClientGone,
        Self::CallbackRefused,
        Self::CallbackFailed,
        Self::ShutDown,
        Self::InternalError,
        Self::Poison,
        Self::InvalidRow,
    ];

    /// The word in the table, in answers and in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SyncTimeout => "sync_timeout",
            Self::ClientGone => "client_gone",
            Self::CallbackRefused => "callback_refused",
            Self::CallbackFailed => "callback_failed",
            Self::ShutDown => "shut_down",
            Self::InternalError => "internal_error",
            Self::Poison => "poison",
            Self::InvalidRow => "invalid_row",
        }
    }
}

impl fmt::Display for FailureReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for FailureReason {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|reason| reason.as_str() == word)
            .ok_or_else(|| format!("`{word}` is no reason for a failure"))
    }
}

#[cfg(test)]
mod tests {
    use super::FailureReason;

    #[test]
    fn a_reason_has_one_word_in_the_table_and_in_json() {
        for reason in FailureReason::ALL {
            assert_eq!(reason.as_str().parse(), Ok(reason));
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.as_str());
        }
    }
}
