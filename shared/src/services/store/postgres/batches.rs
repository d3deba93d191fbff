//! Writes of a kind, gathered into one statement a batch.
//!
//! A statement costs a round trip and a commit, so all writes that arrive while a few batches are
//! under way share the next one. A batch that fails because of the data of one of its writes is
//! split in halves, until that one stands alone.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, Semaphore, mpsc, oneshot},
    time::{Instant, sleep_until},
};

use super::{
    error::Error,
    session::{Room, Sessions, unanswered},
};
use crate::services::store::StoreError;

/// The most writes of a batch.
const BATCH: usize = 512;

/// As many writes are worth a batch of their own while another one is under way. Fewer wait for its
/// end, since a statement and a commit cost as much as dozens of rows.
const WORTH: usize = 64;

/// But no longer than this: a commit may wait for a standby that is far away.
const PATIENCE: Duration = Duration::from_millis(5);

/// The most bytes of bodies in a batch. A single write with more has a batch of its own.
const BATCH_BYTES: usize = 4 << 20;

/// A batch that is run: what came of each of its writes, in order.
pub(super) type Running<O> = Pin<Box<dyn Future<Output = Result<Vec<O>, Error>> + Send>>;

/// A write that waits for its batch.
struct Waiting<I, O> {
    write: Write<I, O>,
    bytes: usize,
    since: Instant,
    /// Its place in the queue.
    _room: Room,
}

/// A write, and its caller.
struct Write<I, O> {
    item: I,
    answer: oneshot::Sender<Result<O, StoreError>>,
}

impl<I, O> Write<I, O> {
    fn answer(self, outcome: Result<O, StoreError>) {
        let _ = self.answer.send(outcome); // the caller may be gone
    }
}

/// The writes of one kind.
pub(super) struct Batches<I, O> {
    sessions: Arc<Sessions>,
    queue: mpsc::Sender<Waiting<I, O>>,
}

impl<I: Clone + Send + Sync + 'static, O: Send + 'static> Batches<I, O> {
    /// Starts to gather writes for `run`, with up to `in_flight` batches under way.
    ///
    /// `run` commits one statement. It may be called again with a part of the same writes.
    pub(super) fn start(
        sessions: &Arc<Sessions>,
        in_flight: usize,
        run: impl Fn(Arc<[I]>) -> Running<O> + Send + Sync + 'static,
    ) -> Self {
        // It is never full: whatever is sent has a place in the queue of all writes.
        let (queue, writes) = mpsc::channel(sessions.write_queue());
        let gathering = gather(Arc::clone(sessions), writes, in_flight, Arc::new(run));
        sessions.tasks().spawn(gathering);
        Self {
            sessions: Arc::clone(sessions),
            queue,
        }
    }

    /// Commits `item`, which stores `bytes` of bodies, with others. Waits for room in the queue.
    pub(super) async fn write(&self, item: I, bytes: usize) -> Result<O, StoreError> {
        let room = self.sessions.room().await?;
        self.write_in(room, item, bytes).await
    }

    /// The same, and fails at once if the queue is full.
    pub(super) async fn try_write(&self, item: I, bytes: usize) -> Result<O, StoreError> {
        let room = self.sessions.try_room()?;
        self.write_in(room, item, bytes).await
    }

    async fn write_in(&self, room: Room, item: I, bytes: usize) -> Result<O, StoreError> {
        let (answer, outcome) = oneshot::channel();
        let waiting = Waiting {
            write: Write { item, answer },
            bytes,
            since: Instant::now(),
            _room: room,
        };
        let sent = self.queue.try_send(waiting);
        sent.map_err(|_| StoreError::Closed)?;
        // The panic hook has reported a panic; whether it came before the commit is unknown.
        outcome.await.unwrap_or_else(|_| Err(unanswered()))
    }
}

/// When a batch has failed last, and why. What was queued before that fails, too: each batch in
/// turn would wait for the same lock or server, and the last writes longer than their callers do.
type LastFailure = Mutex<Option<(Instant, StoreError)>>;

