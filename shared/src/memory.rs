//! The memory budget of a process: a limit for the bytes of all bodies that it holds.
//!
//! What holds a body has a [`Reservation`] of as many bytes, and gives them back when it is
//! dropped. The budget counts the bytes of bodies, and not what else is needed to handle them.

mod metrics;
mod patience;

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use thiserror::Error;
use tokio::sync::{Notify, OwnedSemaphorePermit};

pub use metrics::MemoryMetrics;
use patience::Patience;

/// A cheap-clone handle to the budget.
#[derive(Clone, Debug)]
pub struct MemoryBudget(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    limit: usize,
    reserved: AtomicUsize,
    has_room: Notify,
    patience: Patience,
}

/// The bytes do not fit into the budget. None of them was reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the memory budget is exceeded")]
pub struct BudgetExceeded;

impl MemoryBudget {
    /// A budget of `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self(Arc::new(Shared {
            limit,
            reserved: AtomicUsize::new(0),
            has_room: Notify::new(),
            patience: Patience::new(),
        }))
    }

    /// All of its bytes.
    pub fn limit(&self) -> usize {
        self.0.limit
    }

    /// The bytes that are reserved now. They can be more than the limit: [`Reservation::grow`].
    pub fn reserved(&self) -> usize {
        self.0.reserved.load(Ordering::Acquire)
    }

    /// A reservation of no bytes.
    pub fn reservation(&self) -> Reservation {
        self.reservation_of(0)
    }

    fn reservation_of(&self, bytes: usize) -> Reservation {
        Reservation {
            budget: self.clone(),
            bytes,
            overdraft: None,
        }
    }

    /// The limit for what is new: half of the budget while bodies wait for room.
    fn limit_of_new(&self) -> usize {
        if self.0.patience.is_needed() {
            self.limit() / 2
        } else {
            self.limit()
        }
    }

    /// Reserves what is free, up to `most` bytes. `None` if nothing is. While bodies wait for room
    /// ([`Reservation::grow_patiently`]), a half of the budget is left to them.
    pub fn reserve_up_to(&self, most: usize) -> Option<Reservation> {
        let limit = self.limit_of_new();
        let free = |reserved| limit.saturating_sub(reserved).min(most);
        let before =
            self.0
                .reserved
                .fetch_update(Ordering::AcqRel, Ordering::Acquire, |reserved| {
                    Some(reserved + free(reserved))
                });
        let bytes = free(before.unwrap_or_else(|reserved| reserved));
        (bytes > 0).then(|| self.reservation_of(bytes))
    }

    /// Completes when [`reserve_up_to`](Self::reserve_up_to) has at least one byte. Another task
    /// may take it first.
    pub async fn has_room(&self) {
        loop {
            let mut given_back = pin!(self.0.has_room.notified());
            // Before the look: what is given back after it must not be missed.
            given_back.as_mut().enable();
            if self.reserved() < self.limit_of_new() {
                return;
            }
            given_back.await;
        }
    }

    fn give_back(&self, bytes: usize) {
        let before = self.0.reserved.fetch_sub(bytes, Ordering::SeqCst);
        // While there is room, only bodies that need more wait, and what is new meanwhile.
        if before >= self.limit() || self.0.patience.is_needed() {
            self.0.has_room.notify_waiters();
        }
    }
}

/// Bytes of the budget. Gives them back when it is dropped.
#[derive(Debug)]
pub struct Reservation {
    budget: MemoryBudget,
    bytes: usize,
    /// Whether it may go past the limit. Dropped after its bytes were given back.
    overdraft: Option<OwnedSemaphorePermit>,
}

impl Reservation {
    /// Its bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Reserves `more` bytes in addition.
    ///
    /// # Errors
    /// They do not fit into the budget.
    pub fn try_grow(&mut self, more: usize) -> Result<(), BudgetExceeded> {
        let limit = self.budget.limit();
        let grown = |reserved: usize| reserved.checked_add(more).filter(|sum| *sum <= limit);
        self.budget
            .0
            .reserved
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, grown)
            .map_err(|_| BudgetExceeded)?;
        self.bytes += more;
        Ok(())
    }

    /// Reserves `more` bytes in addition, also past the limit: for a body that is held already, and
    /// can't be refused.
    pub fn grow(&mut self, more: usize) {
        self.budget.0.reserved.fetch_add(more, Ordering::AcqRel);
        self.bytes += more;
    }

    /// Moves `bytes` of it to a reservation of their own. If it has fewer, it grows first.
    pub fn split(&mut self, bytes: usize) -> Self {
        self.grow(bytes.saturating_sub(self.bytes));
        self.bytes -= bytes;
        self.budget.reservation_of(bytes)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.give_back(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::{BudgetExceeded, MemoryBudget};

    #[test]
    fn what_does_not_fit_is_not_reserved_and_what_is_dropped_is_given_back() {
        let budget = MemoryBudget::new(10);
        let mut one = budget.reservation();
        one.try_grow(4).unwrap();
        one.try_grow(2).unwrap();
        let mut other = budget.reservation();
        assert_eq!(other.try_grow(5), Err(BudgetExceeded));
        assert_eq!(other.try_grow(usize::MAX), Err(BudgetExceeded));
        other.try_grow(4).unwrap();
        assert_eq!((one.bytes(), other.bytes(), budget.reserved()), (6, 4, 10));
        drop(one);
        assert_eq!(budget.reserved(), 4);
        other.try_grow(6).unwrap();
        drop(other);
        assert_eq!(budget.reserved(), 0);
    }

    #[test]
    fn what_is_free_is_reserved_up_to_a_limit() {
        let budget = MemoryBudget::new(10);
        let first = budget.reserve_up_to(6).unwrap();
        let rest = budget.reserve_up_to(6).unwrap();
        assert_eq!((first.bytes(), rest.bytes()), (6, 4));
        assert!(budget.reserve_up_to(6).is_none());
        drop(first);
        assert_eq!(budget.reserve_up_to(1).unwrap().bytes(), 1);
    }

    #[test]
    fn a_reservation_that_is_split_takes_what_it_lacks() {
        let budget = MemoryBudget::new(10);
        let mut whole = budget.reserve_up_to(10).unwrap();
        let parts = [whole.split(7), whole.split(7)];
        assert_eq!((whole.bytes(), budget.reserved()), (0, 14));
        assert!(budget.reserve_up_to(1).is_none());
        drop((whole, parts));
        assert_eq!(budget.reserved(), 0);
    }

    #[tokio::test]
    async fn whoever_waits_for_room_is_woken_once_there_is_some() {
        let budget = MemoryBudget::new(10);
        budget.has_room().await;
        let mut full = budget.reserve_up_to(10).unwrap();
        full.grow(3);
        let over = full.split(3);
        let mut waiting = std::pin::pin!(budget.has_room());
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(over); // full again
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(full.split(1));
        waiting.await;
    }
}
