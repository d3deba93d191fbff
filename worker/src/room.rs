//! How many jobs may run at a time: a semaphore whose size can change while permits are held.
//!
//! `SIGHUP` can change the concurrency of a handler whose jobs run. With fewer permits, those that
//! are held count until they are released, and the surplus among them is not granted again. So
//! never more jobs run than before or after the change, whichever is more.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Permits to run. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Room(Arc<Shared>);

/// Finds a room again, as long as somebody uses it.
#[derive(Clone, Debug)]
pub(crate) struct WeakRoom(Weak<Shared>);

#[derive(Debug)]
struct Shared {
    semaphore: Arc<Semaphore>,
    size: Mutex<Size>,
}

#[derive(Debug)]
struct Size {
    /// How many permits there are.
    permits: usize,
    /// Held permits beyond that number. They are dropped when they are released.
    surplus: usize,
}

/// Permits of a room, until they are dropped.
#[derive(Debug)]
pub(crate) struct Permits {
    room: Room,
    permits: OwnedSemaphorePermit,
}

impl Room {
    /// A room of `permits` permits.
    pub(crate) fn new(permits: usize) -> Self {
        Self(Arc::new(Shared {
            semaphore: Arc::new(Semaphore::new(permits)),
            size: Mutex::new(Size {
                permits,
                surplus: 0,
            }),
        }))
    }

    /// How many permits there are.
    pub(crate) fn permits(&self) -> usize {
        self.size().permits
    }

    /// The permits as a metric reads them.
    pub(crate) fn semaphore(&self) -> &Arc<Semaphore> {
        &self.0.semaphore
    }

    /// Changes the number of permits. Those that are held stay.
    pub(crate) fn resize(&self, permits: usize) {
        let mut size = self.size();
        if let Some(more) = permits.checked_sub(size.permits) {
            let kept = more.min(size.surplus);
            size.surplus -= kept;
            self.0.semaphore.add_permits(more - kept);
        } else {
            let fewer = size.permits - permits;
            size.surplus += fewer - self.0.semaphore.forget_permits(fewer);
        }
        size.permits = permits;
    }

    /// Takes up to `most` permits: those that are free.
    pub(crate) fn take_up_to(&self, most: usize) -> Permits {
        let free = self.0.semaphore.available_permits().min(most);
        let free = u32::try_from(free).unwrap_or(u32::MAX);
        let take = |permits| Arc::clone(&self.0.semaphore).try_acquire_many_owned(permits);
        // Another loop may have taken some in between. Its jobs have the room then.
        #[expect(clippy::expect_used, reason = "no code closes this semaphore")]
        let permits = take(free).or_else(|_| take(0)).expect("never closed");
        self.held(permits)
    }

    /// Waits for one permit. Those who wait get one in the order in which they came.
    pub(crate) async fn take(&self) -> Permits {
        #[expect(clippy::expect_used, reason = "no code closes this semaphore")]
        let permits = Arc::clone(&self.0.semaphore)
            .acquire_owned()
            .await
            .expect("never closed");
        self.held(permits)
    }

    pub(crate) fn downgrade(&self) -> WeakRoom {
        WeakRoom(Arc::downgrade(&self.0))
    }

    fn held(&self, permits: OwnedSemaphorePermit) -> Permits {
        Permits {
            room: self.clone(),
            permits,
        }
    }

    fn size(&self) -> MutexGuard<'_, Size> {
        // No change under this lock can be left half done by a panic.
        self.0.size.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl WeakRoom {
    /// The room, if somebody uses it.
    pub(crate) fn upgrade(&self) -> Option<Room> {
        self.0.upgrade().map(Room)
    }
}

impl Permits {
    /// How many permits these are.
    pub(crate) fn count(&self) -> usize {
        self.permits.num_permits()
    }

    /// Takes `count` of them, if there are so many.
    pub(crate) fn split(&mut self, count: usize) -> Option<Self> {
        let permits = self.permits.split(count)?;
        Some(self.room.held(permits))
    }
}

impl Drop for Permits {
    fn drop(&mut self) {
        // To the end of this scope: between the check and the release, a smaller size would find
        // these permits neither held nor free.
        let mut size = self.room.size();
        let surplus = size.surplus.min(self.count());
        size.surplus -= surplus;
        if let Some(surplus) = self.permits.split(surplus) {
            surplus.forget();
        }
        drop(self.permits.split(self.permits.num_permits()));
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::{Permits, Room};

    fn take(room: &Room, count: usize) -> Vec<Permits> {
        let mut taken = room.take_up_to(count);
        (0..count).map(|_| taken.split(1).unwrap()).collect()
    }

    fn free(room: &Room) -> usize {
        room.take_up_to(usize::MAX).count()
    }

    #[test]
    fn a_smaller_room_grants_no_permit_until_as_many_are_held_as_it_has() {
        let room = Room::new(5);
        let mut held = take(&room, 4);
        room.resize(2);
        assert_eq!((room.permits(), free(&room)), (2, 0));
        for free_then in [0, 0, 1, 2] {
            held.pop();
            assert_eq!(free(&room), free_then);
        }
    }

    #[test]
    fn a_larger_room_grants_the_difference_at_once() {
        let room = Room::new(2);
        let held = take(&room, 2);
        room.resize(5);
        assert_eq!(free(&room), 3);
        drop(held);
        assert_eq!(free(&room), 5);
    }

    #[test]
    fn sizes_that_change_while_permits_are_held_leave_the_last_one_in_the_end() {
        let room = Room::new(8);
        let mut held = take(&room, 8);
        for size in [3, 6, 1, 7, 4] {
            room.resize(size);
            assert_eq!(free(&room), 0, "{size}");
        }
        held.truncate(5);
        assert_eq!(free(&room), 0);
        held.truncate(1);
        assert_eq!(free(&room), 3);
        room.resize(9);
        drop(held);
        assert_eq!((room.permits(), free(&room)), (9, 9));
    }

    #[test]
    fn who_waits_for_a_permit_gets_one_only_when_the_smaller_room_has_it() {
        let room = Room::new(3);
        let mut held = take(&room, 3);
        let mut waits = Box::pin(room.take());
        assert!(waits.as_mut().now_or_never().is_none());
        room.resize(1);
        held.truncate(1);
        assert!(waits.as_mut().now_or_never().is_none());
        held.clear();
        assert!(waits.now_or_never().is_some());
        assert_eq!(free(&room), 1);
    }
}
