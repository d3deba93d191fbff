//! The pooled connections, for commands that don't block.

use std::time::Duration;

use deadpool_redis::{Hook, HookError, Manager, Pool, Runtime, Timeouts};
use redis::{AsyncConnectionConfig, ConnectionInfo, Pipeline, Value};

use super::{DEADLINE, QueueError};

/// Pool size. Each connection carries one batch at a time.
pub(super) const CONNECTIONS: usize = 4;

/// The longest life of a connection. Only a new connection looks the name up again, and the server
/// that the name has left may still answer as a master.
pub(super) const LONGEST_LIFE: Duration = Duration::from_mins(1);

/// A pool that keeps only connections whose last answer was good. Clones share it.
#[derive(Clone)]
pub(super) struct Connections {
    pool: Pool,
}

impl Connections {
    /// Connects on first use.
    pub(super) fn new(server: ConnectionInfo) -> Result<Self, QueueError> {
        // Without a response timeout, a command on a half-open connection would never return.
        let limits = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(DEADLINE))
            .set_response_timeout(Some(DEADLINE));
        let pool = Pool::builder(Manager::new_with_config(server, limits)?)
            .max_size(CONNECTIONS)
            .timeouts(Timeouts {
                wait: Some(DEADLINE),
                create: Some(DEADLINE),
                recycle: Some(DEADLINE),
            })
            .pre_recycle(Hook::sync_fn(|_, metrics| {
                if metrics.age() < LONGEST_LIFE {
                    Ok(())
                } else {
                    Err(HookError::message("at the end of its life"))
                }
            }))
            .runtime(Runtime::Tokio1)
            .build()?;
        Ok(Self { pool })
    }

    /// Sends `pipeline`.
    ///
    /// After an error, the next call dials anew. The pool itself only sends a PING, which a
    /// replica, a full Redis and a user without permissions answer as well. A connection whose EXEC
    /// was refused would also keep its transaction open.
    pub(super) async fn run(&self, pipeline: &Pipeline) -> Result<(), QueueError> {
        // Declared first and so dropped last, when the connection is back in the pool; also if this
        // future is cancelled.
        let mut unless_good = Evict(Some(self));
        let mut connection = self.pool.get().await?;
        let answers: Vec<Value> = pipeline.query_async(&mut connection).await?;
        // The answer of EXEC holds the errors of the commands that it ran.
        for answer in answers {
            answer.extract_error()?;
        }
        unless_good.0 = None;
        Ok(())
    }

    /// Closes the idle connections, which all lead to the same server.
    pub(super) fn close_idle(&self) {
        self.pool.retain(|_, _| false);
    }
}

/// Closes the idle connections when it is dropped.
struct Evict<'a>(Option<&'a Connections>);

impl Drop for Evict<'_> {
    fn drop(&mut self) {
        if let Some(connections) = self.0 {
            connections.close_idle();
        }
    }
}
