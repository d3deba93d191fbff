//! A row of `requests` as a client may see it.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Attempt, Event, Failure, RequestId, Status, Traceparent};

/// How the work was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// `POST /sync`: done while the client waited.
    Sync,
    /// `POST /async`: accepted, worked on, called back.
    Async,
}

impl Mode {
    /// The word in the table.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sync => "sync",
            Self::Async => "async",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        match word {
            "sync" => Ok(Self::Sync),
            "async" => Ok(Self::Async),
            _ => Err(format!("`{word}` is no mode")),
        }
    }
}

/// A request, and the JSON of `GET /requests/{id}`. Times are RFC 3339, UTC, with milliseconds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Request {
    /// Its id.
    pub id: RequestId,
    /// How it was asked for.
    pub mode: Mode,
    /// Where it stands.
    pub status: Status,
    /// What was asked for.
    pub input_payload: Box<RawValue>,
    /// The report, from the moment that it is stored.
    pub result_payload: Option<Box<RawValue>>,
    /// Where to call back, as it was sent.
    pub callback_url: Option<String>,
    /// When it was accepted.
    pub created_at: String,
    /// When it became `COMPLETED` or `FAILED`.
    pub completed_at: Option<String>,
    /// Why it is `FAILED`.
    pub failure: Option<Failure>,
    /// How often it was claimed by a worker.
    pub claims: u32,
    /// How many of these claims were lost because their worker died.
    pub lost_claims: u32,
    /// Callback attempts whose outcome is known, in order.
    pub attempts: Vec<Attempt>,
    /// While it waits: from when on a worker may take it up again.
    pub next_attempt_at: Option<String>,
    /// Since when its next attempt has been put off for its receiver's sake.
    pub parked_since: Option<String>,
    /// How often that was done, in all.
    pub parks: u32,
    /// While it is delivered once more: `PENDING`, or `PROCESSING`. Its status stays what it is.
    pub redelivery: Option<Status>,
    /// The trace that it belongs to; its callback has it too.
    pub traceparent: Traceparent,
    /// What went wrong with it on its way, in order.
    pub events: Vec<Event>,
}
