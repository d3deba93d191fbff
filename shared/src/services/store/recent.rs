//! The latest result of a part of the health check. However many ask, one runs at a time, and one
//! begins per period: `/healthz` is open to anybody and must not be a way to force commits.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

use crate::services::store::StoreError;

/// The latest check of its kind, which may still run.
pub(super) struct Recent {
    /// The time from the beginning of a check to that of the next one.
    period: Duration,
    latest: Mutex<Option<Begun>>,
}

struct Begun {
    at: Instant,
    result: Receiver,
}

/// Of a check's result, which is `None` while it runs.
type Receiver = watch::Receiver<Option<Result<(), StoreError>>>;

impl Recent {
    /// No check yet.
    pub(super) fn with_period(period: Duration) -> Self {
        Self {
            period,
            latest: Mutex::new(None),
        }
    }

    /// The result of the latest check, or of `check` if that one is over and a period old.
    pub(super) async fn result<F>(&self, check: impl FnOnce() -> F) -> Result<(), StoreError>
    where
        F: Future<Output = Result<(), StoreError>> + Send + 'static,
    {
        let mut result = self.latest(check);
        let known = result.wait_for(Option::is_some).await;
        // The task of a check ends without a result only with the runtime.
        known
            .ok()
            .and_then(|known| known.clone())
            .unwrap_or(Err(StoreError::Closed))
    }

    fn latest<F>(&self, check: impl FnOnce() -> F) -> Receiver
    where
        F: Future<Output = Result<(), StoreError>> + Send + 'static,
    {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(begun) = &*latest
            // A check that hangs is waited for: a disk that hangs must not collect checks in the
            // queue.
            && (begun.at.elapsed() < self.period || begun.result.borrow().is_none())
        {
            return begun.result.clone();
        }
        let (sender, result) = watch::channel(None);
        let check = check();
        // A task: a caller that gives up must not end a check that others wait for.
        tokio::spawn(async move { sender.send_replace(Some(check.await)) });
        *latest = Some(Begun {
            at: Instant::now(),
            result: result.clone(),
        });
        result
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
        time::Duration,
    };

    use futures_util::future::join_all;
    use tokio::{sync::Notify, time::advance};

    use super::Recent;
    use crate::services::store::StoreError;

    const PERIOD: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn however_many_ask_one_check_begins_per_period() {
        let (recent, checks) = (Recent::with_period(PERIOD), AtomicUsize::new(0));
        let ask = || {
            recent.result(|| {
                let number = checks.fetch_add(1, Ordering::Relaxed);
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
        assert_eq!(checks.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_check_that_hangs_is_waited_for_also_when_its_first_caller_gives_up() {
        let (recent, go_on) = (Recent::with_period(PERIOD), Arc::new(Notify::new()));
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
