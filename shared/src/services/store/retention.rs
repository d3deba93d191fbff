//! Retention: how long finished requests are kept. Value types, no SQL.

use crate::models::RequestId;

/// What a sweep over one batch of requests has found and done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Requests that were deleted, with their attempts and events.
    pub deleted: usize,
    /// Where the next batch begins; `None` if this pass is over: what follows is too young.
    pub next: Option<RequestId>,
}
