//! The queue: a notification channel. All Redis code of the project is in this module.
//!
//! An entry is only a hint to look at one row. Lost, late, duplicate and foreign entries cost time
//! but no correctness, because the store decides which worker gets a job. So no command is retried
//! for an entry's sake, and only the two tasks that talk to Redis wait for it.
//!
//! * [`Notifier`] writes: it takes ids through a bounded channel and drops ids that don't fit.
//! * [`NotificationReader`] reads: each worker is one consumer of the store's consumer group.
//!
//! The stream has the key `QUEUE_NAME`. Each store has its own consumer group, so that stores that
//! share a Redis each read all of their own entries and leave the others' alone.

mod link;
mod notifier;
mod reader;

use std::time::Duration;

use deadpool_redis::{Manager, Pool, PoolError, Runtime, Timeouts};
use redis::{AsyncConnectionConfig, Client, RedisError};
use thiserror::Error;

use crate::config::QueueSettings;

pub use notifier::Notifier;
pub use reader::{Entry, NotificationReader};

/// Deadline for connecting, and for the reply to a non-blocking command.
const DEADLINE: Duration = Duration::from_secs(2);

/// Pool size for non-blocking commands. Each carries one batch at a time.
const CONNECTIONS: usize = 4;

/// An error of the queue.
#[derive(Debug, Error)]
pub enum QueueError {
    /// The pool has no usable connection.
    #[error("{0}")]
    Pool(#[from] PoolError),
    /// An error reply, or a failed connection.
    #[error("{0}")]
    Redis(#[from] RedisError),
    /// The connection pool can't be built.
    #[error("{0}")]
    Build(#[from] deadpool_redis::BuildError),
}

/// One store's view of the stream; clones share its connections.
#[derive(Clone)]
pub struct Queue {
    client: Client,
    pool: Pool,
    key: String,
    store: String,
    length: usize,
}

impl Queue {
    /// The queue of the store with id `store`. Connects on first use.
    ///
    /// # Errors
    /// The URL is not a Redis URL.
    pub fn new(settings: &QueueSettings, store: &str) -> Result<Self, QueueError> {
        let url = settings.redis_url.as_str();
        // Without a response timeout, a command on a half-open connection would never return.
        let limits = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(DEADLINE))
            .set_response_timeout(Some(DEADLINE));
        let pool = Pool::builder(Manager::new_with_config(url, limits)?)
            .max_size(CONNECTIONS)
            .timeouts(Timeouts {
                wait: Some(DEADLINE),
                create: Some(DEADLINE),
                recycle: Some(DEADLINE),
            })
            .runtime(Runtime::Tokio1)
            .build()?;
        Ok(Self {
            // For the reader's own connection: a blocking read would occupy a pooled one.
            client: Client::open(url)?,
            pool,
            key: settings.name.clone(),
            store: store.to_owned(),
            length: settings.length,
        })
    }

    /// Checks that Redis answers.
    ///
    /// # Errors
    /// Redis is unreachable or doesn't answer in time.
    pub async fn check(&self) -> Result<(), QueueError> {
        let mut connection = self.pool.get().await?;
        Ok(redis::cmd("PING").exec_async(&mut connection).await?)
    }

    /// The store's consumer group.
    fn group(&self) -> String {
        format!("storm:{}", self.store)
    }
}
