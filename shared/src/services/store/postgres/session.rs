//! Transactions on pooled connections.
//!
//! All that is sent is `SET LOCAL` and unnamed statements, so a pooler in transaction mode can be
//! between. Nothing is cancelled by its caller's leaving: each write runs in a task of its own. A
//! commit above all must not be cancelled, since the server acknowledges a cancelled wait for its
//! standby as if it had succeeded: at the deadline the connection is dropped.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use deadpool_postgres::{Object, Pool, PoolError};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError},
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_postgres::{
    Row,
    types::{ToSql, Type},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::warn;

use super::{
    error::Error,
    function::Function,
    hosts::Hosts,
    stall::{self, Stall, Turn},
    timeline,
};
use crate::services::store::{
    StoreError, Trouble,
    condition::Condition,
    metrics::{Connections, Measures, QueueLevel},
};

/// A parameter and its type, which is sent with the statement: that saves a round trip.
pub(super) type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);

/// How long a read or a write may take, once it has a connection. The server gives up a little
/// earlier, so that its answer makes the outcome known.
const DEADLINE: Duration = Duration::from_secs(20);

/// How long it may wait for a connection before. Nothing is sent by then: it has failed, and the
/// server is not suspected.
const WAIT: Duration = Duration::from_secs(10);

/// Begins a transaction of several statements. `statement_timeout` counts for each of them.
///
/// What the role or the database may have set otherwise is set here: the level, by which later
/// statements see what others have committed, and the times.
///
/// What a write names, it finds by an index. The planner would scan the table for the hundreds of
/// rows of a batch, as long as it is of some size; and compile its plan, if it must scan one.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = '5s'; SET LOCAL statement_timeout = '15s';
    SET LOCAL idle_in_transaction_session_timeout = '15s';
    SET LOCAL enable_seqscan = off; SET LOCAL jit = off";

/// Ends it. A server that cancels a commit which waits for its standby acknowledges it.
const COMMIT: &str = "SET LOCAL statement_timeout = 0; COMMIT";

/// Begins a transaction of one statement, which waits for nothing but locks, and for its commit.
/// If this host vanishes before it has sent the commit, the server ends it.
const BEGIN_ONE: &str = "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = '5s';
    SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = '15s';
    SET LOCAL enable_seqscan = off; SET LOCAL jit = off";

/// Begins a call of a function, which sets the rest itself.
const BEGIN_CALL: &str = "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL statement_timeout = 0;
    SET LOCAL idle_in_transaction_session_timeout = '15s'";

/// Begins a read.
const BEGIN_READ: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY;
    SET LOCAL statement_timeout = '15s'";

/// The same, of several statements: searches and counts, which go along indexes and end early. The
/// planner would rather scan the table, for what it believes of the number of jobs is of another
/// minute; and compile its plan, for it believes that to be expensive.
const BEGIN_SNAPSHOT: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
    SET LOCAL statement_timeout = '15s';
    SET LOCAL idle_in_transaction_session_timeout = '15s';
    SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off;
    SET LOCAL jit = off; SET LOCAL max_parallel_workers_per_gather = 0";

/// How long a store that closes waits for what is under way.
const CLOSE: Duration = Duration::from_secs(2);

/// As often a write runs that others are in the way of.
const TRIES: u32 = 5;

/// How long no other connection is asked for that the server had no room for.
const NO_ROOM: Duration = Duration::from_secs(2);

/// Reads that may wait or run.
const READS: usize = 1024;

/// Reads that run at a time: the other connections are for writes.
const READING: usize = super::connect::CONNECTIONS * 2 / 3;

/// Those of them that examine many rows. No short one waits for these.
const LONG: usize = READING / 2;

/// A place in the queue of writes.
pub(super) type Room = OwnedSemaphorePermit;

/// The connections of a process.
pub(super) struct Sessions {
    pool: Pool,
    hosts: Arc<Hosts>,
    /// The connections that may be in use. The pool has as many.
    connections: Arc<Semaphore>,
    stall: Stall,
    condition: Condition,
    measures: Measures,
    /// The queue of writes of all kinds: those that wait for a connection hold a place.
    writes: Arc<Semaphore>,
    write_queue: usize,
    reads: Arc<Semaphore>,
    reading: Arc<Semaphore>,
    reading_long: Arc<Semaphore>,
    /// The writes under way, and what gathers them.
    tasks: TaskTracker,
    closing: CancellationToken,
}

