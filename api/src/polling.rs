//! Polls the store for what admission control and the metrics go by.

use std::time::Duration;

use storm_shared::{outage::Outage, services::store::StoreError};
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

/// How often the store is polled.
#[derive(Clone, Copy)]
pub(crate) struct Pace {
    /// The interval between two reads.
    pub(crate) period: Duration,
    /// The pause after a read is at least this multiple of its duration, so that a slow database
    /// spends little of its time on them.
    pub(crate) pause_factor: u32,
}

impl Pace {
    /// That of a count, which takes at most some 5% of the time.
    pub(crate) const fn of_counts(period: Duration) -> Self {
        Self {
            period,
            pause_factor: 20,
        }
    }
}

/// Hands the results of `read` to `update`, at this pace. If a read fails, the last value stays in
/// force, and the log says so of `what` is read.
pub(crate) async fn poll<T, F>(
    what: &'static str,
    pace: Pace,
    read: impl Fn() -> F,
    mut update: impl FnMut(T),
) where
    F: Future<Output = Result<T, StoreError>>,
{
    let mut outage = Outage::default();
    loop {
        let began = Instant::now();
        match read().await {
            Ok(value) => {
                if outage.recovered() {
                    info!(what, "the store can be read again");
                }
                update(value);
            }
            // The readers are busy for a moment, or the API is shutting down: the next read tells.
            Err(StoreError::QueueFull | StoreError::Closed) => {}
            Err(error) => {
                if outage.failed() {
                    warn!(what, %error, "cannot read the store; the last value stays in force");
                }
            }
        }
        sleep(pace.period.max(began.elapsed() * pace.pause_factor)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, time::Duration};

    use storm_shared::services::store::{StoreError, Trouble};
    use tokio::time::{Instant, sleep, timeout};

    use super::{Pace, poll};

    const SECOND: Duration = Duration::from_secs(1);

    /// The counts that were handed on within `time`, and when, of counts that each take `each`.
    async fn counted(
        time: Duration,
        each: Duration,
        result: impl Fn(u32) -> Result<u32, StoreError>,
    ) -> Vec<(u32, u64)> {
        let (begun, made, counted) = (Instant::now(), RefCell::new(0), RefCell::new(Vec::new()));
        let count = || {
            *made.borrow_mut() += 1;
            let result = result(*made.borrow());
            async move {
                sleep(each).await;
                result
            }
        };
        let update = |count| {
            let at = begun.elapsed().as_secs();
            counted.borrow_mut().push((count, at));
        };
        let counting = poll("tests", Pace::of_counts(SECOND), count, update);
        assert!(timeout(time, counting).await.is_err(), "it never ends");
        counted.into_inner()
    }

    #[tokio::test(start_paused = true)]
    async fn a_count_that_fails_changes_nothing_and_the_next_one_does() {
        let failing = |number| match number {
            2 => Err(StoreError::QueueFull),
            3 | 4 => Err(StoreError::Failed {
                trouble: Trouble::Io,
                message: "disk I/O error".into(),
            }),
            number => Ok(number),
        };
        let counts = counted(SECOND * 11 / 2, Duration::ZERO, failing).await;
        assert_eq!(counts, [(1, 0), (5, 4), (6, 5)]);
    }

    #[tokio::test(start_paused = true)]
    async fn slow_counts_are_made_less_often() {
        let counts = counted(60 * SECOND, SECOND, Ok).await;
        assert_eq!(counts, [(1, 1), (2, 22), (3, 43)]);
    }
}
