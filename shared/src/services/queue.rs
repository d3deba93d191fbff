//! The queue: a notification channel. All Redis code of the project is in this module.
//!
//! An entry is only a hint to look at some rows. Lost, late, duplicate and foreign entries cost
//! time but no correctness, because the store decides which worker gets a job. So no command is
//! retried for an entry's sake, and only the two tasks that talk to Redis wait for it.
//!
//! * [`Notifier`] writes: it takes notifications through a bounded channel and drops those that
//!   don't fit.
//! * [`NotificationReader`] reads: each worker is one consumer of the store's consumer group.
//! * [`Queue::check`] asks Redis whether it would take the commands of both.
//! * [`QueueStatus`] is what they have met: each link's state, by its [`RedisTrouble`].
//!   [`QueueMetrics`] shows it to Prometheus.
//!
//! The stream has the key `QUEUE_NAME`, and that of each handler beside the report
//! `QUEUE_NAME:HANDLER`: a worker reads those of the handlers that it serves. The latter expire a
//! week after their last use. Each store has its
//! own consumer group, so that stores that share a Redis each read all of their own entries and
//! leave the others' alone.

mod acknowledgement;
mod batch;
mod connections;
mod entry;
mod expiry;
mod foreign;
mod group;
mod link;
mod metrics;
mod notification;
mod notifier;
mod probe;
mod reader;
mod status;
mod trouble;

use std::{borrow::Cow, fmt, sync::Arc, time::Duration};

use deadpool_redis::PoolError;
use redis::{Client, IntoConnectionInfo as _, RedisError};
use thiserror::Error;

use self::connections::Connections;
use crate::{config::QueueSettings, models::HandlerName};

/// How long a new job is left to its notification before a search of the table claims it.
pub const NOTIFICATION_GRACE: Duration = Duration::from_secs(1);

pub use self::{
    entry::{Entry, JOBS_PER_ENTRY, Notified},
    metrics::QueueMetrics,
    notification::Notification,
    notifier::Notifier,
    reader::NotificationReader,
    status::{Count, QueueStatus},
    trouble::RedisTrouble,
};

/// Deadline for connecting, and for the reply to a non-blocking command.
const DEADLINE: Duration = Duration::from_secs(2);

/// The file descriptors of a queue: the pool, and the reader's own connection.
pub(crate) const DESCRIPTORS: usize = connections::CONNECTIONS + 1;

/// An error of the queue. Displayed on one short line, however many commands failed.
#[derive(Debug, Error)]
pub enum QueueError {
    /// The pool has no usable connection.
    #[error("{0}")]
    Pool(#[from] PoolError),
    /// An error reply, or a failed connection.
    #[error("{}", FirstAnswer(.0))]
    Redis(#[from] RedisError),
    /// The connection pool can't be built.
    #[error("{0}")]
    Build(#[from] deadpool_redis::BuildError),
}

/// The first error answer to a pipeline. The error itself quotes them all, which may be hundreds.
struct FirstAnswer<'a>(&'a RedisError);

impl fmt::Display for FirstAnswer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let answers = self.0.clone().into_server_errors();
        match answers.as_deref().and_then(<[_]>::first) {
            Some((_, answer)) => {
                let detail = answer.details().unwrap_or_default();
                write!(f, "{} {detail}", answer.code())
            }
            None => self.0.fmt(f),
        }
    }
}

/// One store's view of the stream; clones share its connections.
#[derive(Clone)]
pub struct Queue {
    client: Client,
    connections: Connections,
    status: Arc<QueueStatus>,
    key: String,
    /// The stream of a handler expires if nobody uses it. That of the report stays.
    is_of_handler: bool,
    store: String,
    length: usize,
}

impl Queue {
    /// The queue of the store with id `store`. Connects on first use.
    ///
    /// # Errors
    /// The URL is not a Redis URL.
    pub fn new(settings: &QueueSettings, store: &str) -> Result<Self, QueueError> {
        let server = settings.redis_url.as_str().into_connection_info()?;
        // Without CLIENT SETINFO, which an ACL would have to allow.
        let handshake = server.redis_settings().clone().set_skip_set_lib_name();
        let server = server.set_redis_settings(handshake);
        Ok(Self {
            // For the reader's own connection: a blocking read would occupy a pooled one.
            client: Client::open(server.clone())?,
            connections: Connections::new(server)?,
            status: Arc::new(QueueStatus::new()),
            key: settings.name.clone(),
            is_of_handler: false,
            store: store.to_owned(),
            length: settings.length,
        })
    }

    /// The same queue as a reader of jobs of `handler` needs it: a stream of their own.
    pub fn of_handler(&self, handler: &HandlerName) -> Self {
        Self {
            key: self.key_of(handler).into_owned(),
            is_of_handler: *handler != HandlerName::REPORT,
            ..self.clone()
        }
    }

    /// The key of the stream for jobs of `handler`: that of the report is `QUEUE_NAME` itself.
    fn key_of(&self, handler: &HandlerName) -> Cow<'_, str> {
        if *handler == HandlerName::REPORT {
            Cow::Borrowed(&self.key)
        } else {
            Cow::Owned(format!("{}:{handler}", self.key))
        }
    }

    /// What the tasks of this process have met so far.
    pub fn status(&self) -> &Arc<QueueStatus> {
        &self.status
    }

    /// The store's consumer group.
    fn group(&self) -> String {
        format!("storm:{}", self.store)
    }
}
