//! Growth that waits for room: for bodies whose sender can be kept waiting.
//!
//! A body that waits keeps what it has reserved, so bodies could wait for each other for ever. To
//! prevent this deadlock, one reservation at a time may exceed the limit (the overdraft), until it
//! is dropped; then the next one may, in the order in which they began to wait.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{AcquireError, Semaphore},
    time::Instant,
};

use super::{MemoryBudget, Reservation};

/// How many of those that wait, the first ones, look for room whenever bytes are given back. More
/// would cost time and find none.
const LOOKING: usize = 64;

/// The state that the waiting reservations of a budget share.
#[derive(Debug)]
pub(super) struct Patience {
    /// How many wait.
    waiting: AtomicUsize,
    /// The one permit to exceed the limit.
    overdraft: Arc<Semaphore>,
    looking: Semaphore,
}

impl Patience {
    pub(super) fn new() -> Self {
        Self {
            waiting: AtomicUsize::new(0),
            overdraft: Arc::new(Semaphore::new(1)),
            looking: Semaphore::new(LOOKING),
        }
    }

    /// Whether any reservation waits.
    pub(super) fn is_needed(&self) -> bool {
        // Sequentially consistent, as are its changes and those of `reserved`: a reservation that
        // begins to wait and one that is given back see each other, or one of both does.
        self.waiting.load(Ordering::SeqCst) > 0
    }
}

impl Reservation {
    /// Reserves `more` bytes in addition, and waits while they do not fit, unless this is the one
    /// reservation that may exceed the limit. Returns how long it has waited.
    ///
    /// All reservations together exceed the limit by no more than that one has. Its holder must be
    /// able to finish without any other holder.
    pub async fn grow_patiently(&mut self, more: usize) -> Duration {
        if self.try_grow(more).is_ok() {
            return Duration::ZERO;
        }
        if self.overdraft.is_none() {
            // It is free only if no other one waits for it.
            let overdraft = Arc::clone(&self.budget.0.patience.overdraft);
            self.overdraft = overdraft.try_acquire_owned().ok();
        }
        if self.overdraft.is_some() {
            self.grow(more);
            return Duration::ZERO;
        }
        let began = Instant::now();
        let budget = self.budget.clone();
        let _wait = Wait::begin(&budget);
        let waited = self.wait_for(more, &budget);
        #[expect(clippy::expect_used, reason = "no code closes these semaphores")]
        waited.await.expect("never closed");
        began.elapsed()
    }

    async fn wait_for(&mut self, more: usize, budget: &MemoryBudget) -> Result<(), AcquireError> {
        let patience = &budget.0.patience;
        let _looking = patience.looking.acquire().await?;
        let mut overdraft = pin!(Arc::clone(&patience.overdraft).acquire_owned());
        loop {
            let mut given_back = pin!(budget.0.has_room.notified());
            // Before the look: what is given back after it must not be missed.
            given_back.as_mut().enable();
            if self.try_grow(more).is_ok() {
                return Ok(());
            }
            tokio::select! {
                // First: what fits leaves the overdraft to others.
                biased;
                () = given_back => {}
                permit = &mut overdraft => {
                    self.overdraft = Some(permit?);
                    self.grow(more);
                    return Ok(());
                }
            }
        }
    }
}

/// One that waits. Dropped, it waits no more.
struct Wait<'a>(&'a MemoryBudget);