async fn gather<I, O, Run>(
    sessions: Arc<Sessions>,
    mut writes: mpsc::Receiver<Waiting<I, O>>,
    in_flight: usize,
    run: Arc<Run>,
) where
    I: Clone + Send + Sync + 'static,
    O: Send + 'static,
    Run: Fn(Arc<[I]>) -> Running<O> + Send + Sync + 'static,
{
    let closing = sessions.closing().clone();
    // If this panics, no write is ever committed again: the store is over.
    let _closed = closing.clone().drop_guard();
    let permits = Arc::new(Semaphore::new(in_flight));
    let last_failure = Arc::new(LastFailure::default());
    let ended = Arc::new(Notify::new());
    let mut next = Vec::new();
    loop {
        // First the permit: what arrives while all batches are under way is one batch.
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
            return;
        };
        if next.is_empty() {
            tokio::select! {
                biased;
                received = writes.recv_many(&mut next, BATCH) => if received == 0 {
                    return;
                },
                // What has a place in the queue is still received.
                () = closing.cancelled(), if !writes.is_closed() => writes.close(),
            }
        }
        // A batch that ends gives its permit back. This one has its own already.
        while permits.available_permits() + 1 < in_flight && next.len() < WORTH {
            let Some(first) = next.first() else { break };
            let until = first.since + PATIENCE;
            let room = BATCH - next.len();
            tokio::select! {
                biased;
                () = ended.notified() => {}
                received = writes.recv_many(&mut next, room) => if received == 0 {
                    break;
                },
                () = sleep_until(until) => break,
            }
        }
        fail_with_the_last(&mut next, &last_failure);
        if next.is_empty() {
            continue;
        }
        let rest = next.split_off(fitting(&next));
        let batch = std::mem::replace(&mut next, rest);
        let batch = batch.into_iter().map(|waiting| waiting.write).collect();
        let (run, last_failure) = (Arc::clone(&run), Arc::clone(&last_failure));
        let (committing, ended) = (Arc::clone(&sessions), Arc::clone(&ended));
        sessions.tasks().spawn(async move {
            settle(&committing, batch, &*run, &last_failure).await;
            drop(permit);
            ended.notify_one();
        });
    }
}

fn fail_with_the_last<I, O>(waiting: &mut Vec<Waiting<I, O>>, last: &LastFailure) {
    let last = last.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let Some((at, error)) = last else { return };
    for failed in waiting.extract_if(.., |write| write.since < at) {
        failed.write.answer(Err(error.clone()));
    }
}

/// How many of the writes fit into one batch: at least one.
fn fitting<I, O>(writes: &[Waiting<I, O>]) -> usize {
    let mut bytes = 0;
    let fitting = writes.iter().take_while(|write| {
        bytes += write.bytes;
        bytes <= BATCH_BYTES
    });
    fitting.count().max(1)
}

/// Runs a batch, and answers its callers.
async fn settle<I, O, Run>(
    sessions: &Sessions,
    batch: Vec<Write<I, O>>,
    run: &Run,
    last_failure: &LastFailure,
) where
    I: Clone,
    Run: Fn(Arc<[I]>) -> Running<O>,
{
    let mut left = vec![batch];
    while let Some(mut batch) = left.pop() {
        let items: Arc<[I]> = batch.iter().map(|write| write.item.clone()).collect();
        let begun = Instant::now();
        match run(items).await {
            Ok(outcomes) => {
                sessions.measures().committed(batch.len(), begun.elapsed());
                for (write, outcome) in batch.into_iter().zip(outcomes) {
                    write.answer(Ok(outcome));
                }
            }
            Err(error) if error.is_of_data() && batch.len() > 1 => {
                let half = batch.split_off(batch.len() / 2);
                left.extend([half, batch]);
            }
            Err(error) => {
                if !error.is_of_data() {
                    sessions.measures().failed(error.trouble());
                    let mut last = last_failure.lock().unwrap_or_else(PoisonError::into_inner);
                    *last = Some((Instant::now(), error.unsent()));
                }
                // The statement may have been committed.
                let error = error.into_store(true);
                for write in batch {
                    write.answer(Err(error.clone()));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{super::fresh::Fresh, Batches, Running};
    use crate::services::store::StoreError;

    #[tokio::test]
    async fn a_batch_that_panics_leaves_the_outcome_of_its_writes_unknown_and_others_go_on() {
        let fresh = Fresh::open().await;
        let run = |items: Arc<[bool]>| -> Running<()> {
            Box::pin(async move {
                assert!(!items.contains(&true), "on purpose");
                Ok(vec![(); items.len()])
            })
        };
        let batches = Batches::start(&fresh.sessions, 2, run);
        let lost = batches.write(true, 0).await;
        assert!(
            lost.as_ref().is_err_and(StoreError::is_indeterminate),
            "{lost:?}"
        );
        batches.write(false, 0).await.unwrap();
        drop(batches);
        fresh.drop().await;
    }
}
