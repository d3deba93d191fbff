//! What went wrong with a job on its way: the record that explains a repeated callback.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// One line of a job's record. A job with which all went well has none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When: RFC 3339, UTC, milliseconds.
    pub at: String,
    /// What happened.
    pub event: EventKind,
    /// The claim under which it happened.
    pub claim: i64,
    /// More, for a person.
    pub detail: Option<String>,
}

/// Everything that can make a receiver hear of its job again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// A callback attempt failed, as far as the worker could see.
    AttemptFailed,
    /// A worker that was told to end gave the job back unfinished.
    GivenBack,
    /// The job's worker was silent for a whole lease, and the job was taken from it.
    ClaimLost,
}

impl EventKind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::AttemptFailed, Self::GivenBack, Self::ClaimLost];

    /// The word in the table and in answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AttemptFailed => "attempt_failed",
            Self::GivenBack => "given_back",
            Self::ClaimLost => "claim_lost",
        }
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for EventKind {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.as_str() == word)
            .ok_or_else(|| format!("`{word}` is no event"))
    }
}

#[cfg(test)]
mod tests {
    use super::EventKind;

    #[test]
    fn an_event_has_one_word_in_the_table_and_in_json() {
        for kind in EventKind::ALL {
            assert_eq!(kind.as_str().parse(), Ok(kind));
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
    }
}
