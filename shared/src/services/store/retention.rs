//! Retention: how long finished requests are kept. Value types, no SQL.

use crate::models::RequestId;

/// What a sweep over one batch of requests has found and done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Requests that were deleted, with their attempts and events.
    pub deleted: usize,
    /// Where the next batch begins; `None` after the last one.
    pub next: Option<RequestId>,
    /// Whether nearly all of the batch has ended and is too young, and most likely what follows,
    /// too.
    pub is_young: bool,
}
