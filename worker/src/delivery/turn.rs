//! The right to one connection to an origin.

use std::{any::Any, fmt};

/// One of the connections that an origin may have. It is kept until nothing is going on any more on
/// the connection, which can be after its attempt is over.
pub struct Turn {
    _right: Option<Box<dyn Any + Send>>,
}

impl Turn {
    /// One of a bounded number, of which `right` is given back when it is dropped.
    pub fn of(right: impl Any + Send) -> Self {
        Self {
            _right: Some(Box::new(right)),
        }
    }

    /// One where nobody counts.
    pub fn uncounted() -> Self {
        Self { _right: None }
    }
}

impl fmt::Debug for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Turn")
    }
}
