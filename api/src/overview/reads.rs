//! What the sampler reads of the store, beside its other figures: a slow database delays none of
//! these.

use std::{collections::HashMap, sync::Arc, time::Duration};

use storm_shared::{
    models::{RequestSummary, Status},
    services::store::{ListPage, Overview, RequestFilter, Scope, Store, StoreError},
};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use super::{Failures, Shared, Whose};

/// How long the sampler waits for a read: most take less.
const SHORT: Duration = Duration::from_millis(200);

/// A read that takes longer does not count as an answer.
const LONG: Duration = Duration::from_secs(5);

/// The pause after a read is this multiple of the time that it took, so that a slow database
/// spends little of its time on them.
const PAUSE_FACTOR: u32 = 20;

/// And no longer than this: a read that took seconds waited for a database that did not answer, and
/// viewers want to see when it does.
const MAX_PAUSE: Duration = Duration::from_secs(10);

/// The lists of failed requests are read seldom: on a large table they take longest.
const FAILURES_PERIOD: Duration = Duration::from_secs(2);
const FAILURES_PAUSE_FACTOR: u32 = 100;
const FAILURES_MAX_PAUSE: Duration = Duration::from_mins(1);

/// The most failed requests that are shown.
const FAILURES: usize = 20;

/// Reads the store, one read at a time.
pub(super) struct StoreReader {
    store: Store,
    running: Option<Running>,
    /// When the next read begins.
    due: Instant,
    /// Whether the last read was answered.
    is_answered: bool,
}

struct Running {
    begun: Instant,
    task: AbortOnDropHandle<Result<Overview, StoreError>>,
}

impl StoreReader {
    pub(super) fn new(store: Store) -> Self {
        Self {
            store,
            running: None,
            due: Instant::now(),
            is_answered: true,
        }
    }

    /// What is new since the last call, if anything is.
    pub(super) async fn next(&mut self) -> Option<Overview> {
        if self.running.is_none() && self.due <= Instant::now() {
            let store = self.store.clone();
            let read = async move { store.overview().await };
            self.running = Some(Running {
                begun: Instant::now(),
                task: AbortOnDropHandle::new(tokio::spawn(read)),
            });
        }
        let Running { begun, task } = self.running.as_mut()?;
        let Ok(read) = timeout(SHORT, task).await else {
            // It goes on, and is given up by the store. No other one begins meanwhile.
            self.is_answered &= begun.elapsed() < LONG;
            return None;
        };
        self.due = Instant::now() + pause_after(begun.elapsed());
        self.running = None;
        match read {
            // The readers are busy for a moment.
            Ok(Err(StoreError::QueueFull)) => None,
            Ok(Ok(read)) => {
                self.is_answered = true;
                Some(read)
            }
            Ok(Err(_)) | Err(_) => {
                self.is_answered = false;
                None
            }
        }
    }

    /// Whether the store does not answer.
    pub(super) fn is_stale(&self) -> bool {
        !self.is_answered
    }
}

/// How long nothing is read after a read that took as long.
fn pause_after(took: Duration) -> Duration {
    (took * PAUSE_FACTOR).min(MAX_PAUSE)
}

/// From one reading of the lists, which took as long, to the next.
fn failures_period(took: Duration) -> Duration {
    (took * FAILURES_PAUSE_FACTOR).clamp(FAILURES_PERIOD, FAILURES_MAX_PAUSE)
}

/// Reads the lists of failed requests while somebody watches.
pub(super) async fn failures(shared: Arc<Shared>, store: Store) {
    let mut came = shared.came.subscribe();
    loop {
        came.borrow_and_update();
        let Some(watched) = shared.watched() else {
            // The sender lives in `shared`.
            let _ = came.changed().await;
            continue;
        };
        let begun = Instant::now();
        // Without viewers the last lists stay: who reloads the page finds them.
        if !watched.is_empty() {
            let lists = lists(&store, &watched).await;
            shared.set_failures(lists, &watched);
        }
        let until = begun + failures_period(begun.elapsed());
        // Who comes meanwhile gets a list, and the others wait.
        while timeout_at(until, came.changed()).await.is_ok() {
            let missing = shared.without_failures();
            let lists = lists(&store, &missing).await;
            shared.add_failures(lists);
            // However often somebody comes and goes.
            sleep(FAILURES_PERIOD / 4).await;
        }
    }
}

/// Those that can be read.
async fn lists(store: &Store, watched: &[Whose]) -> Failures {
    let mut lists = HashMap::new();
    for whose in watched {
        let scope = whose.clone().map_or(Scope::All, Scope::Of);
        if let Ok(Ok(list)) = timeout(LONG, store.list(scope, failed())).await {
            let list: Arc<[RequestSummary]> = list.requests.into();
            lists.insert(whose.clone(), list);
        }
    }
    lists
}

/// The newest failed requests, among the newest of all.
fn failed() -> ListPage {
    ListPage {
        filter: RequestFilter {
            status: Some(Status::Failed),
            ..RequestFilter::default()
        },
        before: None,
        limit: FAILURES,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_that_hung_is_followed_by_the_next_within_seconds() {
        assert_eq!(
            pause_after(Duration::from_millis(10)),
            Duration::from_millis(200)
        );
        assert_eq!(pause_after(Duration::from_secs(20)), MAX_PAUSE);
        assert_eq!(failures_period(Duration::from_millis(1)), FAILURES_PERIOD);
        assert_eq!(
            failures_period(Duration::from_millis(100)),
            Duration::from_secs(10)
        );
        assert_eq!(failures_period(Duration::from_secs(20)), FAILURES_MAX_PAUSE);
    }
}