impl Sessions {
    /// Up to `write_queue` writes may wait.
    pub(super) fn of((pool, hosts): (Pool, Arc<Hosts>), write_queue: usize) -> Self {
        Self {
            pool,
            hosts,
            connections: Arc::new(Semaphore::new(super::connect::CONNECTIONS)),
            stall: Stall::default(),
            condition: Condition::healthy(
                "the database rejects transactions; they fail until it recovers",
                "the database accepts transactions again",
            ),
            measures: Measures::new(),
            writes: Arc::new(Semaphore::new(write_queue)),
            write_queue,
            reads: Arc::new(Semaphore::new(READS)),
            reading: Arc::new(Semaphore::new(READING)),
            reading_long: Arc::new(Semaphore::new(LONG)),
            tasks: TaskTracker::new(),
            closing: CancellationToken::new(),
        }
    }

    pub(super) fn condition(&self) -> &Condition {
        &self.condition
    }

    pub(super) fn measures(&self) -> &Measures {
        &self.measures
    }

    /// How many writes may wait.
    pub(super) fn write_queue(&self) -> usize {
        self.write_queue
    }

    /// What runs until the store closes: it is waited for.
    pub(super) fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    /// Cancelled when the store begins to close.
    pub(super) fn closing(&self) -> &CancellationToken {
        &self.closing
    }

    /// The queues of writes and of reads.
    pub(super) fn queue_levels(&self) -> (QueueLevel, QueueLevel) {
        let level = |semaphore: &Semaphore, capacity: usize| QueueLevel {
            depth: capacity.saturating_sub(semaphore.available_permits()),
            capacity,
        };
        (
            level(&self.writes, self.write_queue),
            level(&self.reads, READS),
        )
    }

    /// The hosts of the database.
    pub(super) fn hosts(&self) -> &Hosts {
        &self.hosts
    }

    pub(super) fn connections(&self) -> Connections {
        let pool = self.pool.status();
        Connections {
            open: pool.size,
            in_use: pool.size.saturating_sub(pool.available),
            waiting: pool.waiting,
            limit: pool.max_size,
        }
    }

    /// Commits what is queued, and closes the connections. Later operations fail.
    ///
    /// Nobody waits for the outcomes any more, so a server that hangs is given [`CLOSE`].
    pub(super) async fn close(&self) {
        self.writes.close();
        for reads in [&self.reads, &self.reading, &self.reading_long] {
            reads.close();
        }
        self.closing.cancel();
        self.tasks.close();
        if timeout(CLOSE, self.tasks.wait()).await.is_err() {
            let writes = self.tasks.len();
            warn!(
                writes,
                "the database has not answered in time: the outcome of writes is unknown"
            );
        }
        self.connections.close();
        self.pool.close();
    }

    /// Waits for a place in the queue of writes.
    pub(super) async fn room(&self) -> Result<Room, StoreError> {
        let room = Arc::clone(&self.writes).acquire_owned().await;
        room.map_err(|_| StoreError::Closed)
    }

    /// The same, and fails at once if the queue is full.
    pub(super) fn try_room(&self) -> Result<Room, StoreError> {
        let room = Arc::clone(&self.writes).try_acquire_owned();
        room.map_err(|error| match error {
            TryAcquireError::NoPermits => StoreError::QueueFull,
            TryAcquireError::Closed => StoreError::Closed,
        })
    }

