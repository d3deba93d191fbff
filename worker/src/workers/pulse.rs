//! Whether a loop still turns.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// How often a loop that rightly waits says so.
const BEAT: Duration = Duration::from_secs(1);

/// The pulse of one loop; clones are the same.
#[derive(Clone, Debug)]
pub struct Pulse(Arc<Mutex<Instant>>);

impl Pulse {
    /// The pulse of a loop that begins now.
    pub fn begin() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }

    /// The loop has come round.
    pub(crate) fn beat(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// What `event` gives. To wait for it is right, however long it takes.
    pub(super) async fn during<T>(&self, event: impl Future<Output = T>) -> T {
        let mut event = std::pin::pin!(event);
        loop {
            self.beat();
            if let Ok(happened) = tokio::time::timeout(BEAT, &mut event).await {
                self.beat();
                return happened;
            }
        }
    }

    /// How long nothing was felt of it.
    pub fn silence(&self) -> Duration {
        let last = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Pulse;

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_waits_rightly_is_alive_and_one_that_does_not_turn_is_silent() {
        let pulse = Pulse::begin();
        let busy = async {
            tokio::time::sleep(Duration::from_mins(1)).await;
            pulse.silence()
        };
        let silence = pulse.during(busy).await;
        assert!(silence <= Duration::from_secs(1), "{silence:?}");
        tokio::time::sleep(Duration::from_mins(1)).await;
        assert!(pulse.silence() >= Duration::from_mins(1));
    }
}
