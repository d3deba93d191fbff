//! The single writer of a process, with group commit.
//!
//! A commit costs an fsync, so all writes that arrive during one commit share the next transaction.
//! Callers get their result after the commit and the fsync (`durability`).
//!
//! A write that fails is rolled back alone. But few fail, and a savepoint for each would cost 6 %
//! of a transaction. So there are none at first. If a write fails, the transaction is rolled back,
//! and runs once more with a savepoint for each write. So every write must be safe to run twice:
//! what it does outside the database must not depend on its being committed.
//!
//! Writes are committed in the order in which they were queued.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rusqlite::Connection;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    checkpoint, clock::Clock, durability::Durability, files::OpenFiles, moved, sizes, trouble,
};
use crate::{
    memory::Reservation,
    services::store::{
        Held, StoreError, Trouble,
        condition::Condition,
        metrics::{Measures, QueueLevel},
    },
};

/// Maximum writes per transaction. It bounds how long other processes wait for the write lock.
const BATCH: usize = 1024;

/// Maximum bytes of bodies per transaction, for the same reason. A single write with more has a
/// transaction of its own.
const BATCH_BYTES: usize = 4 << 20;

/// The bodies that a write stores.
#[derive(Debug, Default)]
pub(super) struct Bodies {
    /// Their size as they are stored.
    pub(super) bytes: usize,
    /// What they hold of the memory budget until the commit, even if the caller is gone.
    #[expect(dead_code, reason = "it only has to live as long as the write")]
    pub(super) memory: Option<Arc<Reservation>>,
    /// What else is held until the write is over.
    #[expect(dead_code, reason = "it only has to live as long as the write")]
    pub(super) held: Option<Held>,
}

impl Bodies {
    /// Bodies that their caller keeps reserved, if they count at all.
    pub(super) fn of(bytes: usize) -> Self {
        Self {
            bytes,
            memory: None,
            held: None,
        }
    }
}

/// A handle to the writer's thread.
pub(super) struct Writer {
    // Bounded, in front of tokio-rusqlite's own channel, which is not.
    queue: mpsc::Sender<Box<dyn Write>>,
    closing: CancellationToken,
    task: Mutex<Option<JoinHandle<()>>>,
    database: Arc<Database>,
}

impl Writer {
    /// Starts the writer on `connection` to `files`, with a queue of `capacity` writes. It saves
    /// the time of `clock`, and makes commits durable by `durability`.
    pub(super) fn start(
        connection: tokio_rusqlite::Connection,
        files: OpenFiles,
        clock: Arc<Clock>,
        durability: Durability,
        capacity: usize,
    ) -> Self {
        let (queue, writes) = mpsc::channel(capacity);
        let closing = CancellationToken::new();
        let condition = Condition::healthy(
            "the database rejects writes; they fail until it recovers",
            "the database accepts writes again",
        );
        let database = Arc::new(Database {
            condition,
            files,
            clock,
            durability: Arc::new(durability),
            truncates_soon: AtomicBool::new(false),
            measures: Measures::new(),
        });
        let running = run(connection, writes, closing.clone(), Arc::clone(&database));
        let task = tokio::spawn(running);
        Self {
            queue,
            closing,
            task: Mutex::new(Some(task)),
            database,
        }
    }

    /// Why the last transaction failed, or `None` if it was committed to files at their paths.
    pub(super) fn trouble(&self) -> Option<Trouble> {
        let Database {
            condition, files, ..
        } = &*self.database;
        condition
            .trouble()
            .or(files.are_moved().then_some(Trouble::Moved))
    }

    /// The files that it writes to.
    pub(super) fn files(&self) -> &OpenFiles {
        &self.database.files
    }

    /// For a write that erases something: it calls this in each of its runs. The write-ahead log
    /// is truncated soon after, however small it is, since it still has what was erased. Neither a
    /// caller that is gone nor an unknown outcome prevents that, and no truncation comes between
    /// this and the commit: both are of the writer's thread.
    pub(super) fn erases(&self) -> impl Fn() + Send + use<> {
        let database = Arc::clone(&self.database);
        move || database.truncates_soon.store(true, Ordering::Relaxed)
    }

