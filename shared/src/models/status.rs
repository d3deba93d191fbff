//! Where a request stands.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The status of a row in `requests`, in the table's upper case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Status {
    /// Accepted, and nobody's yet.
    Pending,
    /// Claimed by one worker under one claim number.
    Processing,
    /// Done, and its receiver (if it has one) heard of it.
    Completed,
    /// Over without success; the row says why.
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
    /// `PENDING` to `PROCESSING` is a claim, and back is a give-back or a lost lease. `FAILED` to
    /// `COMPLETED` is an explicit redelivery that got through. `COMPLETED` stays.
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
            .ok_or_else(|| format!("`{word}` is no status"))
    }
}

#[cfg(test)]
mod tests {
    use super::Status::{self, Completed, Failed, Pending, Processing};

    #[test]
    fn only_the_contracts_transitions_are_legal() {
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
    fn a_status_reads_back_as_it_was_written() {
        for status in Status::ALL {
            assert_eq!(status.to_string().parse(), Ok(status));
        }
        assert!("pending".parse::<Status>().is_err());
    }
}
