//! Why a request is `FAILED`.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The reason and the details of a `FAILED` row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The reason, from the documented list.
    pub reason: FailureReason,
    /// One sentence for a person.
    pub detail: String,
}

impl Failure {
    /// A failure for `reason`. `detail` is for a person.
    pub fn new(reason: FailureReason, detail: impl Into<String>) -> Self {
        Self {
            reason,
            detail: detail.into(),
        }
    }
}

/// The reason why a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureReason {
    /// `/sync`: the report was not done within `SYNC_TIMEOUT`.
    SyncTimeout,
    /// `/sync`: the client disconnected before the response.
    ClientGone,
    /// The SSRF policy refuses the callback's address. Nothing was sent.
    CallbackRefused,
    /// Every callback attempt failed. The detail describes the last one.
    CallbackFailed,
    /// `/sync`: the API shut down before the report was done.
    ShutDown,
    /// An error of the service itself. The log has the details.
    InternalError,
    /// A poison job: `MAX_CLAIMS` workers in a row died while they held it, the last two while they
    /// ran nothing else.
    Poison,
    /// The row is invalid: it was edited outside the service.
    InvalidRow,
    /// The client cancelled the job.
    Cancelled,
    /// The handler reported a final failure, or its last attempt failed.
    WorkFailed,
    /// The handler's last attempt took longer than its `timeout`.
    WorkTimedOut,
}

impl FailureReason {
    /// Every reason.
    pub const ALL: [Self; 11] = [
        Self::SyncTimeout,
        Self::ClientGone,
        Self::CallbackRefused,
        Self::CallbackFailed,
        Self::ShutDown,
        Self::InternalError,
        Self::Poison,
        Self::InvalidRow,
        Self::Cancelled,
        Self::WorkFailed,
        Self::WorkTimedOut,
    ];

    /// Whether the work failed, and not what followed it: the callback says so then.
    pub const fn is_of_work(self) -> bool {
        matches!(self, Self::WorkFailed | Self::WorkTimedOut)
    }

    /// The word in the table, in responses and in metrics.
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
            Self::Cancelled => "cancelled",
            Self::WorkFailed => "work_failed",
            Self::WorkTimedOut => "work_timed_out",
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
            .ok_or_else(|| format!("`{word}` is not a failure reason"))
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