    /// Waits until all is durable that was committed before the call, also by other processes. For
    /// an answer that rests on a read.
    ///
    /// # Errors
    /// It may not be durable.
    pub(super) async fn confirm(&self) -> Result<(), StoreError> {
        if self.database.durability.confirm().await.is_ok() {
            return Ok(());
        }
        // The writer repairs what it can, after this write, too. Nothing depends on the write.
        self.try_write(|_| Ok(()))
            .await
            .map_err(|error| match error {
                StoreError::Indeterminate { trouble, message } => {
                    StoreError::Failed { trouble, message }
                }
                error => error,
            })
    }

    /// What it has measured.
    pub(super) fn measures(&self) -> &Measures {
        &self.database.measures
    }

    /// How many writes wait, and how many may.
    pub(super) fn queue_level(&self) -> QueueLevel {
        let capacity = self.queue.max_capacity();
        QueueLevel {
            depth: capacity.saturating_sub(self.queue.capacity()),
            capacity,
        }
    }

    /// Completes when the writer is closed or its thread has ended.
    pub(super) async fn ended(&self) {
        self.queue.closed().await;
    }

    /// Commits `write`, which stores no bodies. Waits for room in the queue (backpressure). It may
    /// run twice, and is then rolled back in between.
    pub(super) async fn write<T: Send + 'static>(
        &self,
        write: impl FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.write_bodies(Bodies::default(), write).await
    }

    /// The same for a write that stores `bodies`.
    pub(super) async fn write_bodies<T: Send + 'static>(
        &self,
        bodies: Bodies,
        write: impl FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (write, outcome) = pending(write, bodies, false, |_| {});
        self.queue
            .send(write)
            .await
            .map_err(|_| StoreError::Closed)?;
        // A caller that is cancelled here loses only its answer: the write is committed all the
        // same.
        outcome.await.unwrap_or_else(|_| Err(trouble::unanswered()))
    }

    /// Commits `write`, which is promised to a client and stores no bodies. Fails at once if the
    /// queue is full (load shedding), and with [`Trouble::Moved`] if the next start would not find
    /// it.
    pub(super) async fn try_write<T: Send + 'static>(
        &self,
        write: impl FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.try_write_bodies(Bodies::default(), write).await
    }

    /// The same, but waits for room in the queue for up to `patience`. For operators, whose writes
    /// are few, and end a storm that fills the queue.
    pub(super) async fn write_within<T: Send + 'static>(
        &self,
        patience: Duration,
        write: impl FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (write, outcome) = pending(write, Bodies::default(), true, |_| {});
        // Rooms are given in the order of the calls: no later write takes this one's.
        let room = timeout(patience, self.queue.reserve()).await;
        let room = room.map_err(|_| StoreError::QueueFull)?;
        room.map_err(|_| StoreError::Closed)?.send(write);
        outcome.await.unwrap_or_else(|_| Err(trouble::unanswered()))
    }

    /// The same for a write that stores `bodies`.
    pub(super) async fn try_write_bodies<T: Send + 'static>(
        &self,
        bodies: Bodies,
        write: impl FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.try_write_and_tell(bodies, write, |_| {}).await
    }

    /// The same, and calls `tell` with the result, also if the caller is gone by then.
    pub(super) async fn try_write_and_tell<T: Send + 'static>(
        &self,
        bodies: Bodies,
        write: impl FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
        tell: impl FnOnce(&Result<T, StoreError>) + Send + 'static,
    ) -> Result<T, StoreError> {
        let (write, outcome) = pending(write, bodies, true, tell);
        self.queue.try_send(write).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => StoreError::QueueFull,
            mpsc::error::TrySendError::Closed(_) => StoreError::Closed,
        })?;
        outcome.await.unwrap_or_else(|_| Err(trouble::unanswered()))
    }

    /// Commits all queued writes and closes the connection.
    pub(super) async fn close(&self) {
        self.closing.cancel();
        let task = self
            .task
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .take();
        if let Some(task) = task {
            let _ = task.await; // the panic hook has already reported a panic
        }
    }
}

