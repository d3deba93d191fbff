//! The latest write of a health check. However many ask, one such write runs at a time, and one
//! begins per second: `/healthz` is open to anybody and must not be a way to force commits.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

use crate::services::store::StoreError;

/// The time from the beginning of a write to that of the next one.
const PERIOD: Duration = Duration::from_secs(1);

type Outcome = Option<Result<(), StoreError>>;

/// The latest write, which may still run.
#[derive(Default)]
pub(super) struct RecentWrite(Mutex<Option<Begun>>);

struct Begun {
    at: Instant,
    /// `None` while it runs.
    outcome: watch::Receiver<Outcome>,
}

impl RecentWrite {
    /// The result of the latest write, or of `write` if that one is over and a second old.
    pub(super) async fn result<F>(&self, write: impl FnOnce() -> F) -> Result<(), StoreError>
    where
        F: Future<Output = Result<(), StoreError>> + Send + 'static,
    {
        let mut outcome = self.latest(write);
        let known = outcome.wait_for(Option::is_some).await;
        // The task of a write ends without an outcome only with the runtime.
        known
            .ok()
            .and_then(|known| known.clone())
            .unwrap_or(Err(StoreError::Closed))
    }

    fn latest<F>(&self, write: impl FnOnce() -> F) -> watch::Receiver<Outcome>
    where
        F: Future<Output = Result<(), StoreError>> + Send + 'static,
    {
        let mut latest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(begun) = &*latest
            // A write that hangs is waited for: a disk that hangs must not collect writes in the
            // queue.
            && (begun.at.elapsed() < PERIOD || begun.outcome.borrow().is_none())
        {
            return begun.outcome.clone();
        }
        let (sender, outcome) = watch::channel(None);
        let write = write();
        // A task: a caller that gives up must not end a write that others wait for.
        tokio::spawn(async move { sender.send_replace(Some(write.await)) });
        *latest = Some(Begun {
            at: Instant::now(),
            outcome: outcome.clone(),
        });
        outcome
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use futures_util::future::join_all;
    use tokio::{sync::Notify, time::advance};

    use super::{PERIOD, RecentWrite};
    use crate::services::store::StoreError;

    #[tokio::test(start_paused = true)]
    async fn however_many_ask_one_write_begins_per_second() {
        let (recent, writes) = (RecentWrite::default(), AtomicUsize::new(0));
        let ask = || {
            recent.result(|| {
                let number = writes.fetch_add(1, Ordering::Relaxed);
                async move {
                    if number == 0 {
                        Ok(())
                    } else {
                        Err(StoreError::QueueFull)
                    }
                }
            })
        };
        assert!(
            join_all((0..100).map(|_| ask()))
                .await
                .iter()
                .all(Result::is_ok)
        );
        assert!(ask().await.is_ok());
        advance(PERIOD).await;
        assert!(
            join_all((0..100).map(|_| ask()))
                .await
                .iter()
                .all(Result::is_err)
        );
        assert_eq!(writes.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_that_hangs_is_waited_for_also_when_its_first_caller_gives_up() {
        let (recent, go_on) = (RecentWrite::default(), Arc::new(Notify::new()));
        let hanging = || {
            let go_on = Arc::clone(&go_on);
            async move {
                go_on.notified().await;
                Ok(())
            }
        };
        let gave_up = tokio::time::timeout(PERIOD * 5, recent.result(hanging)).await;
        assert!(gave_up.is_err());
        let second = recent.result(|| -> std::future::Ready<Result<(), StoreError>> {
            panic!("the first one still runs")
        });
        go_on.notify_one();
        assert!(second.await.is_ok());
    }
}
