//! A row of the table `requests`, as a client may see it.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Attempt, Event, Failure, RequestId, Status, Traceparent, WaitingFor};

/// The endpoint that accepted the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// `POST /sync`: the report is made while the client waits.
    Sync,
    /// `POST /async`: the request is accepted as a job, and the client is called back.
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
            _ => Err(format!("`{word}` is not a mode")),
        }
    }
}

/// A request in a list. Its JSON is an entry of `GET /requests`. It has no payloads, so that a page
/// stays small. Times are as in [`Request`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestSummary {
    /// The request's id.
    pub id: RequestId,
    /// The endpoint that accepted it.
    pub mode: Mode,
    /// The name of the handler that does the work.
    pub handler: String,
    /// Its status.
    pub status: Status,
    /// The callback URL as the client sent it.
    pub callback_url: Option<String>,
    /// When it was accepted.
    pub created_at: String,
    /// When it became `COMPLETED` or `FAILED`.
    pub completed_at: Option<String>,
    /// Why it is `FAILED`.
    pub failure: Option<Failure>,
}

/// A request. Its JSON is the response of `GET /requests/{id}`. Times are RFC 3339, UTC, with
/// milliseconds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Request {
    /// The request's id.
    pub id: RequestId,
    /// The endpoint that accepted it.
    pub mode: Mode,
    /// The name of the handler that does the work.
    pub handler: String,
    /// Its status.
    pub status: Status,
    /// What the handler gets: of a report, its specification.
    pub input_payload: Box<RawValue>,
    /// The result, once it is stored.
    pub result_payload: Option<Box<RawValue>>,
    /// The callback URL as the client sent it.
    pub callback_url: Option<String>,
    /// When it was accepted.
    pub created_at: String,
    /// When it became `COMPLETED` or `FAILED`.
    pub completed_at: Option<String>,
    /// Why it is `FAILED`.
    pub failure: Option<Failure>,
    /// The number of claims by workers.
    pub claims: u32,
    /// The number of these claims that were lost because their worker's lease expired.
    pub lost_claims: u32,
    /// The attempts with a known outcome, at the work and at the callback, in order.
    pub attempts: Vec<Attempt>,
    /// While the job waits for a retry: the time from which a worker may claim it.
    pub next_attempt_at: Option<String>,
    /// While the job is parked: since when its next attempt has been postponed because of its
    /// receiver.
    pub parked_since: Option<String>,
    /// The number of times that the job was parked.
    pub parks: u32,
    /// During a redelivery: `PENDING` or `PROCESSING`. `status` does not change meanwhile.
    pub redelivery: Option<Status>,
    /// The trace that the request belongs to. It is sent with the callback.
    pub traceparent: Traceparent,
    /// The failures in the job's history, in order.
    pub events: Vec<Event>,
    /// Why the job, or its redelivery, is not done yet. `None` if it is over.
    pub waiting_for: Option<WaitingFor>,
    /// When the contents were erased, if they were. `input_payload` is `{"erased":true}` then.
    pub erased_at: Option<String>,
}
