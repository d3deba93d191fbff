//! The queue: a notifier. All Redis of the project stands in this module.
//!
//! An entry is only a hint, "look at this row": one that is lost, late, repeated or a stranger's
//! costs nothing but time, for the store decides who works on what. So nothing here is retried for
//! an entry's sake, and nothing waits for Redis but the two tasks that talk to it.
//!
//! * [`Notifier`] pushes: it takes ids through a bounded channel, and drops what doesn't fit.
//! * [`NotificationReader`] reads: one per worker, as a consumer of the store's group.
//!
//! The stream stands under `QUEUE_NAME`. Each store has one consumer group in it, so that two stores
//! on one Redis hear of their own entries, all of them, and leave each other's alone.

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

/// How long connecting, and a command that doesn't block, may take.
const DEADLINE: Duration = Duration::from_secs(2);

/// Connections for commands that don't block. Each carries a batch at a time.
const CONNECTIONS: usize = 4;

/// Trouble with Redis.
#[derive(Debug, Error)]
pub enum QueueError {
    /// No connection to be had.
    #[error("{0}")]
    Pool(#[from] PoolError),
    /// Redis' own words, or the connection's.
    #[error("{0}")]
    Redis(#[from] RedisError),
    /// The pool of connections can't be made.
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
    /// The queue of the store with that id. Connects when it is first used.
    ///
    /// # Errors
    /// The URL is none of Redis'.
    pub fn new(settings: &QueueSettings, store: &str) -> Result<Self, QueueError> {
        let url = settings.redis_url.as_str();
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
            client: Client::open(url)?,
            pool,
            key: settings.name.clone(),
            store: store.to_owned(),
            length: settings.length,
        })
    }

    /// Answers when Redis does.
    ///
    /// # Errors
    /// It can't be reached, or doesn't answer.
    pub async fn check(&self) -> Result<(), QueueError> {
        let mut connection = self.pool.get().await?;
        Ok(redis::cmd("PING").exec_async(&mut connection).await?)
    }

    /// The store's consumer group.
    fn group(&self) -> String {
        format!("storm:{}", self.store)
    }
}
