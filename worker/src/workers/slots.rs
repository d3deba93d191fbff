//! The places of a worker: so many jobs run, and so many wait for a retry beside them.

use std::sync::Arc;

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

/// The right of one or more jobs to run.
pub(super) type Slot = OwnedSemaphorePermit;

/// The places; clones share them. They are never closed.
#[derive(Clone)]
pub(super) struct Slots {
    running: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
}

impl Slots {
    pub(super) fn new(running: usize, waiting: usize) -> Self {
        Self {
            running: Arc::new(Semaphore::new(running)),
            waiting: Arc::new(Semaphore::new(waiting)),
        }
    }

    /// How many jobs could run at once now.
    pub(super) fn free(&self) -> usize {
        self.running.available_permits()
    }

    /// Waits for a free place, and takes as many as there are then, up to `most`.
    pub(super) async fn take(&self, most: usize) -> Result<Slot, AcquireError> {
        let mut slot = Arc::clone(&self.running).acquire_owned().await?;
        let more = self.free().min(most.saturating_sub(1));
        // Between the look and the taking another loop may have been quicker: one place will do.
        if let Ok(more) = u32::try_from(more)
            && let Ok(others) = Arc::clone(&self.running).try_acquire_many_owned(more)
        {
            slot.merge(others);
        }
        Ok(slot)
    }

    /// Steps aside while `pause` lasts: the place goes to a job that can run, and is won back after.
    ///
    /// Where too many wait already the job keeps its place, so that the worker takes on less.
    pub(super) async fn step_aside(
        &self,
        slot: Slot,
        pause: impl Future<Output = ()>,
    ) -> Result<Slot, AcquireError> {
        let Ok(_waiting) = self.waiting.try_acquire() else {
            pause.await;
            return Ok(slot);
        };
        drop(slot);
        pause.await;
        Arc::clone(&self.running).acquire_owned().await
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::Slots;

    #[tokio::test]
    async fn as_many_places_are_taken_as_are_free() {
        let slots = Slots::new(3, 1);
        assert_eq!(slots.take(2).await.unwrap().num_permits(), 2);
        let two = slots.take(2).await.unwrap();
        let one = slots.take(9).await.unwrap();
        assert_eq!(
            (two.num_permits(), one.num_permits(), slots.free()),
            (2, 1, 0)
        );
    }

    #[tokio::test]
    async fn a_job_that_waits_leaves_its_place_to_one_that_can_run() {
        let slots = Slots::new(1, 1);
        let slot = slots.take(1).await.unwrap();
        let (wake, pause) = oneshot::channel::<()>();
        let aside = {
            let slots = slots.clone();
            tokio::spawn(async move { slots.step_aside(slot, async { drop(pause.await) }).await })
        };
        let other = slots.take(1).await.unwrap(); // hangs for ever if the place was kept
        wake.send(()).unwrap();
        drop(other);
        assert_eq!(aside.await.unwrap().unwrap().num_permits(), 1);
    }

    #[tokio::test]
    async fn past_the_bound_of_waiting_jobs_a_job_keeps_its_place() {
        let slots = Slots::new(1, 0);
        let slot = slots.take(1).await.unwrap();
        let free_meanwhile = async { assert_eq!(slots.free(), 0) };
        drop(slots.step_aside(slot, free_meanwhile).await.unwrap());
        assert_eq!(slots.free(), 1);
    }
}
