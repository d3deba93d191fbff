//! The reading side: one consumer of the store's group, with a connection of its own.

use std::time::{Duration, Instant};

use redis::{AsyncConnectionConfig, FromRedisValue, RedisError, aio::MultiplexedConnection};
use tracing::debug;

use super::{DEADLINE, Queue, QueueError, link::Link};
use crate::models::RequestId;

/// How long a read waits for an entry. It also bounds how long a worker that ends waits for it.
const BLOCK: Duration = Duration::from_secs(1);

/// An entry that its consumer has left lying for so long is taken over. It is a hint that the table
/// has made good for long since: this only keeps the group's list of pending entries short.
const ABANDONED_AFTER: Duration = Duration::from_secs(30);

/// How often abandoned entries, and consumers without any, are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);

/// A consumer that has been silent for so long, and has nothing pending, is a dead process'.
const FORGOTTEN_AFTER: Duration = Duration::from_mins(10);

const START_OF_PENDING: &str = "0-0";

/// A hint that was read: to be claimed, and then [`NotificationReader::done`].
#[derive(Clone, Debug)]
pub struct Entry {
    stream_id: String,
    /// The job to look at; none where the entry is another store's, or no entry of ours at all.
    pub job: Option<RequestId>,
    foreign: bool,
}

/// A worker's place at the stream.
pub struct NotificationReader {
    queue: Queue,
    consumer: String,
    connection: Option<MultiplexedConnection>,
    link: Link,
    abandoned_after: Duration,
    sweep_cursor: String,
    next_sweep: Instant,
}

/// What `XREADGROUP` and `XAUTOCLAIM` say of an entry: its id, and its names and values in turn.
type RawEntry = (String, Vec<String>);

impl NotificationReader {
    /// A place for `consumer`, a name that no other process has. Connects when it is first read.
    pub fn new(queue: Queue, consumer: String) -> Self {
        Self {
            queue,
            consumer,
            connection: None,
            link: Link::new("reader"),
            abandoned_after: ABANDONED_AFTER,
            sweep_cursor: START_OF_PENDING.to_owned(),
            next_sweep: Instant::now(),
        }
    }

    /// The same, taking over what others have left lying for `time`.
    pub fn with_abandoned_after(mut self, time: Duration) -> Self {
        self.abandoned_after = time;
        self
    }

    /// Reads up to `count` entries; none, if none comes within a second or Redis doesn't answer.
    ///
    /// Trouble is not an error here: it is logged once, and every call meanwhile pauses a little
    /// longer and tries anew. Not to be cancelled midway, or what was just read waits for a sweep.
    pub async fn read(&mut self, count: usize) -> Vec<Entry> {
        match self.try_read(count).await {
            Ok(entries) => {
                self.link.up();
                entries
            }
            Err(error) => {
                self.connection = None;
                self.link.down(&error).await;
                Vec::new()
            }
        }
    }

    /// Acknowledges and deletes entries, whatever became of their claims.
    ///
    /// What can't be acknowledged now is swept up later.
    pub async fn done(&mut self, entries: &[Entry]) {
        if let Err(error) = self.try_done(entries).await {
            debug!(%error, "entries were not acknowledged");
        }
    }

    /// Leaves the group, if nothing is pending.
    pub async fn close(mut self) {
        // What is pending at a consumer that is deleted would be lost to the sweep.
        let pending = match self.own_pending().await {
            Ok(pending) => pending,
            Err(error) => return debug!(%error, "the consumer is left in the group"),
        };
        if pending == 0
            && let Some(connection) = &mut self.connection
        {
            let consumer = self.consumer.clone();
            let _ = delete_consumer(connection, &self.queue, &consumer).await; // or it is forgotten later
        }
    }

    async fn try_read(&mut self, count: usize) -> Result<Vec<Entry>, QueueError> {
        match self.sweep_or_read(count).await {
            // The stream or the group is gone (FLUSHALL, a Redis that came back empty): start anew.
            Err(error) if error.code() == Some("NOGROUP") => {
                self.connection = None;
                Ok(self.sweep_or_read(count).await?)
            }
            other => Ok(other?),
        }
    }

    async fn sweep_or_read(&mut self, count: usize) -> Result<Vec<Entry>, RedisError> {
        if self.next_sweep <= Instant::now() {
            let entries = self.sweep(count).await?;
            if !entries.is_empty() {
                return Ok(entries);
            }
        }
        let mut command = redis::cmd("XREADGROUP");
        command
            .arg("GROUP")
            .arg(self.queue.group())
            .arg(&self.consumer);
        command
            .arg("COUNT")
            .arg(count)
            .arg("BLOCK")
            .arg(BLOCK.as_millis().max(1) as usize);
        command.arg("STREAMS").arg(&self.queue.key).arg(">");
        let streams: Option<Vec<(String, Vec<RawEntry>)>> = self.query(&command).await?;
        let raw = streams
            .into_iter()
            .flatten()
            .flat_map(|(_, entries)| entries);
        Ok(raw.map(|entry| self.entry(entry)).collect())
    }

    /// Takes over up to `count` abandoned entries. The cursor is kept, so that sweep after sweep
    /// goes through the whole list; at its end, consumers of dead processes are removed.
    async fn sweep(&mut self, count: usize) -> Result<Vec<Entry>, RedisError> {
        let mut command = redis::cmd("XAUTOCLAIM");
        command
            .arg(&self.queue.key)
            .arg(self.queue.group())
            .arg(&self.consumer);
        command
            .arg(self.abandoned_after.as_millis() as usize)
            .arg(&self.sweep_cursor);
        command.arg("COUNT").arg(count);
        let (cursor, raw, _deleted): (String, Vec<RawEntry>, Vec<String>) =
            self.query(&command).await?;
        if cursor == START_OF_PENDING {
            self.next_sweep = Instant::now() + SWEEP_INTERVAL;
            if let Err(error) = self.forget_dead_consumers().await {
                debug!(%error, "dead consumers stay in the group for now");
            }
        }
        self.sweep_cursor = cursor;
        Ok(raw.into_iter().map(|entry| self.entry(entry)).collect())
    }

