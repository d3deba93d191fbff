//! What operators do to many requests at a time. Value types, no SQL.

use jiff::Timestamp;

use super::{
    cancel::{Cancelled, Uncancellable},
    redelivery::Unredeliverable,
};
use crate::models::{
    ClientName, Destination, FailureReason, HandlerName, Origin, RequestId, Status,
};

/// What can be done to many requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BulkAction {
    /// Cancel the jobs and redeliveries that are in progress.
    Cancel,
    /// Start redeliveries.
    Redeliver,
}

impl BulkAction {
    /// The word in the audit.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cancel => "cancel",
            Self::Redeliver => "redeliver",
        }
    }
}

/// Which requests to act on: those that meet every condition, of all tenants. The default has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Only requests with one of these statuses; empty: with any.
    pub statuses: Vec<Status>,
    /// Only requests of this client.
    pub client: Option<ClientName>,
    /// Only requests of this handler.
    pub handler: Option<HandlerName>,
    /// Only requests whose callback goes to this origin.
    pub origin: Option<Origin>,
    /// Only requests that were accepted at this time or later, by the wall clock.
    pub created_after: Option<Timestamp>,
    /// Only requests that were accepted before this time.
    pub created_before: Option<Timestamp>,
    /// Only requests that failed for this reason.
    pub reason: Option<FailureReason>,
    /// Only these requests; empty: any. With ids, there is one page.
    pub ids: Vec<RequestId>,
}

impl Selection {
    /// Whether cancelled jobs are meant, too: they are redelivered only if they are named.
    pub fn names_cancelled(&self) -> bool {
        !self.ids.is_empty() || self.reason == Some(FailureReason::Cancelled)
    }
}

/// A page of the requests to act on, by keyset pagination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelectionPage {
    /// Only requests to which this can be done.
    pub action: BulkAction,
    /// Which of them.
    pub selection: Selection,
    /// Only requests with a greater id. Pass [`Selected::next`] of the page before.
    pub after: Option<RequestId>,
    /// Maximum number of requests.
    pub limit: usize,
}

/// One page of requests to act on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selected {
    /// The requests, oldest first, each with the destination of its callback, if it has one.
    pub requests: Vec<(RequestId, Option<Destination>)>,
    /// Where the next page begins, if there may be one.
    pub next: Option<RequestId>,
}

/// An action on many requests, and its record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bulk {
    /// What is done.
    pub action: BulkAction,
    /// To which requests.
    pub ids: Vec<RequestId>,
    /// Whether a cancelled job among them is redelivered: [`Selection::names_cancelled`].
    pub with_cancelled: bool,
    /// Whether it is only tried out: it is recorded, and nothing else changes.
    pub dry_run: bool,
    /// How many requests matched the filter.
    pub matched: usize,
    /// The filter, as JSON for the record.
    pub filter: String,
    /// Who does it.
    pub operator: ClientName,
}

/// What an action has done. Nothing was done to any request of one that was only tried out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// How many requests it has changed.
    pub changed: usize,
    /// What became of each, in the order in which they were named.
    pub each: Vec<(RequestId, Acted)>,
}

/// What an action has done to one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Acted {
    /// It is cancelled: by this action, or before.
    Cancelled(Cancelled),
    /// A redelivery has begun.
    Redelivered,
    /// It can't be cancelled.
    Uncancellable(Uncancellable),
    /// It can't be redelivered.
    Unredeliverable(Unredeliverable),
}
