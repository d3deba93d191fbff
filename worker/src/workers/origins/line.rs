//! The jobs that wait for room at their destination, each in the slot that it holds.
//!
//! Jobs of one length that were claimed together call back together, and many find no room for some
//! milliseconds. If these were parked, their quick reports would be made again, and they would be
//! claimed together again. So a job waits in line where it is likely to get room within
//! [`LONGEST_WAIT`] of the last time that another one got out.
//!
//! That delays no other receiver's jobs:
//!
//! * Together with its attempts, a destination's line holds no more slots than it leaves to others,
//!   and a tenant's no more than its attempts may. Jobs in line count as callbacks there.
//! * Nobody waits for a receiver that is slow: room is not likely in time, by the mean time of its
//!   attempts.
//! * Nobody waits for one that has died: nobody gets out. Those who wait for it at that moment are
//!   parked when the time is over, all at once. The first ones get out when their attempts time
//!   out, and by then the mean says that it is slow.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Mutex, Notify},
    time::Instant,
};

use super::{holder::Holder, pacer};

/// As long as the shortest park, which would cost two writes besides.
pub(super) const LONGEST_WAIT: Duration = pacer::SHORTEST;

/// The line of one destination.
#[derive(Default)]
pub(super) struct Line {
    /// Its jobs in line.
    pub(super) waiting: usize,
    /// When its first attempt began, or a job got out last.
    moved: Option<Instant>,
    order: Arc<Order>,
}

/// First come, first served. A job that is dropped has left the line.
#[derive(Default)]
pub(super) struct Order {
    /// Held by the first in line. This lock is fair.
    turn: Mutex<()>,
    room: Notify,
}

impl Line {
    /// Until when one more job may wait, where `slots` are those of the destination, it makes
    /// `concurrency` attempts at a time, and callbacks leave `left` slots. `None` if it should not.
    pub(super) fn patience(
        &self,
        slots: &Holder,
        concurrency: usize,
        left: usize,
        now: Instant,
    ) -> Option<Instant> {
        let places = u32::try_from(self.waiting + 1).ok()?;
        let likely = slots.pacer.spacing(concurrency).checked_mul(places)?;
        let until = self.moved? + LONGEST_WAIT;
        let is_likely = now + likely <= until;
        (is_likely && slots.jobs + self.waiting < left).then_some(until)
    }

    /// Counts a job in line, and returns where it waits.
    pub(super) fn join(&mut self) -> Arc<Order> {
        self.waiting += 1;
        Arc::clone(&self.order)
    }

    /// A job in line has got room, or has given up.
    pub(super) fn leave(&mut self) {
        self.waiting -= 1;
    }

    /// The first attempt begins, or a job got out: there may be room.
    pub(super) fn moved(&mut self, now: Instant) {
        self.moved = Some(now);
        if self.waiting > 0 {
            self.order.room.notify_one();
        }
    }
}

impl Order {
    /// Waits until everyone before it has gone, and then until `enter` succeeds. That is tried at
    /// once, and whenever a job got out. Those behind it try once it has entered.
    pub(super) async fn wait<T>(&self, mut enter: impl FnMut() -> Option<T>) -> T {
        let _turn = self.turn.lock().await;
        loop {
            if let Some(entered) = enter() {
                return entered;
            }
            // One who got out since the last look ends this wait at once.
            self.room.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, pin::pin, time::Duration};

    use futures_util::FutureExt;
    use tokio::time::Instant;

    use super::{super::holder::Holder, LONGEST_WAIT, Line};

    #[test]
    fn those_in_line_enter_in_the_order_in_which_they_came_as_there_is_room() {
        let (mut line, room) = (Line::default(), Cell::new(0_usize));
        let order = line.join();
        line.join();
        line.join();
        let enter = || room.take().checked_sub(1).map(|left| room.set(left));
        let mut first = pin!(order.wait(enter));
        let mut second = Box::pin(order.wait(enter));
        let mut third = pin!(order.wait(enter));
        assert!(first.as_mut().now_or_never().is_none());
        assert!(second.as_mut().now_or_never().is_none());
        assert!(third.as_mut().now_or_never().is_none());

        room.set(1);
        line.moved(Instant::now());
        assert!(second.as_mut().now_or_never().is_none(), "not its turn");
        assert!(first.as_mut().now_or_never().is_some());

        room.set(1);
        line.moved(Instant::now());
        assert!(third.as_mut().now_or_never().is_none(), "not its turn");
        drop(second);
        assert!(third.as_mut().now_or_never().is_some());
    }

    #[test]
    fn a_job_waits_only_where_room_is_likely_in_time() {
        let (mut line, mut slots, now) = (Line::default(), Holder::new(), Instant::now());
        slots.jobs = 10;
        let millisecond = Duration::from_millis(1);
        let until = |line: &Line, slots: &Holder, left, now| line.patience(slots, 2, left, now);
        assert_eq!(until(&line, &slots, 99, now), None, "nothing has moved");
        line.moved(now);
        let most = now + LONGEST_WAIT;
        assert_eq!(until(&line, &slots, 11, now), Some(most));
        assert_eq!(until(&line, &slots, 10, now), None, "too many slots");
        // Attempts of 10 ms are assumed, so that one of two ends every 5 ms.
        let late = most - 5 * millisecond;
        assert_eq!(until(&line, &slots, 11, late), Some(most));
        assert_eq!(until(&line, &slots, 11, late + millisecond), None);
        for _ in 1..40 {
            line.join();
            assert_eq!(until(&line, &slots, 99, now), Some(most));
        }
        line.join();
        assert_eq!(until(&line, &slots, 99, now), None, "the line is too long");
        for _ in 1..40 {
            line.leave();
        }
        slots.pacer.attempt_took(Duration::from_secs(30));
        assert_eq!(
            until(&line, &slots, 99, now),
            None,
            "attempts take too long"
        );
    }
}
