//! A value that is replaced while it is in use.

use std::{
    fmt,
    sync::{Arc, PoisonError, RwLock},
};

/// A value that can be replaced as a whole. Clones share it. Who has read it keeps what they read.
///
/// A read is two atomic operations and never waits for the making of a new value.
pub struct Live<T>(Arc<RwLock<Arc<T>>>);

impl<T> Live<T> {
    /// Begins with `value`.
    pub fn new(value: T) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(value))))
    }

    /// The value of now.
    pub fn get(&self) -> Arc<T> {
        // Nothing that can panic is done under the lock, so a poisoned one holds a whole value.
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces the value.
    pub fn set(&self, value: T) {
        let value = Arc::new(value);
        let mut slot = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *slot, value);
        drop(slot);
        drop(before); // not under the lock
    }
}

impl<T> Clone for Live<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: fmt::Debug> fmt::Debug for Live<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::Live;

    #[test]
    fn a_new_value_is_seen_by_every_clone_and_changes_nothing_that_was_read() {
        let live = Live::new("old");
        let (other, read) = (live.clone(), live.get());
        live.set("new");
        assert_eq!((*other.get(), *read), ("new", "old"));
    }
}
