//! Whose requests an operation may see.

use crate::models::ClientName;

/// The tenant scope of an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All requests, including those created without a client name.
    All,
    /// Only the requests of this client.
    Of(ClientName),
}
