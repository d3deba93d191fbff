//! Redelivery: a new series of callback attempts for a finished request. Value types, no SQL.

use jiff::Timestamp;
use thiserror::Error;

use crate::models::{Origin, RequestId, Status};

/// Why a request can't be redelivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Unredeliverable {
    /// No such request within the scope.
    #[error("there is no such request")]
    Unknown,
    /// The request is not finished.
    #[error("the request is not finished")]
    Unfinished,
    /// A redelivery is in progress.
    #[error("a redelivery of the request is in progress")]
    UnderWay,
    /// The request was erased.
    #[error("the request was erased")]
    Erased,
    /// The request has no stored result or no callback URL.
    #[error("the request has no stored result or no callback URL")]
    Nothing,
    /// The job was cancelled, and is not named as such.
    #[error("the job was cancelled")]
    Cancelled,
}

/// Which requests to redeliver: one page, by keyset pagination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedeliveryPage {
    /// Final status of the requests: `COMPLETED` or `FAILED`.
    pub status: Status,
    /// Only requests accepted at this time or later.
    pub since: Option<Timestamp>,
    /// Keyset cursor: only requests with a greater id. Pass [`Redeliverable::next`] of the page
    /// before.
    pub after: Option<RequestId>,
    /// Maximum number of requests.
    pub limit: usize,
}

/// One page of redeliverable requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Redeliverable {
    /// Redeliverable requests with their origins, oldest first.
    pub requests: Vec<(RequestId, Origin)>,
    /// Cursor of the next page, if there may be one.
    pub next: Option<RequestId>,
}
