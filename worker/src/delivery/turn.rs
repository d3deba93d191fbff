//! The right to one connection to an origin.

use tokio::sync::OwnedSemaphorePermit;

/// One of the connections that an origin may have. It is kept until nothing is going on any more on
/// the connection, which can be after its attempt is over.
#[derive(Debug)]
pub struct Turn {
    _permit: Option<OwnedSemaphorePermit>,
}

impl Turn {
    /// One of a bounded number.
    pub fn of(permit: OwnedSemaphorePermit) -> Self {
        Self {
            _permit: Some(permit),
        }
    }

    /// One where nobody counts.
    pub fn uncounted() -> Self {
        Self { _permit: None }
    }
}
