//! The one writer of a process: whatever writes wait go into one transaction.
//!
//! A commit costs an fsync, so the writes that arrive during one commit share the next. Each stands
//! in a savepoint: one that fails is undone alone. A write's caller hears of it after the commit.

use std::sync::{Arc, Mutex};

use rusqlite::Connection;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::{Instant, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

use super::{StoreError, Trouble, condition::Condition, log};

/// The most writes in one transaction. It bounds how long the others wait for the database's lock.
const BATCH: usize = 1024;

/// The way to the writer's thread.
pub(super) struct Writer {
    queue: mpsc::Sender<Box<dyn Write>>,
    closing: CancellationToken,
    task: Mutex<Option<JoinHandle<()>>>,
    condition: Arc<Condition>,
}

impl Writer {
    /// Starts the writer on `connection`; `capacity` writes may wait for it.
    pub(super) fn start(connection: tokio_rusqlite::Connection, capacity: usize) -> Self {
        let (queue, waiting) = mpsc::channel(capacity);
        let closing = CancellationToken::new();
        let condition = Arc::new(Condition::good(
            "the database takes no writes; they are refused until it does",
            "the database takes writes again",
        ));
        let task = run(connection, waiting, closing.clone(), Arc::clone(&condition));
        let task = tokio::spawn(task);
        Self {
            queue,
            closing,
            task: Mutex::new(Some(task)),
            condition,
        }
    }

    /// What kept the last transaction from its commit, if something did.
    pub(super) fn trouble(&self) -> Option<Trouble> {
        self.condition.trouble()
    }

    /// Completes when no write is taken any more: the writer is closed, or its thread has ended.
    pub(super) async fn ended(&self) {
        self.queue.closed().await;
    }

    /// Has `write` committed, waiting for a place in the queue.
    pub(super) async fn write<T: Send + 'static>(
        &self,
        write: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (write, outcome) = pending(write);
        self.queue
            .send(write)
            .await
            .map_err(|_| StoreError::Closed)?;
        outcome.await.unwrap_or(Err(StoreError::Closed))
    }

    /// Has `write` committed, or refuses it at once when the queue is full.
    pub(super) async fn try_write<T: Send + 'static>(
        &self,
        write: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (write, outcome) = pending(write);
        self.queue.try_send(write).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => StoreError::QueueFull,
            mpsc::error::TrySendError::Closed(_) => StoreError::Closed,
        })?;
        outcome.await.unwrap_or(Err(StoreError::Closed))
    }

    /// Commits what waits and closes the connection.
    pub(super) async fn close(&self) {
        self.closing.cancel();
        let task = self
            .task
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .take();
        if let Some(task) = task {
            let _ = task.await; // a panic in it was reported where it happened
        }
    }
}

async fn run(
    connection: tokio_rusqlite::Connection,
    mut waiting: mpsc::Receiver<Box<dyn Write>>,
    closing: CancellationToken,
    condition: Arc<Condition>,
) {
    let mut period = tokio::time::interval_at(Instant::now() + log::PERIOD, log::PERIOD);
    period.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut writes = 0; // in this period
    loop {
        let mut batch = Vec::with_capacity(BATCH);
        tokio::select! {
            // What waits when the store closes is still committed: `close` only shuts the door.
            () = closing.cancelled(), if !waiting.is_closed() => { waiting.close(); continue }
            taken = waiting.recv_many(&mut batch, BATCH) => if taken == 0 { break },
            _ = period.tick() => {}
        }
        let tidy = batch.is_empty() && writes <= log::LITTLE;
        writes = if batch.is_empty() {
            0
        } else {
            writes + batch.len()
        };
        let condition = Arc::clone(&condition);
        let done = connection.call_raw(move |db| {
            if !batch.is_empty() {
                return commit(db, batch, &condition);
            }
            if tidy && let Err(error) = log::cut_back(db) {
                tracing::debug!(%error, "the log stays as long as it is");
            }
            Ok(())
        });
        match done.await {
            Ok(Ok(())) => {}
            Ok(Err(Failed { error, mut batch })) => {
                // What waited behind a lock for so long need not each wait for it again. It is taken
                // before anyone is told: who tries again at a refusal, tries again.
                while error.trouble() == Some(Trouble::Busy)
                    && let Ok(write) = waiting.try_recv()
                {
                    batch.push(write);
                }
                settle(batch, &Err(error));
            }
            Err(_) => {
                tracing::error!("the database's thread has ended; every write is refused");
                break;
            }
        }
    }
    if let Err(error) = connection.close().await {
        tracing::warn!(%error, "the database was not closed cleanly");
    }
}