    /// Runs one read.
    pub(super) async fn query(
        &self,
        sql: &str,
        parameters: &[Parameter<'_>],
    ) -> Result<Vec<Row>, StoreError> {
        let _room = self.room_for_read()?;
        let _turn = turn(&self.reading).await?;
        let found = self.one(BEGIN_READ, sql, parameters).await;
        self.noted(found).map_err(|error| error.into_store(false))
    }

    /// Runs `read`, of several statements, on one snapshot, and writes nothing.
    pub(super) async fn snapshot<T>(
        &self,
        read: impl AsyncFnOnce(&Session) -> Result<T, Error>,
    ) -> Result<T, StoreError> {
        let _room = self.room_for_read()?;
        let _turns = (turn(&self.reading_long).await?, turn(&self.reading).await?);
        let run = async {
            let session = self.session().await?;
            let deadline = Instant::now() + DEADLINE;
            let connection = Arc::clone(&session.0);
            let running = async {
                // Both are sent at once, as in `one`. What reads outside of a transaction does no
                // harm, and is given up.
                let ((), found) = tokio::try_join!(
                    biased;
                    self.begin(&session, BEGIN_SNAPSHOT),
                    read(&session)
                )?;
                session.execute_all("COMMIT").await?;
                Ok(found)
            };
            let found = timeout_at(deadline, running).await;
            let found = found.unwrap_or(Err(Error::Deadline));
            match &found {
                Ok(_) => connection.is_usable(),
                Err(error) => self.learn(error, connection.opened),
            }
            found
        };
        self.noted(run.await)
            .map_err(|error| error.into_store(false))
    }

    /// Runs a read that ends with a commit, which waits for the synchronous standbys: in a task,
    /// so that it is not cancelled if the caller leaves.
    pub(super) async fn confirmed<T, Run, Running>(
        self: &Arc<Self>,
        run: Run,
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
        Run: FnOnce(Arc<Self>) -> Running,
        Running: Future<Output = Result<T, Error>> + Send + 'static,
    {
        let places = (self.room_for_read()?, turn(&self.reading).await?);
        let run = run(Arc::clone(self));
        let task = self.tasks.spawn(async move {
            let _places = places;
            run.await.map_err(|error| error.into_store(false))
        });
        task.await.unwrap_or_else(|_| Err(unanswered()))
    }

    fn room_for_read(&self) -> Result<OwnedSemaphorePermit, StoreError> {
        let room = Arc::clone(&self.reads).try_acquire_owned();
        room.map_err(|error| match error {
            TryAcquireError::NoPermits => StoreError::QueueFull,
            TryAcquireError::Closed => StoreError::Closed,
        })
    }

    /// Runs a single statement in a transaction of its own, in one round trip.
    async fn one(
        &self,
        begin: &str,
        sql: &str,
        parameters: &[Parameter<'_>],
    ) -> Result<Vec<Row>, Error> {
        let session = self.session().await?;
        let deadline = Instant::now() + DEADLINE;
        let running = async {
            // All are sent at once: statements are queued in the order in which they are polled.
            let (transaction, rows, ended) = tokio::join!(
                biased;
                self.begin(&session, begin),
                session.query(sql, parameters),
                // If the statement has failed, it rolls back.
                session.execute_all("COMMIT")
            );
            if transaction.is_ok() && ended.is_ok() {
                session.0.is_usable();
            }
            came_of(transaction, rows, ended)
        };
        let done = timeout_at(deadline, running).await;
        let done = done.unwrap_or(Err(Error::Deadline));
        if let Err(error) = &done {
            if error.spoils_connection() {
                session.0.is_spoilt();
            }
            self.learn(error, session.0.opened);
        }
        done
    }

    /// Begins a transaction. Now and then this asks for the timeline, in the same transaction: a
    /// pooler may have another server by now. An old primary fails that, so that nothing which was
    /// sent together with it is committed there.
    async fn begin(&self, session: &Session, begin: &str) -> Result<(), Error> {
        let client = session.0.client();
        let Some(question) = self.hosts.question() else {
            return client.batch_execute(begin).await.map_err(Error::of_begin);
        };
        let number = match client.simple_query(&format!("{begin}; {question}")).await {
            Ok(answers) => timeline::number_in(&answers),
            Err(error) => match timeline::replaced(&error) {
                None => return Err(Error::of_begin(error)),
                old => old,
            },
        };
        self.hosts.check(number).map_err(Error::OldPrimary)
    }

    /// What the failure of a connection that was opened at `opened` says of the others.
    fn learn(&self, error: &Error, opened: std::time::Instant) {
        if error.spoils_server() {
            self.hosts.distrust(opened);
        }
    }

    /// Whether a write may begin.
    async fn may_write(&self) -> Result<(), Error> {
        let is_waiting = || Err(Error::NoConnection(stall::WAITING.to_owned()));
        match self.stall.turn() {
            Turn::Begin => Ok(()),
            Turn::Fail => is_waiting(),
            Turn::Ask => {
                // If it can't be asked, the write itself will tell.
                let rows = self.one(BEGIN_READ, stall::IS_WAITING, &[]).await;
                let rows = rows.unwrap_or_default();
                if rows
                    .first()
                    .is_some_and(|row| matches!(row.try_get(0), Ok(true)))
                {
                    return is_waiting();
                }
                self.stall.end();
                Ok(())
            }
        }
    }

    /// Commits what `run` does, in a transaction of its own, also if the caller leaves. `run` may
    /// run several times, and is rolled back in between. Waits for room in the queue.
    pub(super) async fn write<T, Run, Running>(self: &Arc<Self>, run: Run) -> Result<T, StoreError>
    where
        T: Send + 'static,
        Run: Fn(Session) -> Running + Send + Sync + 'static,
        Running: Future<Output = Result<T, Error>> + Send,
    {
        let room = self.room().await?;
        self.write_in(room, run).await
    }

    /// The same, and waits for room in the queue for no longer than `patience`.
    pub(super) async fn write_within<T, Run, Running>(
        self: &Arc<Self>,
        patience: Duration,
        run: Run,
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
        Run: Fn(Session) -> Running + Send + Sync + 'static,
        Running: Future<Output = Result<T, Error>> + Send,
    {
        let room = timeout(patience, self.room()).await;
        self.write_in(room.unwrap_or(Err(StoreError::QueueFull))?, run)
            .await
    }

    async fn write_in<T, Run, Running>(
        self: &Arc<Self>,
        room: Room,
        run: Run,
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
        Run: Fn(Session) -> Running + Send + Sync + 'static,
        Running: Future<Output = Result<T, Error>> + Send,
    {
        let sessions = Arc::clone(self);
        let commit = async move { sessions.commit(Some(room), &run).await };
        self.in_task(commit).await
    }

    /// Commits what `run` does by [`Sessions::commit_one`], also if the caller leaves. Waits for
    /// room in the queue.
    pub(super) async fn write_one<T, Run, Running>(
        self: &Arc<Self>,
        run: Run,
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
        Run: FnOnce(Arc<Self>) -> Running,
        Running: Future<Output = Result<T, Error>> + Send + 'static,
    {
        let room = self.room().await?;
        let run = run(Arc::clone(self));
        let commit = async move {
            let _room = room;
            // A statement that was sent may have been committed.
            run.await.map_err(|error| error.into_store(true))
        };
        self.in_task(commit).await
    }

    /// Runs `commit` in a task, and measures it.
    async fn in_task<T: Send + 'static>(
        self: &Arc<Self>,
        commit: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> Result<T, StoreError> {
        let sessions = Arc::clone(self);
        let begun = Instant::now();
        let task = self.tasks.spawn(async move {
            let done = commit.await;
            match &done {
                Ok(_) => sessions.measures.committed(1, begun.elapsed()),
                Err(error) => {
                    if let Some(trouble) = error.trouble() {
                        sessions.measures.failed(trouble);
                    }
                }
            }
            done
        });
        // The panic hook has reported a panic; whether it came before the commit is unknown.
        task.await.unwrap_or_else(|_| Err(unanswered()))
    }

    /// Commits what `run` does. Unlike with `write`, the caller must not leave, and nothing is
    /// measured.
    pub(super) async fn commit<T, Run, Running>(
        &self,
        mut room: Option<Room>,
        run: &Run,
    ) -> Result<T, StoreError>
    where
        Run: Fn(Session) -> Running + Sync,
        Running: Future<Output = Result<T, Error>> + Send,
    {
        let last_try = Instant::now() + DEADLINE;
        let mut tries = 1;
        loop {
            let commits = AtomicBool::new(false);
            let done = self.try_commit(&mut room, run, &commits).await;
            match self.noted(done) {
                Err(error) if error.is_conflict() && tries < TRIES && Instant::now() < last_try => {
                    tries += 1;
                }
                // Relaxed: of this task alone.
                done => {
                    return done.map_err(|error| error.into_store(commits.load(Ordering::Relaxed)));
                }
            }
        }
    }

    /// The same, once, with the engine's own error.
    pub(super) async fn try_once<T, Run, Running>(&self, run: &Run) -> Result<T, Error>
    where
        Run: Fn(Session) -> Running + Sync,
        Running: Future<Output = Result<T, Error>> + Send,
    {
        self.try_commit(&mut None, run, &AtomicBool::new(false))
            .await
    }

    async fn try_commit<T, Run, Running>(
        &self,
        room: &mut Option<Room>,
        run: &Run,
        commits: &AtomicBool,
    ) -> Result<T, Error>
    where
        Run: Fn(Session) -> Running + Sync,
        Running: Future<Output = Result<T, Error>> + Send,
    {
        self.may_write().await?;
        let session = self.session().await?;
        let deadline = Instant::now() + DEADLINE;
        *room = None;
        let connection = Arc::clone(&session.0);
        let running = async {
            // First the answer: without a transaction, each statement would commit by itself.
            self.begin(&session, BEGIN).await?;
            let done = run(session).await?;
            commits.store(true, Ordering::Relaxed);
            connection.client().batch_execute(COMMIT).await?;
            Ok(done)
        };
        let done = timeout_at(deadline, running).await;
        let done = done.unwrap_or(Err(Error::Deadline));
        if let Err(error) = &done {
            self.learn(error, connection.opened);
            if matches!(error, Error::Deadline) && commits.load(Ordering::Relaxed) {
                self.stall.begin();
            }
        }
        match &done {
            Ok(_) => connection.is_usable(),
            Err(error) if !error.spoils_connection() => {
                let rollback = connection.client().batch_execute("ROLLBACK");
                if let Ok(Ok(())) = timeout_at(deadline, rollback).await {
                    connection.is_usable();
                }
            }
            Err(_) => {}
        }
        done
    }

    /// Calls a function, and commits. The caller must not leave: run it in a task.
    pub(super) async fn call(
        &self,
        function: &Function,
        parameters: &[Parameter<'_>],
    ) -> Result<Vec<Row>, Error> {
        self.commit_in(BEGIN_CALL, function.call(), parameters)
            .await
    }

    /// Commits a single statement, in one round trip. The caller must not leave: run it in a task.
    pub(super) async fn commit_one(
        &self,
        sql: &str,
        parameters: &[Parameter<'_>],
    ) -> Result<Vec<Row>, Error> {
        self.commit_in(BEGIN_ONE, sql, parameters).await
    }

    async fn commit_in(
        &self,
        begin: &str,
        sql: &str,
        parameters: &[Parameter<'_>],
    ) -> Result<Vec<Row>, Error> {
        let mut tries = 1;
        loop {
            match self.noted(self.one_write(begin, sql, parameters).await) {
                Err(error) if error.is_conflict() && tries < TRIES => tries += 1,
                done => return done,
            }
        }
    }

    async fn one_write(
        &self,
        begin: &str,
        sql: &str,
        parameters: &[Parameter<'_>],
    ) -> Result<Vec<Row>, Error> {
        self.may_write().await?;
        let done = self.one(begin, sql, parameters).await;
        if let Err(Error::Deadline) = done {
            self.stall.begin();
        }
        done
    }

    async fn session(&self) -> Result<Session, Error> {
        let connection = timeout(WAIT, self.connection()).await;
        let connection = connection.unwrap_or_else(|_| {
            let late = "no connection to the database was free in time";
            Err(Error::NoConnection(late.to_owned()))
        })?;
        Ok(Session(Arc::new(connection)))
    }

    async fn connection(&self) -> Result<Connection, Error> {
        loop {
            let room = Arc::clone(&self.connections).acquire_owned().await;
            let room = room.map_err(|_| Error::Closed)?;
            let client = match self.pool.get().await {
                Ok(client) => client,
                Err(PoolError::Closed) => return Err(Error::Closed),
                Err(PoolError::Backend(error)) => {
                    if let Some(problem) = self.hosts.problem() {
                        return Err(Error::NoConnection(problem));
                    }
                    let error = Error::Unbegun(error);
                    if !error.is_of_limit() || self.pool.status().size == 0 {
                        return Err(error);
                    }
                    // Those that there are serve: it waits for one of them.
                    tokio::spawn(async move {
                        sleep(NO_ROOM).await;
                        drop(room);
                    });
                    continue;
                }
                Err(error) => return Err(Error::NoConnection(error.to_string())),
            };
            let opened = Object::metrics(&client).created;
            if !self.hosts.are_trusted_since(opened) {
                drop(Object::take(client));
                continue;
            }
            return Ok(Connection {
                client: Some(client),
                opened,
                is_usable: AtomicBool::new(false),
                _room: room,
            });
        }
    }

    /// Notes the condition of the database.
    fn noted<T>(&self, done: Result<T, Error>) -> Result<T, Error> {
        match &done {
            Ok(_) => self.condition.succeeded(),
            // The data of one statement, or others that are in its way, say nothing of the rest.
            Err(error) if error.is_of_data() || error.is_conflict() => {}
            Err(Error::Closed) => {}
            Err(error) => self.condition.failed(error.trouble(), &error.message()),
        }
        done
    }
}

/// A connection in use. Statements that are polled together are sent together.
#[derive(Clone)]
pub(super) struct Session(Arc<Connection>);

struct Connection {
    /// Taken when it is dropped.
    client: Option<Object>,
    opened: std::time::Instant,
    /// Whether it may be used again. Otherwise it is closed, and the server rolls back.
    is_usable: AtomicBool,
    /// Its place among the connections in use. Freed after the client is back in the pool.
    _room: OwnedSemaphorePermit,
}

impl Connection {
    fn client(&self) -> &Object {
        let Some(client) = &self.client else {
            unreachable!("it is taken when it is dropped");
        };
        client
    }

    // Relaxed: whoever drops the last handle has seen it.
    fn is_usable(&self) {
        self.is_usable.store(true, Ordering::Relaxed);
    }

    fn is_spoilt(&self) {
        self.is_usable.store(false, Ordering::Relaxed);
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if !self.is_usable.load(Ordering::Relaxed)
            && let Some(client) = self.client.take()
        {
            drop(Object::take(client));
        }
    }
}

impl Session {
    /// Runs a statement, and returns its rows.
    pub(super) async fn query(
        &self,
        sql: &str,
        parameters: &[Parameter<'_>],
    ) -> Result<Vec<Row>, Error> {
        Ok(self.0.client().query_typed(sql, parameters).await?)
    }

    /// Runs a statement, and returns its only row, or none.
    pub(super) async fn find(
        &self,
        sql: &str,
        parameters: &[Parameter<'_>],
    ) -> Result<Option<Row>, Error> {
        Ok(self.query(sql, parameters).await?.pop())
    }

    /// Runs a statement, and returns the number of rows that it has changed.
    pub(super) async fn execute(
        &self,
        sql: &str,
        parameters: &[Parameter<'_>],
    ) -> Result<u64, Error> {
        Ok(self.0.client().execute_typed(sql, parameters).await?)
    }

    /// Runs statements without parameters.
    pub(super) async fn execute_all(&self, sql: &str) -> Result<(), Error> {
        Ok(self.0.client().batch_execute(sql).await?)
    }
}

/// What came of a transaction whose begin, statement and end were sent together.
///
/// If the begin alone was refused, the statement was run outside of a transaction, and commits by
/// itself. Its answer says whether it has failed. Its success is no promise: it ran under the
/// role's own limits, and the server reports success for a commit whose wait for a standby one of
/// them has cancelled.
fn came_of(
    begun: Result<(), Error>,
    rows: Result<Vec<Row>, Error>,
    ended: Result<(), Error>,
) -> Result<Vec<Row>, Error> {
    let Err(refusal) = begun else {
        return rows.and_then(|rows| ended.map(|()| rows));
    };
    let has_failed = match &rows {
        Ok(_) => false,
        Err(error) => error.is_answer() || refusal.ends_session(),
    };
    // Without an answer to the begin, nothing is known of the statement either.
    Err(if has_failed || !refusal.is_answer() {
        refusal
    } else {
        Error::Outside(Box::new(refusal))
    })
}

async fn turn(turns: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, StoreError> {
    let turn = Arc::clone(turns).acquire_owned().await;
    turn.map_err(|_| StoreError::Closed)
}

/// The error of a write whose task has panicked: it may have been committed before.
pub(super) fn unanswered() -> StoreError {
    StoreError::Indeterminate {
        trouble: Trouble::Other,
        message: "the task of this write ended without an answer".into(),
    }
}

#[cfg(test)]
mod waits;
