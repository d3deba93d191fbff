//! Looks jobs up until they are over: few at a time, the longest waiting ones first.

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

/// Look-ups at a time.
const AT_ONCE: usize = 32;

/// How long nothing is looked up after a round that found a job unfinished: the API is to be
/// measured with its own work, not with ours.
const PAUSE: Duration = Duration::from_millis(20);

/// How long one look-up may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The jobs to look up.
#[derive(Debug)]
pub(super) struct Poller {
    api: Api,
    ledger: Ledger,
    /// As long as a storm is: each job stands here at most once.
    queue: Mutex<VecDeque<Look>>,
}

#[derive(Clone, Copy, Debug)]
struct Look {
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

    /// Looks this job up from `not_before` on, when it can be over at the earliest.
    pub(super) fn watch(&self, id: RequestId, not_before: Instant) {
        self.queue().push_back(Look { id, not_before });
    }

    /// Polls, round by round, for ever.
    pub(super) async fn run(self: Arc<Self>) {
        loop {
            let mut round = JoinSet::new();
            for look in self.next_round() {
                let poller = Arc::clone(&self);
                round.spawn(async move { poller.look(look).await });
            }
            let mut all_over = !round.is_empty();
            while let Some(over) = round.join_next().await {
                all_over &= over.unwrap_or(false);
            }
            if !all_over {
                sleep(PAUSE).await;
            }
        }
    }

    fn next_round(&self) -> Vec<Look> {
        let now = Instant::now();
        let mut queue = self.queue();
        let ready = queue
            .iter()
            .take(AT_ONCE)
            .take_while(|look| look.not_before <= now)
            .count();
        queue.drain(..ready).collect()
    }

    /// Whether the job is over. If it isn't, it goes to the end of the queue, so that a few stuck
    /// jobs don't hide all the others.
    async fn look(&self, look: Look) -> bool {
        let end = self.api.job_end(look.id, Instant::now() + TIMEOUT).await;
        if let Ok(Some(end)) = &end {
            self.ledger.polled(look.id, end);
            return true;
        }
        self.queue().push_back(Look {
            not_before: Instant::now(),
            ..look
        });
        false
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<Look>> {
        self.queue
            .lock()
            .expect("nothing panics while it holds the queue")
    }
}