    async fn forget_dead_consumers(&mut self) -> Result<(), RedisError> {
        let forgotten: Vec<_> = self
            .consumers()
            .await?
            .into_iter()
            .filter(|consumer| consumer.pending == 0 && consumer.idle > FORGOTTEN_AFTER)
            .filter(|consumer| consumer.name != self.consumer)
            .collect();
        for consumer in forgotten {
            let queue = self.queue.clone();
            delete_consumer(self.connection().await?, &queue, &consumer.name).await?;
        }
        Ok(())
    }

    async fn own_pending(&mut self) -> Result<usize, RedisError> {
        let consumers = self.consumers().await?;
        let own = consumers
            .into_iter()
            .find(|consumer| consumer.name == self.consumer);
        Ok(own.map_or(0, |consumer| consumer.pending))
    }

    async fn consumers(&mut self) -> Result<Vec<Consumer>, RedisError> {
        let mut command = redis::cmd("XINFO");
        command
            .arg("CONSUMERS")
            .arg(&self.queue.key)
            .arg(self.queue.group());
        self.query(&command).await
    }

    async fn try_done(&self, entries: &[Entry]) -> Result<(), QueueError> {
        if entries.is_empty() {
            return Ok(());
        }
        let ids: Vec<_> = entries
            .iter()
            .map(|entry| entry.stream_id.as_str())
            .collect();
        // Another store's entry is only skipped in this group: its own one has yet to read it.
        let ours: Vec<_> = entries
            .iter()
            .filter(|entry| !entry.foreign)
            .map(|entry| &entry.stream_id)
            .collect();
        let mut transaction = redis::pipe();
        transaction.atomic();
        transaction
            .cmd("XACK")
            .arg(&self.queue.key)
            .arg(self.queue.group())
            .arg(&ids)
            .ignore();
        if !ours.is_empty() {
            transaction
                .cmd("XDEL")
                .arg(&self.queue.key)
                .arg(&ours)
                .ignore();
        }
        let mut connection = self.queue.pool.get().await?;
        Ok(transaction.exec_async(&mut connection).await?)
    }

    fn entry(&self, (stream_id, fields): RawEntry) -> Entry {
        let field = |name: &str| {
            fields
                .chunks_exact(2)
                .find(|pair| pair[0] == name)
                .map(|pair| pair[1].as_str())
        };
        let foreign = field("store").is_some_and(|store| store != self.queue.store);
        let job = field("id")
            .and_then(|id| id.parse().ok())
            .filter(|_| !foreign);
        Entry {
            stream_id,
            job,
            foreign,
        }
    }

    async fn query<T: FromRedisValue>(&mut self, command: &redis::Cmd) -> Result<T, RedisError> {
        command.query_async(self.connection().await?).await
    }

    /// The connection, with the group made, for any of them may be gone.
    async fn connection(&mut self) -> Result<&mut MultiplexedConnection, RedisError> {
        if self.connection.is_none() {
            let limits = AsyncConnectionConfig::new()
                .set_connection_timeout(Some(DEADLINE))
                .set_response_timeout(Some(BLOCK + DEADLINE));
            let mut connection = self
                .queue
                .client
                .get_multiplexed_async_connection_with_config(&limits)
                .await?;
            create_group(&mut connection, &self.queue).await?;
            START_OF_PENDING.clone_into(&mut self.sweep_cursor);
            self.connection = Some(connection);
        }
        let connection = self.connection.as_mut();
        Ok(connection.unwrap_or_else(|| unreachable!("it was just made")))
    }
}

/// A line of `XINFO CONSUMERS`.
struct Consumer {
    name: String,
    pending: usize,
    idle: Duration,
}

impl FromRedisValue for Consumer {
    fn from_redis_value(value: redis::Value) -> Result<Self, redis::ParsingError> {
        let fields = std::collections::HashMap::<String, redis::Value>::from_redis_value(value)?;
        let field = |name: &str| fields.get(name).cloned().unwrap_or(redis::Value::Nil);
        Ok(Self {
            name: redis::from_redis_value(field("name"))?,
            pending: redis::from_redis_value(field("pending"))?,
            idle: Duration::from_millis(redis::from_redis_value(field("idle"))?),
        })
    }
}

async fn create_group(
    connection: &mut MultiplexedConnection,
    queue: &Queue,
) -> Result<(), RedisError> {
    let mut command = redis::cmd("XGROUP");
    command
        .arg("CREATE")
        .arg(&queue.key)
        .arg(queue.group())
        .arg("0")
        .arg("MKSTREAM");
    match command.exec_async(connection).await {
        Err(error) if error.code() == Some("BUSYGROUP") => Ok(()), // it is there already
        other => other,
    }
}

async fn delete_consumer(
    connection: &mut MultiplexedConnection,
    queue: &Queue,
    consumer: &str,
) -> Result<(), RedisError> {
    let mut command = redis::cmd("XGROUP");
    command
        .arg("DELCONSUMER")
        .arg(&queue.key)
        .arg(queue.group())
        .arg(consumer);
    command.exec_async(connection).await
}
