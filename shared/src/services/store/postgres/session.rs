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

use deadpool_postgres::{Object, Pool};
use tokio::time::{Instant, timeout_at};
use tokio_postgres::{
    Row,
    types::{ToSql, Type},
};

use super::error::Error;
use crate::services::store::{StoreError, Trouble, condition::Condition};

/// A parameter and its type, which is sent with the statement: that saves a round trip.
pub(super) type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);

/// How long a read or a write may take, with the wait for a connection. The server gives up a
/// little earlier, so that its answer makes the outcome known.
const DEADLINE: Duration = Duration::from_secs(20);

/// Begins a transaction. `statement_timeout` counts for each statement.
const BEGIN: &str = "BEGIN; SET LOCAL statement_timeout = '15s';
    SET LOCAL idle_in_transaction_session_timeout = '15s'";

/// As often a write runs that others are in the way of.
const TRIES: u32 = 5;

/// The connections of a process.
pub(super) struct Sessions {
    pool: Pool,
    condition: Condition,
}

impl Sessions {
    pub(super) fn of(pool: Pool) -> Self {
        Self {
            pool,
            condition: Condition::healthy(
                "the database rejects transactions; they fail until it recovers",
                "the database accepts transactions again",
            ),
        }
    }

    pub(super) fn pool(&self) -> &Pool {
        &self.pool
    }

    pub(super) fn condition(&self) -> &Condition {
        &self.condition
    }

    /// Runs one read.
    pub(super) async fn query(
        &self,
        sql: &str,
        parameters: &[Parameter<'_>],
    ) -> Result<Vec<Row>, StoreError> {
        let read = async |session: Session| session.query(sql, parameters).await;
        let found = self.one(read, Instant::now() + DEADLINE).await;
        self.noted(found).map_err(|error| error.into_store(false))
    }

    /// Runs `read`, of several statements, on one snapshot, and writes nothing.
    pub(super) async fn snapshot<T>(
        &self,
        read: impl AsyncFnOnce(&Session) -> Result<T, Error>,
    ) -> Result<T, StoreError> {
        let run = async |session: Session| {
            session
                .execute_all("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
                .await?;
            let found = read(&session).await?;
            session.execute_all("COMMIT").await?;
            Ok(found)
        };
        let found = self.one(run, Instant::now() + DEADLINE).await;
        self.noted(found).map_err(|error| error.into_store(false))
    }

    async fn one<T>(
        &self,
        run: impl AsyncFnOnce(Session) -> Result<T, Error>,
        deadline: Instant,
    ) -> Result<T, Error> {
        let session = self.session(deadline).await?;
        let connection = Arc::clone(&session.0);
        let done = timeout_at(deadline, run(session)).await;
        let done = done.unwrap_or(Err(Error::Deadline));
        if done.is_ok() {
            connection.is_usable();
        }
        done
    }

    /// Commits what `run` does, in a transaction of its own, also if the caller leaves. `run` may
    /// run several times, and is rolled back in between.
    pub(super) async fn write<T, Run, Running>(self: &Arc<Self>, run: Run) -> Result<T, StoreError>
    where
        T: Send + 'static,
        Run: Fn(Session) -> Running + Send + Sync + 'static,
        Running: Future<Output = Result<T, Error>> + Send,
    {
        let sessions = Arc::clone(self);
        let task = tokio::spawn(async move { sessions.commit(&run).await });
        // The panic hook has reported a panic; whether it came before the commit is unknown.
        task.await.unwrap_or_else(|_| Err(unanswered()))
    }

    async fn commit<T, Run, Running>(&self, run: &Run) -> Result<T, StoreError>
    where
        Run: Fn(Session) -> Running + Sync,
        Running: Future<Output = Result<T, Error>> + Send,
    {
        let deadline = Instant::now() + DEADLINE;
        let mut tries = 1;
        loop {
            let commits = AtomicBool::new(false);
            let done = self.try_commit(run, &commits, deadline).await;
            match self.noted(done) {
                Err(error) if error.is_conflict() && tries < TRIES => tries += 1,
                // Relaxed: of this task alone.
                done => {
                    return done.map_err(|error| error.into_store(commits.load(Ordering::Relaxed)));
                }
            }
        }
    }

    async fn try_commit<T, Run, Running>(
        &self,
        run: &Run,
        commits: &AtomicBool,
        deadline: Instant,
    ) -> Result<T, Error>
    where
        Run: Fn(Session) -> Running + Sync,
        Running: Future<Output = Result<T, Error>> + Send,
    {
        let session = self.session(deadline).await?;
        let connection = Arc::clone(&session.0);
        let running = async {
            // Both are sent at once: statements are queued in the order in which they are polled.
            let begin = connection.client().batch_execute(BEGIN);
            let (begun, done) = tokio::join!(biased; begin, run(session));
            begun?;
            let done = done?;
            commits.store(true, Ordering::Relaxed);
            connection.client().batch_execute("COMMIT").await?;
            Ok(done)
        };
        let done = timeout_at(deadline, running).await;
        let done = done.unwrap_or(Err(Error::Deadline));
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

    /// Commits a single statement, which the server runs in a transaction of its own: it takes one
    /// round trip. The caller must not leave: run it in a task.
    pub(super) async fn commit_one(
        &self,
        sql: &str,
        parameters: &[Parameter<'_>],
    ) -> Result<Vec<Row>, Error> {
        let run = async |session: Session| session.query(sql, parameters).await;
        let done = self.one(run, Instant::now() + DEADLINE).await;
        self.noted(done)
    }

    async fn session(&self, deadline: Instant) -> Result<Session, Error> {
        let connection = timeout_at(deadline, self.pool.get()).await;
        let connection = connection.map_err(|_| {
            Error::NoConnection("no connection to the database was free in time".to_owned())
        })?;
        let client = connection.map_err(|error| match error {
            deadpool_postgres::PoolError::Backend(error) => Error::Postgres(error),
            error => Error::NoConnection(error.to_string()),
        })?;
        Ok(Session(Arc::new(Connection {
            client: Some(client),
            is_usable: AtomicBool::new(false),
        })))
    }

    /// Notes the condition of the database.
    fn noted<T>(&self, done: Result<T, Error>) -> Result<T, Error> {
        match &done {
            Ok(_) => self.condition.succeeded(),
            // The data of one statement, or others that are in its way, say nothing of the rest.
            Err(error) if error.is_of_data() || error.is_conflict() => {}
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
    /// Whether it may be used again. Otherwise it is closed, and the server rolls back.
    is_usable: AtomicBool,
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

fn unanswered() -> StoreError {
    StoreError::Indeterminate {
        trouble: Trouble::Other,
        message: "the task of this write ended without an answer".into(),
    }
}
