//! Polls jobs until they end. The number of concurrent look-ups is bounded; the oldest jobs come
//! first.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use storm_shared::models::RequestId;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::{client::Api, ledger::Ledger};

/// The limit of concurrent look-ups.
const CONCURRENCY: usize = 32;

/// The pause after a round that found an unfinished job. It keeps the polling load low, because the
/// storm measures the API under its own work.
const ROUND_PAUSE: Duration = Duration::from_millis(20);

/// The timeout of one look-up.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The queue of jobs to poll.
#[derive(Debug)]
pub(super) struct Poller {
    api: Api,
    ledger: Ledger,
    /// Bounded by the number of jobs: each is queued at most once.
    queue: Mutex<VecDeque<PendingLookup>>,
}

#[derive(Clone, Copy, Debug)]
struct PendingLookup {
    id: RequestId,
    not_before: Instant,
}

impl Poller {
    pub(super) fn new(api: Api, ledger: Ledger) -> Self {
        Self {
            api,
            ledger,
            queue: Mutex::default(),
        }
    }

    /// Adds a job. It is not polled before `not_before`, the earliest time it can end.
    pub(super) fn watch(&self, id: RequestId, not_before: Instant) {
        self.queue().push_back(PendingLookup { id, not_before });
    }

    /// Polls in rounds until aborted.
    pub(super) async fn run(self: Arc<Self>) {
        loop {
            let mut round = JoinSet::new();
            for lookup in self.next_round() {
                let poller = Arc::clone(&self);
                round.spawn(async move { poller.look_up(lookup).await });
            }
            // An empty round must pause too. Otherwise the loop would spin while no job is ready.
            let mut all_ended = !round.is_empty();
            while let Some(ended) = round.join_next().await {
                all_ended &= ended.unwrap_or(false);
            }
            if !all_ended {
                sleep(ROUND_PAUSE).await;
            }
        }
    }

    fn next_round(&self) -> Vec<PendingLookup> {
        // Jobs are queued roughly in the order of `not_before`, so the first job that is not ready
        // ends the round.
        let now = Instant::now();
        let mut queue = self.queue();
        let ready = queue
            .iter()
            .take(CONCURRENCY)
            .take_while(|lookup| lookup.not_before <= now)
            .count();
        queue.drain(..ready).collect()
    }

    /// Whether the job has ended. An unfinished job goes to the end of the queue; otherwise a few
    /// stuck jobs would block all others.
    async fn look_up(&self, lookup: PendingLookup) -> bool {
        let end = self.api.job_end(lookup.id, Instant::now() + TIMEOUT).await;
        if let Ok(Some(end)) = &end {
            self.ledger.polled(lookup.id, end);
            return true;
        }
        // A new time, because `next_round` relies on the order of `not_before`.
        self.queue().push_back(PendingLookup {
            not_before: Instant::now(),
            ..lookup
        });
        false
    }

    #[expect(clippy::expect_used, reason = "nothing panics while it holds the lock")]
    fn queue(&self) -> MutexGuard<'_, VecDeque<PendingLookup>> {
        let queue = self.queue.lock();
        queue.expect("nothing panics while it holds the lock")
    }
}
