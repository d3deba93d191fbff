//! A watchdog for a loop: health checks see when it has stopped.

use std::{
    sync::{Arc, Mutex, PoisonError},
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Watchdog;

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
