//! What operators do to all requests that match a filter, a page at a time: what they asked for,
//! what they were answered, and what the database shows of it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use storm_shared::models::{RequestId, Status};

/// What is done to the requests that match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FilterAction {
    /// `POST /admin/cancel`
    Cancel,
    /// `POST /admin/redeliver`
    Redeliver,
}

impl FilterAction {
    /// Its word in the path, and in the store's audit.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cancel => "cancel",
            Self::Redeliver => "redeliver",
        }
    }
}

/// A filter, with the names of the API. The store's audit has it in the same form.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Filter {
    /// Only requests with one of these statuses; empty: with any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub status: Vec<Status>,
    /// Only requests of this client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// Only requests of this handler.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handler: Option<String>,
    /// Only requests whose callback goes to this origin.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// Only requests that were accepted at this time or later, by the services' wall clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_after: Option<Timestamp>,
    /// Only requests that were accepted before this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_before: Option<Timestamp>,
    /// Only requests that failed for this reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Only these requests; empty: any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ids: Vec<RequestId>,
    /// All requests. There is no other condition then.
    #[serde(skip_serializing_if = "is_false")]
    pub all: bool,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_false(value: &bool) -> bool {
    !*value
}

/// The response to one `POST /admin/cancel` or `/admin/redeliver`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilterAsked {
    /// When the request was sent.
    pub asked_at: Timestamp,
    /// When the response arrived, or the operator gave up.
    pub at: Timestamp,
    /// What was to be done.
    pub action: FilterAction,
    /// To which requests.
    pub filter: Filter,
    /// Whether it was only to be tried out.
    pub dry_run: bool,
    /// The largest page; none with `ids`, which are one page.
    pub limit: Option<u64>,
    /// Only requests with a greater id: the cursor of the page before.
    pub cursor: Option<RequestId>,
    /// The outcome.
    pub answer: FilterAnswer,
}

/// The outcome of one `POST /admin/cancel` or `/admin/redeliver`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FilterAnswer {
    /// `200`, with its counts.
    Done(FilterCounts),
    /// Another status. Nothing was changed or recorded.
    Refused(u16),
    /// No response, or `503` `outcome-unknown`. The page may or may not be done, as a whole.
    Unknown(String),
}

/// What a `200` says that was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilterCounts {
    /// Whether it was only tried out.
    pub dry_run: bool,
    /// Requests that matched.
    pub matched: u64,
    /// Those that were changed.
    pub changed: u64,
    /// Those that were not, or would not be.
    pub skipped: u64,
    /// Those that would be changed, if it was only tried out.
    #[serde(default)]
    pub ids: Option<Vec<RequestId>>,
    /// The cursor of the next page; none after the last one.
    pub cursor: Option<RequestId>,
}

/// A record of an action by filter in the store's table `audit`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilterApplied {
    /// The latest moment of its commit.
    pub at: Timestamp,
    /// The earliest.
    pub not_before: Timestamp,
    /// What was done.
    pub action: FilterAction,
    /// The filter as it was recorded: JSON.
    pub filter: String,
    /// How many requests matched, as it was recorded.
    pub matched: u64,
    /// How many of them were changed, as it was recorded.
    pub changed: u64,
    /// Whether it was only tried out.
    pub dry_run: bool,
    /// The requests whose changes were logged right before this record: the same transaction made
    /// them. As many as `changed`, if there are as many.
    pub ids: Vec<RequestId>,
}
