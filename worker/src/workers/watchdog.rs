//! A watchdog for a loop: health checks see when it has stopped.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use tokio::time::Instant;

/// How often a loop that waits for an event ticks.
const TICK: Duration = Duration::from_secs(1);

/// The watchdog of one loop. Clones share it.
#[derive(Clone, Debug)]
pub struct Watchdog(Arc<Mutex<Instant>>);

impl Watchdog {
    /// A watchdog for a loop that starts now.
    pub fn start() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }

    /// The loop has made progress.
    pub(crate) fn tick(&self) {
        // Poison does not matter: an `Instant` is never half written.
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// The result of `event`. Ticks while it waits: the loop may wait for this as long as it takes.
    pub(super) async fn while_waiting<T>(&self, event: impl Future<Output = T>) -> T {
        let mut event = std::pin::pin!(event);
        loop {
            self.tick();
            if let Ok(result) = tokio::time::timeout(TICK, &mut event).await {
                self.tick();
                return result;
            }
        }
    }

    /// The time since the last tick.
    pub fn silence(&self) -> Duration {
        let last = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.elapsed()
    }
}

/// The watchdogs of the loops that run. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Watchdogs(Arc<Mutex<Vec<Weak<Mutex<Instant>>>>>);

impl Watchdogs {
    /// A watchdog for a loop that starts now. It counts until it and its clones are dropped: loops
    /// of handlers end while the worker runs.
    pub fn start(&self) -> Watchdog {
        let watchdog = Watchdog::start();
        let mut all = self.lock();
        all.retain(|it| it.strong_count() > 0);
        all.push(Arc::downgrade(&watchdog.0));
        watchdog
    }

    /// The longest time since a last tick: a loop that has stopped must not hide behind those that
    /// tick.
    pub fn longest_silence(&self) -> Duration {
        let all = self.lock();
        let running = all.iter().filter_map(Weak::upgrade).map(Watchdog);
        let longest = running.map(|it| it.silence()).max();
        longest.unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Weak<Mutex<Instant>>>> {
        // No change under this lock can be left half done by a panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Watchdog, Watchdogs};

    #[tokio::test(start_paused = true)]
    async fn one_loop_that_has_stopped_shows_until_it_has_ended() {
        let watchdogs = Watchdogs::default();
        assert_eq!(watchdogs.longest_silence(), Duration::ZERO);
        let (stopped, running) = (watchdogs.start(), watchdogs.start());
        tokio::time::sleep(Duration::from_mins(1)).await;
        running.tick();
        assert_eq!(watchdogs.longest_silence(), Duration::from_mins(1));
        drop(stopped);
        assert_eq!(watchdogs.longest_silence(), Duration::ZERO);
        drop(watchdogs.start());
        let _last = watchdogs.start();
        assert_eq!(
            watchdogs.lock().len(),
            2,
            "those that have ended are forgotten"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiting_loop_ticks_and_a_stopped_one_does_not() {
        let watchdog = Watchdog::start();
        let busy = async {
            tokio::time::sleep(Duration::from_mins(1)).await;
            watchdog.silence()
        };
        let silence = watchdog.while_waiting(busy).await;
        assert!(silence <= Duration::from_secs(1), "{silence:?}");
        tokio::time::sleep(Duration::from_mins(1)).await;
        assert!(watchdog.silence() >= Duration::from_mins(1));
    }
}
