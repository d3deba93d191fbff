//! The requests of clients that concern a job that was accepted, those of operators, and their
//! responses.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use storm_shared::models::RequestId;

/// The response to one `POST /requests/{id}/redeliver`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RedeliveryAsked {
    /// When the request was sent.
    pub asked_at: Timestamp,
    /// When the response arrived, or the client gave up.
    pub at: Timestamp,
    /// The job.
    pub id: RequestId,
    /// The outcome.
    pub answer: RedeliveryAnswer,
}

/// The outcome of one `POST /requests/{id}/redeliver`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RedeliveryAnswer {
    /// `202`: one redelivery has begun.
    Accepted,
    /// Another status. None has begun.
    Refused {
        /// The status.
        status: u16,
        /// The problem's type, without its prefix; none if the body was not read.
        problem: Option<String>,
    },
    /// `503` `outcome-unknown`. One may or may not have begun.
    OutcomeUnknown,
    /// No response. One may or may not begin.
    NoAnswer(String),
}

/// The response to one `DELETE /requests/{id}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CancelAsked {
    /// When the request was sent.
    pub asked_at: Timestamp,
    /// When the response arrived, or the client gave up.
    pub at: Timestamp,
    /// The job.
    pub id: RequestId,
    /// The outcome.
    pub answer: CancelAnswer,
}

/// The outcome of one `DELETE /requests/{id}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CancelAnswer {
    /// `200`: the job is cancelled, by this request or an earlier one.
    Job,
    /// `200`: a redelivery is cancelled, by this request.
    Redelivery,
    /// Another status. Nothing was cancelled.
    Refused {
        /// The status.
        status: u16,
        /// The problem's type, without its prefix; none if the body was not read.
        problem: Option<String>,
    },
    /// `503` `outcome-unknown`. Something may or may not be cancelled.
    OutcomeUnknown,
    /// No response. Something may or may not be cancelled.
    NoAnswer(String),
}

/// The response to one `POST /requests/{id}/erase`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EraseAsked {
    /// When the request was sent.
    pub asked_at: Timestamp,
    /// When the response arrived, or the client gave up.
    pub at: Timestamp,
    /// The job.
    pub id: RequestId,
    /// The outcome.
    pub answer: EraseAnswer,
}

/// The outcome of one `POST /requests/{id}/erase`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EraseAnswer {
    /// `200`: its contents are erased, by this request or an earlier one.
    Erased {
        /// When they were erased first, as it was answered.
        erased_at: String,
    },
    /// Another status. Nothing was erased.
    Refused {
        /// The status.
        status: u16,
        /// The problem's type, without its prefix; none if the body was not read.
        problem: Option<String>,
    },
    /// `503` `outcome-unknown`. It may or may not be erased.
    OutcomeUnknown,
    /// No response. It may or may not be erased.
    NoAnswer(String),
}

/// The response to one `POST /admin/pause` or `/admin/resume`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PauseAsked {
    /// When the request was sent.
    pub asked_at: Timestamp,
    /// When the response arrived, or the client gave up.
    pub at: Timestamp,
    /// The origin; none for everything.
    pub origin: Option<String>,
    /// Whether it pauses. If not, it resumes.
    pub pauses: bool,
    /// The outcome.
    pub answer: PauseAnswer,
}

/// The outcome of one `POST /admin/pause` or `/admin/resume`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PauseAnswer {
    /// `200`
    Done {
        /// Whether it was not so before.
        changed: bool,
    },
    /// Another status. Nothing was changed.
    Refused(u16),
    /// No response, or `503` `outcome-unknown`. It may or may not be done.
    Unknown(String),
}
