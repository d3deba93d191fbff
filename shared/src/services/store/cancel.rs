//! Cancelling: the end of an unfinished job by its client. Value types, no SQL.

use thiserror::Error;

use crate::models::{Failure, RequestId, Status};

/// The end of a detail, by which a repeat tells what the first call has found.
pub(super) const MAY_ARRIVE: &str =
    "An attempt at the work or the callback that had begun may have taken effect.";

/// Who cancels.
#[derive(Clone, Copy, Debug)]
pub(super) enum Canceller {
    Client,
    Operator,
}

impl Canceller {
    /// The detail of the failure.
    pub(super) fn detail(self, may_arrive: bool) -> String {
        let who = match self {
            Self::Client => "The client",
            Self::Operator => "An operator",
        };
        if may_arrive {
            format!("{who} cancelled it. {MAY_ARRIVE}")
        } else {
            format!("{who} cancelled it while no worker held it.")
        }
    }
}

/// A request whose job or redelivery is cancelled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cancelled {
    /// The status of the request. A job is `FAILED`; a redelivery leaves it as it was.
    pub status: Status,
    /// Why the request is `FAILED`; `None` if it is `COMPLETED`, and its redelivery was cancelled.
    pub failure: Option<Failure>,
    /// What was cancelled.
    pub what: CancelledWork,
    /// Whether this call has done it, and no earlier one.
    pub is_new: bool,
    /// Whether a worker held it, or had lost it lately: an attempt that had begun may still arrive.
    pub may_arrive: bool,
}

/// What a client cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CancelledWork {
    /// The job: by this call, or by an earlier one.
    Job,
    /// A redelivery of a request that had ended.
    Redelivery,
}

/// Why a request can't be cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Uncancellable {
    /// No such request within the scope.
    #[error("there is no such request")]
    Unknown,
    /// The request has ended otherwise, and no redelivery is in progress.
    #[error("the request is over")]
    Over(Status),
}

/// A claim that was cancelled while a worker held it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CancelledClaim {
    /// The request.
    pub id: RequestId,
    /// The claim number that the worker holds no longer.
    pub number: i64,
}
