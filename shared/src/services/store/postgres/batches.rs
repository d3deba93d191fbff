//! Writes of a kind, gathered into one statement a batch.
//!
//! A statement costs a round trip and a commit, so all writes that arrive while a few batches are
//! under way share the next one. A batch that fails because of the data of one of its writes is
//! split in halves, until that one stands alone.

use std::{future::Future, pin::Pin, sync::Arc};

use tokio::sync::{Semaphore, mpsc, oneshot};

use super::error::Error;
use crate::services::store::{StoreError, metrics::QueueLevel};

/// The most writes of a batch.
const BATCH: usize = 512;

/// The most bytes of bodies in a batch. A single write with more has a batch of its own.
const BATCH_BYTES: usize = 4 << 20;

/// A batch that is run: what came of each of its writes, in order.
pub(super) type Running<O> = Pin<Box<dyn Future<Output = Result<Vec<O>, Error>> + Send>>;

/// A write that waits for its batch.
struct Waiting<I, O> {
    item: I,
    bytes: usize,
    answer: oneshot::Sender<Result<O, StoreError>>,
}

/// The writes of one kind.
pub(super) struct Batches<I, O> {
    queue: mpsc::Sender<Waiting<I, O>>,
}

impl<I: Send + Sync + 'static, O: Send + 'static> Batches<I, O> {
    /// Starts to gather writes for `run`, with a queue of `capacity`, and up to `in_flight` batches
    /// under way.
    ///
    /// `run` commits one statement. It may be called again with a part of the same writes.
    pub(super) fn start(
        capacity: usize,
        in_flight: usize,
        run: impl Fn(Arc<[I]>) -> Running<O> + Send + Sync + 'static,
    ) -> Self
    where
        I: Clone,
    {
        let (queue, writes) = mpsc::channel(capacity);
        tokio::spawn(gather(writes, in_flight, Arc::new(run)));
        Self { queue }
    }

    /// Commits `item`, which stores `bytes` of bodies, with others. Waits for room in the queue.
    pub(super) async fn write(&self, item: I, bytes: usize) -> Result<O, StoreError> {
        let (answer, outcome) = oneshot::channel();
        let waiting = Waiting {
            item,
            bytes,
            answer,
        };
        let queued = self.queue.send(waiting).await;
        queued.map_err(|_| StoreError::Closed)?;
        outcome.await.unwrap_or(Err(StoreError::Closed))
    }

    /// The same, and fails at once if the queue is full.
    pub(super) async fn try_write(&self, item: I, bytes: usize) -> Result<O, StoreError> {
        let (answer, outcome) = oneshot::channel();
        let waiting = Waiting {
            item,
            bytes,
            answer,
        };
        self.queue.try_send(waiting).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => StoreError::QueueFull,
            mpsc::error::TrySendError::Closed(_) => StoreError::Closed,
        })?;
        outcome.await.unwrap_or(Err(StoreError::Closed))
    }

    /// How many writes wait, and how many may.
    pub(super) fn level(&self) -> QueueLevel {
        let capacity = self.queue.max_capacity();
        QueueLevel {
            depth: capacity.saturating_sub(self.queue.capacity()),
            capacity,
        }
    }
}

async fn gather<I, O, Run>(
    mut writes: mpsc::Receiver<Waiting<I, O>>,
    in_flight: usize,
    run: Arc<Run>,
) where
    I: Clone + Send + Sync + 'static,
    O: Send + 'static,
    Run: Fn(Arc<[I]>) -> Running<O> + Send + Sync + 'static,
{
    let permits = Arc::new(Semaphore::new(in_flight));
    let mut next = Vec::new();
    loop {
        // First the permit: what arrives while all batches are under way is one batch.
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
            return;
        };
        if next.is_empty() && writes.recv_many(&mut next, BATCH).await == 0 {
            return;
        }
        let rest = next.split_off(fitting(&next));
        let batch = std::mem::replace(&mut next, rest);
        let run = Arc::clone(&run);
        tokio::spawn(async move {
            let _permit = permit;
            settle(batch, &*run).await;
        });
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
async fn settle<I, O, Run>(batch: Vec<Waiting<I, O>>, run: &Run)
where
    I: Clone,
    Run: Fn(Arc<[I]>) -> Running<O>,
{
    let mut left = vec![batch];
    while let Some(mut batch) = left.pop() {
        let items: Arc<[I]> = batch.iter().map(|write| write.item.clone()).collect();
        match run(items).await {
            Ok(outcomes) => {
                for (write, outcome) in batch.into_iter().zip(outcomes) {
                    let _ = write.answer.send(Ok(outcome)); // the caller may be gone
                }
            }
            Err(error) if error.is_of_data() && batch.len() > 1 => {
                let half = batch.split_off(batch.len() / 2);
                left.extend([half, batch]);
            }
            Err(error) => {
                // A statement is its own transaction: it may have been committed.
                let error = error.into_store(true);
                for write in batch {
                    let _ = write.answer.send(Err(error.clone()));
                }
            }
        }
    }
}