impl<'a> Wait<'a> {
    fn begin(budget: &'a MemoryBudget) -> Self {
        // Before the look for room: whoever gives bytes back after it must know of the wait.
        budget.0.patience.waiting.fetch_add(1, Ordering::SeqCst);
        Self(budget)
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        let before = self.0.0.patience.waiting.fetch_sub(1, Ordering::SeqCst);
        if before == 1 {
            // What is new has the whole budget again.
            self.0.0.has_room.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{pin::pin, time::Duration};

    use futures_util::FutureExt;

    use super::super::MemoryBudget;

    #[tokio::test(start_paused = true)]
    async fn one_reservation_at_a_time_goes_past_the_limit_until_it_is_dropped() {
        let budget = MemoryBudget::new(10);
        let [mut one, mut two, mut three] = [(); 3].map(|()| budget.reservation());
        assert_eq!(one.grow_patiently(8).await, Duration::ZERO);
        two.grow_patiently(8).await;
        assert_eq!(budget.reserved(), 16, "past the limit");
        two.grow_patiently(8).await;
        assert_eq!(budget.reserved(), 24, "and further");
        {
            let mut waits = pin!(three.grow_patiently(7));
            assert!(waits.as_mut().now_or_never().is_none());
            // One that fits goes on, although others wait. Here none does.
            assert!(budget.reservation().try_grow(1).is_err());
            drop(one);
            assert!(waits.as_mut().now_or_never().is_none());
            tokio::time::advance(Duration::from_secs(1)).await;
            drop(two);
            assert_eq!(waits.await, Duration::from_secs(1));
        }
        assert_eq!(budget.reserved(), 7);
        // It fitted, and has left the overdraft to others.
        let mut four = budget.reservation();
        four.grow_patiently(8).await;
        assert_eq!(budget.reserved(), 15);
    }

    #[tokio::test]
    async fn what_fits_into_the_room_that_comes_free_does_not_wait_for_the_overdraft() {
        let budget = MemoryBudget::new(10);
        let [mut held, mut past, mut large, mut small] = [(); 4].map(|()| budget.reservation());
        held.grow_patiently(10).await;
        past.grow_patiently(3).await;
        let mut large = pin!(large.grow_patiently(8));
        let mut small = pin!(small.grow_patiently(2));
        assert!(large.as_mut().now_or_never().is_none());
        assert!(small.as_mut().now_or_never().is_none());
        drop(held.split(5));
        assert!(large.as_mut().now_or_never().is_none());
        small.await;
        assert_eq!(budget.reserved(), 10);
        drop(past);
        large.await;
        assert_eq!(budget.reserved(), 15, "5, 2 and 8: the overdraft is free");
    }

    #[tokio::test]
    async fn while_bodies_wait_half_of_the_budget_is_left_to_them() {
        let budget = MemoryBudget::new(10);
        let mut held = budget.reserve_up_to(10).unwrap();
        let [mut past, mut waits] = [(); 2].map(|()| budget.reservation());
        past.grow_patiently(2).await;
        {
            let mut waits = pin!(waits.grow_patiently(9));
            assert!(waits.as_mut().now_or_never().is_none());
            drop(held.split(7));
            assert_eq!(budget.reserved(), 5);
            let mut new = pin!(budget.has_room());
            assert!(new.as_mut().now_or_never().is_none());
            assert!(budget.reserve_up_to(1).is_none());
            drop(held.split(1));
            new.await;
            assert_eq!(budget.reserve_up_to(9).unwrap().bytes(), 1);
            drop(held.split(1));
        }
        // Whoever waited has given up.
        assert_eq!(budget.reserve_up_to(9).unwrap().bytes(), 7);
        let mut new = budget.reserve_up_to(7);
        assert_eq!(new.as_ref().unwrap().bytes(), 7);
        assert!(budget.has_room().now_or_never().is_none());
        new.take();
        budget.has_room().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn a_storm_of_bodies_stays_within_the_limit_and_one_of_them_and_all_come_to_an_end() {
        const LIMIT: usize = 1000;
        const LARGEST: usize = 300;
        let budget = MemoryBudget::new(LIMIT);
        let mut tasks = tokio::task::JoinSet::new();
        for nth in 0..400_usize {
            let budget = budget.clone();
            tasks.spawn(async move {
                let mut held = budget.reservation();
                // Some fit as a whole, others grow by parts: their parts alone fill the budget.
                let part = [1, 10, 30, LARGEST][nth % 4];
                for _ in 0..LARGEST / part {
                    held.grow_patiently(part).await;
                    let reserved = budget.reserved();
                    assert!(reserved <= LIMIT + LARGEST, "{reserved}");
                    tokio::task::yield_now().await;
                }
            });
        }
        let all = async { while tasks.join_next().await.is_some_and(|task| task.is_ok()) {} };
        let ended = tokio::time::timeout(Duration::from_mins(1), all).await;
        assert!(ended.is_ok(), "{} wait for ever", tasks.len());
        assert!(tasks.is_empty(), "one has exceeded the bound");
        assert_eq!(budget.reserved(), 0);
    }
}