/// What the writer knows about the database.
struct Database {
    condition: Condition,
    files: OpenFiles,
    clock: Arc<Clock>,
    durability: Arc<Durability>,
    /// Whether the write-ahead log must be truncated soon: it may have what was erased, or a gap
    /// after a failed sync.
    truncates_soon: AtomicBool,
    measures: Measures,
}

async fn run(
    connection: tokio_rusqlite::Connection,
    mut queue: mpsc::Receiver<Box<dyn Write>>,
    closing: CancellationToken,
    database: Arc<Database>,
) {
    let mut period =
        tokio::time::interval_at(Instant::now() + checkpoint::PERIOD, checkpoint::PERIOD);
    // The default makes up for ticks missed in a long commit, all at once. The second of them would
    // count a period without writes and truncate the WAL under load.
    period.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut schedule = checkpoint::Schedule::start();
    let mut next = Vec::new(); // received, and too large for the batches so far
    loop {
        if next.is_empty() {
            next.reserve(queue.len().min(BATCH));
            // `recv_many` and `tick` are cancel-safe: no write is lost when another branch
            // completes.
            tokio::select! {
                // Closing the channel rejects new writes; `recv_many` still drains the queued ones.
                // The condition disables this branch then: a cancelled token stays ready, and the
                // loop would spin.
                () = closing.cancelled(), if !queue.is_closed() => { queue.close(); continue }
                received = queue.recv_many(&mut next, BATCH) => if received == 0 { break },
                _ = period.tick() => {}
            }
        } else {
            while next.len() < BATCH
                && let Ok(write) = queue.try_recv()
            {
                next.push(write);
            }
        }
        let rest = next.split_off(fitting(&next));
        let batch = std::mem::replace(&mut next, rest);
        let writes = Some(batch.len()).filter(|writes| *writes > 0);
        let is_truncated = schedule.is_due(writes, database.truncates_soon.load(Ordering::Relaxed));
        let measures_sizes = batch.is_empty();
        let committed = if batch.is_empty() {
            Ok(Ok(Committed::default()))
        } else {
            let database = Arc::clone(&database);
            // The loop waits for the commit. Writes that arrive meanwhile are the next batch.
            connection
                .call_raw(move |db| commit(db, batch, &database))
                .await
        };
        match committed {
            // Here, and not on the connection's thread: from a thread of the runtime, to wake a
            // task costs no system call.
            Ok(Ok(Committed { batch, is_moved })) => settle(batch, &Ok(()), is_moved),
            Ok(Err(Failed { error, mut batch })) => {
                // The queued writes have already waited for this lock as long as the batch, so they
                // fail with it instead of waiting BUSY_TIMEOUT again, batch after batch. Take them
                // before any caller is answered: a caller's retry must not fail with them.
                if error.trouble() == Some(Trouble::Busy) {
                    batch.append(&mut next);
                    while let Ok(write) = queue.try_recv() {
                        batch.push(write);
                    }
                }
                settle(batch, &Err(error), false);
            }
            Err(_) => {
                // The batch was dropped with the thread, so its callers get no answer: it may have
                // been committed.
                log_the_threads_end();
                break;
            }
        }
        if is_truncated || measures_sizes {
            let database = Arc::clone(&database);
            let kept = connection.call_raw(move |db| {
                if is_truncated {
                    truncate(db, &database);
                }
                if measures_sizes {
                    measure(db, &database);
                }
            });
            if kept.await.is_err() {
                log_the_threads_end();
                break;
            }
        }
    }
    // Writes that are still queued were never begun.
    queue.close();
    settle(next, &Err(StoreError::Closed), false);
    while let Some(write) = queue.recv().await {
        write.settle(&Err(StoreError::Closed), false);
    }
    // The log stays if another process has the database open.
    if database.truncates_soon.load(Ordering::Relaxed) {
        let truncate = move |db: &mut Connection| truncate(db, &database);
        let _ = connection.call_raw(truncate).await; // `close` reports a thread that ended
    }
    if let Err(error) = connection.close().await {
        tracing::warn!(%error, "the database was not closed cleanly");
    }
}

fn log_the_threads_end() {
    tracing::error!("the database writer thread ended; all writes fail from now on");
}

