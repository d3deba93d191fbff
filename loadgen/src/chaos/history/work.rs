//! The work that the HTTP handler does: what its endpoint read and answered, and what the store has
//! of it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use storm_shared::models::RequestId;

/// A request that the endpoint read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkRequest {
    /// When the headers and the body had been read.
    pub at: Timestamp,
    /// The job, by its `idempotency-key`.
    pub id: RequestId,
    /// `storm-attempt`
    pub attempt: i64,
    /// Whether the body is the payload of this job, byte for byte, with a valid signature.
    pub right: bool,
    /// The status of the response; none if there was none before the client closed.
    pub answered: Option<u16>,
    /// SHA-256 of the result in the response, in hexadecimal.
    pub result_sha256: Option<String>,
}

/// What came of the work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkEnd {
    /// A result, as the SHA-256 of its bytes, in hexadecimal.
    Result(String),
    /// A final failure, with its reason.
    Failure(String),
}

/// The store has what came of a job's work, as the auditor's triggers recorded it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkStored {
    /// The latest moment of its commit.
    pub at: Timestamp,
    /// The earliest.
    pub not_before: Timestamp,
    /// The job.
    pub id: RequestId,
    /// What it is.
    pub end: WorkEnd,
}

/// An attempt at the work of a job: a row of the table `attempts`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkAttempt {
    /// The job.
    pub id: RequestId,
    /// Its number.
    pub number: i64,
    /// The claim under which it was made.
    pub claim: i64,
    /// Its class: `success`, `status`, `timeout`, …
    pub class: String,
    /// The status of the answer, if there was one.
    pub status: Option<u16>,
}
