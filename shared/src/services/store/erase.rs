//! Erasing: what a finished request was about is removed, and its outcome stays. Value types, no
//! SQL.

use thiserror::Error;

use crate::models::Status;

/// A request that is erased.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Erased {
    /// Its status, which stays as it was.
    pub status: Status,
    /// When it was erased first: RFC 3339, UTC, with milliseconds.
    pub at: String,
}

/// Why a request can't be erased.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Unerasable {
    /// No such request within the scope.
    #[error("there is no such request")]
    Unknown,
    /// The request is not finished.
    #[error("the request is not finished")]
    Unfinished,
    /// A redelivery is in progress.
    #[error("a redelivery of the request is in progress")]
    UnderWay,
}