/// How many of these writes, from the first on, fit into one transaction: at least one, if there is
/// one.
fn fitting(writes: &[Box<dyn Write>]) -> usize {
    let mut bytes = 0;
    let mut fits = |size: usize| {
        bytes += size;
        bytes <= BATCH_BYTES
    };
    let sizes = writes.iter().map(|write| write.bytes());
    let count = sizes.take_while(|size| fits(*size)).count();
    count.max(1).min(writes.len())
}

/// Truncates the write-ahead log, if that is worth it.
fn truncate(connection: &Connection, database: &Database) {
    // Cleared first: what comes from here on is left to the next period.
    let is_due = database.truncates_soon.swap(false, Ordering::Relaxed);
    let limit = if is_due { 0 } else { checkpoint::SMALL };
    let truncated = checkpoint::truncate(connection, limit);
    if is_due && !matches!(truncated, Ok(true)) {
        database.truncates_soon.store(true, Ordering::Relaxed);
    }
    if let Err(error) = truncated {
        tracing::debug!(%error, "the WAL was not truncated");
    }
}

fn measure(connection: &Connection, database: &Database) {
    match sizes::of(connection) {
        Ok(sizes) => database.measures.measured(sizes),
        Err(error) => tracing::debug!(%error, "the database was not measured"),
    }
}

/// A durable transaction, with its writes; their callers have no result yet.
#[derive(Default)]
struct Committed {
    batch: Vec<Box<dyn Write>>,
    /// Whether it went into a file that is no longer at its path.
    is_moved: bool,
}

/// The same for a failed transaction.
struct Failed {
    error: StoreError,
    batch: Vec<Box<dyn Write>>,
}

/// Commits `batch` in one transaction (group commit) and makes it durable.
fn commit(
    connection: &mut Connection,
    mut batch: Vec<Box<dyn Write>>,
    database: &Database,
) -> Result<Committed, Failed> {
    let begun = Instant::now();
    let (error, is_commit) = match apply(connection, &mut batch, &database.clock) {
        Ok(()) => (execute(connection, "COMMIT").err(), true),
        Err(error) => (Some(error), false),
    };
    if let Some(error) = error {
        tracing::debug!(%error, writes = batch.len(), "a transaction failed");
        // Before any caller is answered: `Store::trouble` must name the cause by then.
        database.condition.failed(trouble::of(&error), &error);
        database.measures.failed(trouble::of(&error));
        let is_open = !connection.is_autocommit(); // SQLite may have rolled back itself
        if is_open {
            let _ = connection.execute_batch("ROLLBACK");
        }
        let error = if is_commit {
            trouble::commit_failed(&error, is_open)
        } else {
            trouble::failed(&error)
        };
        return Err(Failed { error, batch });
    }
    // After COMMIT, which has released the lock: others write while this waits for the disk.
    if let Err(error) = database.durability.secure(connection) {
        let trouble = error.trouble().unwrap_or(Trouble::Other);
        database.condition.failed(trouble, &error);
        database.measures.failed(trouble);
        database.truncates_soon.store(true, Ordering::Relaxed);
        return Err(Failed { error, batch });
    }
    database.condition.succeeded();
    database.measures.committed(batch.len(), begun.elapsed());
    // After COMMIT, too: a look before it would miss a file that is deleted meanwhile.
    let is_moved = database.files.check();
    if is_moved {
        database.measures.failed(Trouble::Moved);
    }
    Ok(Committed { batch, is_moved })
}

fn settle(batch: Vec<Box<dyn Write>>, committed: &Result<(), StoreError>, is_moved: bool) {
    for write in batch {
        write.settle(committed, is_moved);
    }
}

/// Runs `batch` in a transaction, up to its COMMIT.
fn apply(
    connection: &Connection,
    batch: &mut [Box<dyn Write>],
    clock: &Clock,
) -> rusqlite::Result<()> {
    begin(connection)?;
    let together = batch.iter_mut().try_for_each(|it| it.apply(connection));
    if let Err(error) = together {
        // Some errors (of a disk) roll back the whole transaction, and would do so again. And a
        // store that was moved refuses every write.
        if connection.is_autocommit() || moved::has_refused(&error) {
            return Err(error);
        }
        tracing::debug!(%error, writes = batch.len(), "a write failed; trying each one alone");
        execute(connection, "ROLLBACK")?;
        begin(connection)?;
        apply_each_alone(connection, batch)?;
    }
    clock.save(connection)
}

