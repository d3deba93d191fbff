//! The concurrency limit of a worker.

use std::{sync::Arc, time::Duration};

use storm_shared::services::store::quarantine_threshold;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};

/// How long [`Slots::gather`] waits for more slots.
const GATHERING: Duration = Duration::from_millis(20);

/// The most that it gathers: this part of all slots.
const GATHERED_PART: u32 = 8;

/// Permission for one or more jobs to run.
pub(super) type Slot = OwnedSemaphorePermit;

/// The slots of a worker: `WORKER_CONCURRENCY`. Clones share them.
///
/// A job takes one slot, and more for each lost claim. So a poison suspect runs beside ever fewer
/// jobs, and for its last two claims it takes all slots: if the worker dies then, no other job can
/// have killed it.
#[derive(Clone)]
pub(super) struct Slots {
    semaphore: Arc<Semaphore>,
    all: u32,
    /// The number of lost claims at which a job takes all slots.
    alone_from: u32,
}

impl Slots {
    /// `all` slots. `max_claims` (`MAX_CLAIMS`) decides when a suspect runs alone.
    pub(super) fn new(all: u32, max_claims: u32) -> Self {
        Self {
            semaphore: Arc::new(Semaphore::new(all as usize)),
            all,
            alone_from: quarantine_threshold(max_claims),
        }
    }

    /// How many slots a job takes that has lost `lost_claims` claims.
    pub(super) fn per_job(&self, lost_claims: u32) -> u32 {
        if lost_claims >= self.alone_from {
            self.all
        } else {
            // In even steps: each lost claim divides the number of jobs beside it by about the
            // same factor.
            1 << (self.all.ilog2() * lost_claims / self.alone_from)
        }
    }

    /// The number of slots, free or not.
    pub(super) fn all(&self) -> usize {
        self.all as usize
    }

    /// The slots as permits, and their number.
    pub(super) fn permits(&self) -> (&Arc<Semaphore>, usize) {
        (&self.semaphore, self.all())
    }

    /// The number of free slots.
    pub(super) fn free(&self) -> usize {
        self.semaphore.available_permits()
    }

    /// Waits for `per_job` slots, and takes slots for up to `max_jobs` such jobs if they are free.
    /// The semaphore is FIFO: small jobs do not overtake one that waits for many slots.
    pub(super) async fn take(&self, per_job: u32, max_jobs: usize) -> Slot {
        let semaphore = Arc::clone(&self.semaphore);
        #[expect(clippy::expect_used, reason = "no code closes this semaphore")]
        let mut slot = semaphore
            .acquire_many_owned(per_job)
            .await
            .expect("never closed");
        let more = (self.free() / per_job as usize).min(max_jobs.saturating_sub(1));
        // Another loop may have taken them in between: then one job is enough.
        if let Ok(more) = u32::try_from(more)
            // `more * per_job` is at most the number of free slots, so it cannot overflow.
            && let Ok(others) = Arc::clone(&self.semaphore).try_acquire_many_owned(more * per_job)
        {
            slot.merge(others);
        }
        slot
    }

    /// Adds slots for more jobs of `per_job` each to `slot`, up to `max_jobs` in all, as they
    /// become free within 20 ms. Under full load there are never several at once, and a claim for
    /// each job of a dead worker takes too long.
    pub(super) async fn gather(&self, slot: &mut Slot, per_job: u32, max_jobs: usize) {
        let deadline = Instant::now() + GATHERING;
        let most = max_jobs.min((self.all / GATHERED_PART / per_job) as usize);
        while slot.num_permits() / (per_job as usize) < most
            // One job at a time: the loops that also wait have their turns in between.
            && let Ok(Ok(more)) =
                timeout_at(deadline, Arc::clone(&self.semaphore).acquire_many_owned(per_job)).await
        {
            slot.merge(more);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{GATHERING, Slots};
    use tokio::time::Instant;

    #[tokio::test]
    async fn take_fills_the_free_slots() {
        let slots = Slots::new(3, 5);
        assert_eq!(slots.take(1, 2).await.num_permits(), 2);
        let two = slots.take(1, 2).await;
        let one = slots.take(1, 9).await;
        assert_eq!(
            (two.num_permits(), one.num_permits(), slots.free()),
            (2, 1, 0)
        );
    }

    #[tokio::test]
    async fn a_poison_suspect_runs_beside_ever_fewer_jobs_and_at_last_alone() {
        let slots = Slots::new(10_000, 5);
        let sizes: Vec<_> = (0..=6).map(|lost| slots.per_job(lost)).collect();
        assert_eq!(sizes, [1, 16, 256, 10_000, 10_000, 10_000, 10_000]);
        let slot = slots.take(512, 100).await;
        assert_eq!(slot.num_permits(), 19 * 512);
        drop(slot);
        let alone = slots.take(10_000, 100).await;
        assert_eq!((alone.num_permits(), slots.free()), (10_000, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn under_full_load_slots_for_several_jobs_are_gathered_as_they_become_free() {
        let slots = Slots::new(160, 5);
        let mut load: Vec<_> = Vec::new();
        for _ in 0..160 {
            load.push(slots.take(1, 1).await);
        }
        load.truncate(156);
        let mut slot = slots.take(4, 9).await;
        assert_eq!(slot.num_permits(), 4);
        let mut gathering = Box::pin(slots.gather(&mut slot, 4, 9));
        for _ in 0..4 {
            assert!(futures_util::poll!(gathering.as_mut()).is_pending());
            load.truncate(load.len() - 4);
        }
        gathering.await;
        assert_eq!(slot.num_permits(), 20, "an eighth of all");

        let begun = Instant::now();
        slots.gather(&mut slot, 4, 9).await;
        assert!(begun.elapsed().is_zero(), "there is nothing to wait for");
        let mut slot = slot.split(4).unwrap();
        slots.gather(&mut slot, 4, 9).await;
        assert_eq!((slot.num_permits(), begun.elapsed()), (4, GATHERING));
    }

    #[test]
    fn in_a_worker_with_one_slot_every_job_runs_alone() {
        let slots = Slots::new(1, 2);
        assert_eq!((slots.per_job(0), slots.per_job(1)), (1, 1));
    }
}
