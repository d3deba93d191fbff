//! The events of a job: failures that explain why a callback may be repeated.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// An event in the history of a job. A job that succeeds at once has none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When it happened: RFC 3339, UTC, with milliseconds.
    pub at: String,
    /// What happened.
    pub event: EventKind,
    /// The claim number (fencing token) under which it happened.
    pub claim: i64,
    /// Details for a person.
    pub detail: Option<String>,
}

/// The kind of an event. Each can cause the same callback to be delivered again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// A callback attempt failed from the worker's point of view. The receiver may have processed
    /// it.
    AttemptFailed,
    /// A worker that was shutting down released the job unfinished.
    GivenBack,
    /// The worker's lease expired without a heartbeat, and the job was reclaimed.
    ClaimLost,
    /// A kept-alive connection ended without an answer while the callback was on its way, and the
    /// callback was sent once more over a new one, within the same attempt.
    Resent,
}

impl EventKind {
    /// Every kind.
    pub const ALL: [Self; 4] = [
        Self::AttemptFailed,
        Self::GivenBack,
        Self::ClaimLost,
        Self::Resent,
    ];

    /// The word in the table and in responses.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AttemptFailed => "attempt_failed",
            Self::GivenBack => "given_back",
            Self::ClaimLost => "claim_lost",
            Self::Resent => "resent",
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
            .ok_or_else(|| format!("`{word}` is not an event"))
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
