//! The places of a worker, and how many of them a job takes.

use std::sync::Arc;

use storm_shared::services::store::quarantine_threshold;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

/// The right of one or more jobs to run.
pub(super) type Slot = OwnedSemaphorePermit;

/// The places; clones share them. They are never closed.
///
/// A job takes one place, and more with each worker that died with it: so it runs among ever fewer,
/// and for its last two it takes them all. What kills its worker then, kills alone.
#[derive(Clone)]
pub(super) struct Slots {
    places: Arc<Semaphore>,
    all: u32,
    /// A job that has lost so many claims runs alone.
    alone_at: u32,
}

impl Slots {
    /// Places for `all` jobs, of which those run alone that have lost enough of `max_claims` claims.
    pub(super) fn new(all: u32, max_claims: u32) -> Self {
        Self {
            places: Arc::new(Semaphore::new(all as usize)),
            all,
            alone_at: quarantine_threshold(max_claims),
        }
    }

    /// How many places a job takes that has lost so many claims.
    pub(super) fn size_of(&self, lost_claims: u32) -> u32 {
        if lost_claims >= self.alone_at {
            self.all
        } else {
            1 << (self.all.ilog2() * lost_claims / self.alone_at)
        }
    }

    /// How many places there are.
    pub(super) fn all(&self) -> usize {
        self.all as usize
    }

    /// How many places are free now.
    pub(super) fn free(&self) -> usize {
        self.places.available_permits()
    }

    /// Waits until a job of that size can run, and takes places for as many like it as can run then,
    /// up to `most`. Who waits is served in turn: the smaller don't overtake the larger.
    pub(super) async fn take(&self, size: u32, most: usize) -> Result<Slot, AcquireError> {
        let places = Arc::clone(&self.places);
        let mut slot = places.acquire_many_owned(size).await?;
        let more = (self.free() / size as usize).min(most.saturating_sub(1));
        // Between the look and the taking another loop may have been quicker: one job will do.
        if let Ok(more) = u32::try_from(more)
            && let Ok(others) = Arc::clone(&self.places).try_acquire_many_owned(more * size)
        {
            slot.merge(others);
        }
        Ok(slot)
    }
}

#[cfg(test)]
mod tests {
    use super::Slots;

    #[tokio::test]
    async fn as_many_places_are_taken_as_are_free() {
        let slots = Slots::new(3, 5);
        assert_eq!(slots.take(1, 2).await.unwrap().num_permits(), 2);
        let two = slots.take(1, 2).await.unwrap();
        let one = slots.take(1, 9).await.unwrap();
        assert_eq!(
            (two.num_permits(), one.num_permits(), slots.free()),
            (2, 1, 0)
        );
    }

    #[tokio::test]
    async fn a_job_that_has_lost_workers_runs_among_ever_fewer_and_at_last_alone() {
        let slots = Slots::new(10_000, 5);
        let sizes: Vec<_> = (0..=6).map(|lost| slots.size_of(lost)).collect();
        assert_eq!(sizes, [1, 16, 256, 10_000, 10_000, 10_000, 10_000]);
        let slot = slots.take(512, 100).await.unwrap();
        assert_eq!(slot.num_permits(), 19 * 512);
        drop(slot);
        let alone = slots.take(10_000, 100).await.unwrap();
        assert_eq!((alone.num_permits(), slots.free()), (10_000, 0));
    }

    #[test]
    fn on_a_worker_of_one_place_every_job_is_alone() {
        let slots = Slots::new(1, 2);
        assert_eq!((slots.size_of(0), slots.size_of(1)), (1, 1));
    }
}