fn begin(connection: &Connection) -> rusqlite::Result<()> {
    // IMMEDIATE: a deferred transaction that becomes a write fails at once instead of waiting for
    // the lock.
    execute(connection, "BEGIN IMMEDIATE")
}

/// Runs each write of `batch` in a savepoint, so that one that fails is rolled back alone.
fn apply_each_alone(connection: &Connection, batch: &mut [Box<dyn Write>]) -> rusqlite::Result<()> {
    for write in batch {
        execute(connection, "SAVEPOINT one_write")?;
        if let Err(error) = write.apply(connection) {
            if connection.is_autocommit() {
                return Err(error);
            }
            execute(connection, "ROLLBACK TO one_write")?;
            write.rolled_back(error);
        }
        // In both cases: ROLLBACK TO leaves the savepoint on SQLite's stack.
        execute(connection, "RELEASE one_write")?;
    }
    Ok(())
}

fn execute(connection: &Connection, statement: &str) -> rusqlite::Result<()> {
    connection.prepare_cached(statement)?.execute([]).map(drop)
}

/// A queued write and its caller, for any result type.
trait Write: Send {
    /// The size of the bodies that it stores.
    fn bytes(&self) -> usize;
    /// Runs the write, and replaces the result of an earlier run.
    fn apply(&mut self, connection: &Connection) -> rusqlite::Result<()>;
    /// Records that the write was rolled back alone.
    fn rolled_back(&mut self, error: rusqlite::Error);
    /// Answers the caller, once the transaction's outcome is known, and whether a file of the
    /// database is no longer at its path.
    fn settle(self: Box<Self>, committed: &Result<(), StoreError>, is_moved: bool);
}

struct Pending<F, T, N> {
    work: F,
    bodies: Bodies,
    result: Option<Result<T, StoreError>>,
    /// Whether a client is told that the write lasts. A worker's writes go on in a file that was
    /// moved: its jobs are there.
    is_promised: bool,
    /// Hears the result, too, whether or not the caller is still there.
    tell: N,
    caller: oneshot::Sender<Result<T, StoreError>>,
}

fn pending<F, T, N>(
    work: F,
    bodies: Bodies,
    is_promised: bool,
    tell: N,
) -> (Box<dyn Write>, oneshot::Receiver<Result<T, StoreError>>)
where
    F: FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
    T: Send + 'static,
    N: FnOnce(&Result<T, StoreError>) + Send + 'static,
{
    let (caller, outcome) = oneshot::channel();
    (
        Box::new(Pending {
            work,
            bodies,
            result: None,
            is_promised,
            tell,
            caller,
        }),
        outcome,
    )
}

impl<F, T, N> Write for Pending<F, T, N>
where
    F: FnMut(&Connection) -> rusqlite::Result<T> + Send,
    T: Send,
    N: FnOnce(&Result<T, StoreError>) + Send,
{
    fn bytes(&self) -> usize {
        self.bodies.bytes
    }

    fn apply(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        self.result = Some(Ok((self.work)(connection)?));
        Ok(())
    }

    fn rolled_back(&mut self, error: rusqlite::Error) {
        self.result = Some(Err(trouble::failed(&error)));
    }

    fn settle(self: Box<Self>, committed: &Result<(), StoreError>, is_moved: bool) {
        let result = match committed {
            Ok(()) if is_moved && self.is_promised => Err(trouble::moved()),
            // `apply` or `rolled_back` has set the result of every write of a committed batch.
            Ok(()) => self.result.unwrap_or(Err(StoreError::Closed)),
            Err(error) => match self.result {
                // It has failed by itself, whatever became of the transaction.
                Some(Err(own)) => Err(own),
                // Even if this write succeeded: its transaction did not.
                _ => Err(error.clone()),
            },
        };
        (self.tell)(&result);
        let _ = self.caller.send(result); // the caller may have been cancelled
    }
}

#[cfg(test)]
mod tests;
