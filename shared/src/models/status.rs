//! The status of a request.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The status of a row in `requests`. Its words are upper case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Status {
    /// Accepted, and not claimed by a worker.
    Pending,
    /// Claimed by one worker, under one claim number.
    Processing,
    /// The report is done, and its callback (if it has one) was delivered.
    Completed,
    /// Ended without success. The row has the reason.
    Failed,
}

impl Status {
    /// Every status.
    pub const ALL: [Self; 4] = [
        Self::Pending,
        Self::Processing,
        Self::Completed,
        Self::Failed,
    ];

    /// The word in the table.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Processing => "PROCESSING",
            Self::Completed => "COMPLETED",
            Self::Failed => "FAILED",
        }
    }

    /// Whether a row may go from this status to `next`.
    ///
    /// A claim takes it from `PENDING` to `PROCESSING`; a retry, a park, a release by a draining
    /// worker or a lease expiry takes it back. An explicit redelivery that succeeds takes it from
    /// `FAILED` to `COMPLETED`. `COMPLETED` is final.
    pub const fn may_become(self, next: Self) -> bool {
        matches!(
            (self, next),
            (Self::Pending, Self::Processing)
                | (
                    Self::Processing,
                    Self::Pending | Self::Completed | Self::Failed
                )
                | (Self::Failed, Self::Completed)
        )
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Status {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|status| status.as_str() == word)
            .ok_or_else(|| format!("`{word}` is not a status"))
    }
}

#[cfg(test)]
mod tests {
    use super::Status::{self, Completed, Failed, Pending, Processing};

    #[test]
    fn only_the_documented_transitions_are_legal() {
        let legal: Vec<_> = Status::ALL
            .into_iter()
            .flat_map(|from| Status::ALL.map(|to| (from, to)))
            .filter(|(from, to)| from.may_become(*to))
            .collect();
        assert_eq!(
            legal,
            [
                (Pending, Processing),
                (Processing, Pending),
                (Processing, Completed),
                (Processing, Failed),
                (Failed, Completed),
            ]
        );
    }

    #[test]
    fn a_status_is_parsed_from_its_own_text() {
        for status in Status::ALL {
            assert_eq!(status.to_string().parse(), Ok(status));
        }
        assert!("pending".parse::<Status>().is_err());
    }
}