/// Writes that were not committed; nobody has been told yet.
struct Failed {
    error: StoreError,
    batch: Vec<Box<dyn Write>>,
}

/// Commits `batch` in one transaction, and tells every caller.
fn commit(
    connection: &mut Connection,
    mut batch: Vec<Box<dyn Write>>,
    condition: &Condition,
) -> Result<(), Failed> {
    if let Err(error) = apply(connection, &mut batch) {
        tracing::debug!(%error, writes = batch.len(), "a transaction failed");
        condition.failed((&error).into(), &error);
        if !connection.is_autocommit() {
            let _ = connection.execute_batch("ROLLBACK"); // or SQLite did so itself
        }
        let error = error.into();
        return Err(Failed { error, batch });
    }
    condition.went_well();
    settle(batch, &Ok(()));
    Ok(())
}

fn settle(batch: Vec<Box<dyn Write>>, committed: &Result<(), StoreError>) {
    for write in batch {
        write.settle(committed);
    }
}

fn apply(connection: &Connection, batch: &mut [Box<dyn Write>]) -> rusqlite::Result<()> {
    execute(connection, "BEGIN IMMEDIATE")?;
    for write in batch {
        execute(connection, "SAVEPOINT one_write")?;
        if let Err(error) = write.apply(connection) {
            // Some errors (a full disk) end the whole transaction.
            if connection.is_autocommit() {
                return Err(error);
            }
            execute(connection, "ROLLBACK TO one_write")?;
            write.undone(error);
        }
        execute(connection, "RELEASE one_write")?;
    }
    execute(connection, "COMMIT")
}

fn execute(connection: &Connection, statement: &str) -> rusqlite::Result<()> {
    connection.prepare_cached(statement)?.execute([]).map(drop)
}

/// A write and its caller, whatever the write returns.
trait Write: Send {
    /// Does the write within a savepoint.
    fn apply(&mut self, connection: &Connection) -> rusqlite::Result<()>;
    /// Takes note that the savepoint was rolled back.
    fn undone(&mut self, error: rusqlite::Error);
    /// Tells the caller, when the transaction's fate is known.
    fn settle(self: Box<Self>, committed: &Result<(), StoreError>);
}

struct Pending<F, T> {
    work: Option<F>,
    result: Option<Result<T, StoreError>>,
    caller: oneshot::Sender<Result<T, StoreError>>,
}

fn pending<F, T>(work: F) -> (Box<dyn Write>, oneshot::Receiver<Result<T, StoreError>>)
where
    F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    T: Send + 'static,
{
    let (caller, outcome) = oneshot::channel();
    (
        Box::new(Pending {
            work: Some(work),
            result: None,
            caller,
        }),
        outcome,
    )
}

impl<F, T> Write for Pending<F, T>
where
    F: FnOnce(&Connection) -> rusqlite::Result<T> + Send,
    T: Send,
{
    fn apply(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        if let Some(work) = self.work.take() {
            self.result = Some(Ok(work(connection)?));
        }
        Ok(())
    }

    fn undone(&mut self, error: rusqlite::Error) {
        self.result = Some(Err(error.into()));
    }

    fn settle(self: Box<Self>, committed: &Result<(), StoreError>) {
        let result = match committed {
            Ok(()) => self.result.unwrap_or(Err(StoreError::Closed)),
            Err(error) => Err(error.clone()),
        };
        let _ = self.caller.send(result); // a caller that went away needs no answer
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::{StoreError, Writer};

    #[tokio::test]
    async fn a_thread_that_dies_is_told_of() {
        let connection = Connection::open_in_memory().unwrap();
        let writer = Writer::start(connection.into(), 1);
        let died = writer.write(|_| -> rusqlite::Result<()> { panic!("as this test wants") });
        assert!(matches!(died.await, Err(StoreError::Closed)));
        writer.ended().await;
    }
}
