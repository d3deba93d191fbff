//! The reading side: one consumer of the store's consumer group, on a connection of its own.

use std::time::{Duration, Instant};

use redis::{AsyncConnectionConfig, FromRedisValue, RedisError, aio::MultiplexedConnection};
use tracing::debug;

use super::{DEADLINE, Queue, QueueError, link::Link};
use crate::models::RequestId;

/// How long a blocking read waits for an entry. It also bounds how long shutdown waits for a read.
const BLOCK: Duration = Duration::from_secs(1);

/// The minimum idle time after which another consumer's pending entry is claimed (`XAUTOCLAIM`).
/// By then a worker has found the job in the table; this only keeps the pending entries list short.
const MIN_IDLE_TIME: Duration = Duration::from_secs(30);

/// How often stale pending entries and dead consumers are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);

/// A consumer idle for longer than this, without pending entries, belongs to a dead process.
const DEAD_AFTER: Duration = Duration::from_mins(10);

/// The `XAUTOCLAIM` cursor at the start of the pending entries list; returned at its end, too.
const START_OF_PENDING: &str = "0-0";

/// A stream entry that was read. Claim its job, then [`NotificationReader::acknowledge`] it.
#[derive(Clone, Debug)]
pub struct Entry {
    stream_id: String,
    /// The job to claim; `None` for another store's entry or a malformed one.
    pub job: Option<RequestId>,
    foreign: bool,
}

/// A consumer of the stream. Each worker has one.
pub struct NotificationReader {
    queue: Queue,
    consumer: String,
    connection: Option<MultiplexedConnection>,
    link: Link,
    min_idle_time: Duration,
    sweep_cursor: String,
    next_sweep: Instant,
}

/// An entry in the replies of `XREADGROUP` and `XAUTOCLAIM`: its id, then names and values in turn.
type RawEntry = (String, Vec<String>);

impl NotificationReader {
    /// A reader under the consumer name `consumer`, which must be unique. Connects on first read.
    pub fn new(queue: Queue, consumer: String) -> Self {
        Self {
            queue,
            consumer,
            connection: None,
            link: Link::new("reader"),
            min_idle_time: MIN_IDLE_TIME,
            sweep_cursor: START_OF_PENDING.to_owned(),
            next_sweep: Instant::now(),
        }
    }

    /// Sets the idle time after which other consumers' pending entries are claimed.
    pub fn with_min_idle_time(mut self, time: Duration) -> Self {
        self.min_idle_time = time;
        self
    }

    /// Reads up to `count` entries. Returns none after a second without entries, or on an error.
    ///
    /// Errors are not returned: the first one is logged, and each call sleeps for the backoff's
    /// next delay before it returns. Don't cancel this future: an entry read but not returned stays
    /// pending until a sweep.
    pub async fn read(&mut self, count: usize) -> Vec<Entry> {
        match self.try_read(count).await {
            Ok(entries) => {
                self.link.up();
                entries
            }
            Err(error) => {
                // After a timeout this connection may still be blocked in its XREADGROUP. Redis
                // would run later commands on it only after that.
                self.connection = None;
                self.link.down(&error).await;
                Vec::new()
            }
        }
    }

    /// Acknowledges and deletes entries, whether or not their claims succeeded.
    ///
    /// Entries that can't be acknowledged now are swept later.
    pub async fn acknowledge(&mut self, entries: &[Entry]) {
        if let Err(error) = self.try_acknowledge(entries).await {
            debug!(%error, "entries were not acknowledged");
        }
    }

    /// Leaves the consumer group, if this consumer has no pending entries.
    pub async fn close(mut self) {
        // DELCONSUMER drops the consumer's pending entries, so that no sweep would find them.
        let pending = match self.own_pending().await {
            Ok(pending) => pending,
            Err(error) => return debug!(%error, "the consumer stays in its group"),
        };
        if pending == 0
            && let Some(connection) = &mut self.connection
        {
            let consumer = self.consumer.clone();
            // A consumer that stays is deleted by a sweep of another worker.
            let _ = delete_consumer(connection, &self.queue, &consumer).await;
        }
    }

    async fn try_read(&mut self, count: usize) -> Result<Vec<Entry>, QueueError> {
        match self.sweep_or_read(count).await {
            // The stream or the group is gone (FLUSHALL, or Redis restarted empty): reconnecting
            // creates the group again.
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
            // `BLOCK 0` would wait without a limit.
            .arg(BLOCK.as_millis().max(1) as usize);
        command.arg("STREAMS").arg(&self.queue.key).arg(">");
        let streams: Option<Vec<(String, Vec<RawEntry>)>> = self.query(&command).await?;
        let raw = streams
            .into_iter()
            .flatten()
            .flat_map(|(_, entries)| entries);
        Ok(raw.map(|entry| self.entry(entry)).collect())
    }

    /// Claims up to `count` stale pending entries of other consumers. Keeps the cursor between
    /// calls, so that they walk the whole list; at its end, deletes dead consumers.
    async fn sweep(&mut self, count: usize) -> Result<Vec<Entry>, RedisError> {
        let mut command = redis::cmd("XAUTOCLAIM");
        command
            .arg(&self.queue.key)
            .arg(self.queue.group())
            .arg(&self.consumer);
        command
            .arg(self.min_idle_time.as_millis() as usize)
            .arg(&self.sweep_cursor);
        command.arg("COUNT").arg(count);
        // The third list has entries that were trimmed from the stream. Redis 7.0 removes them from
        // the pending entries list by itself.
        let (cursor, raw, _deleted): (String, Vec<RawEntry>, Vec<String>) =
            self.query(&command).await?;
        // Until the end of the list, the next read sweeps on at once: a dead worker can leave many.
        if cursor == START_OF_PENDING {
            self.next_sweep = Instant::now() + SWEEP_INTERVAL;
            if let Err(error) = self.delete_dead_consumers().await {
                debug!(%error, "dead consumers were not deleted");
            }
        }
        self.sweep_cursor = cursor;
        Ok(raw.into_iter().map(|entry| self.entry(entry)).collect())
    }

    async fn delete_dead_consumers(&mut self) -> Result<(), RedisError> {
        let dead: Vec<_> = self
            .consumers()
            .await?
            .into_iter()
            .filter(|consumer| consumer.pending == 0 && consumer.idle > DEAD_AFTER)
            .filter(|consumer| consumer.name != self.consumer)
            .collect();
        // One that comes back is created again by its next read. Its jobs are in the table.
        for consumer in dead {
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

    async fn try_acknowledge(&self, entries: &[Entry]) -> Result<(), QueueError> {
        if entries.is_empty() {
            return Ok(());
        }
        let ids: Vec<_> = entries
            .iter()
            .map(|entry| entry.stream_id.as_str())
            .collect();
        // Another store's entry is acknowledged in this group but not deleted: its own group has
        // yet to read it.
        let ours: Vec<_> = entries
            .iter()
            .filter(|entry| !entry.foreign)
            .map(|entry| &entry.stream_id)
            .collect();
        // One MULTI: an acknowledged entry that stays in the stream would never be deleted.
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
        // An entry without a store counts as ours. At worst its id names no row, and it is deleted.
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

    /// The connection. On a new one, creates the group first: the stream may have been lost.
    async fn connection(&mut self) -> Result<&mut MultiplexedConnection, RedisError> {
        if self.connection.is_none() {
            let limits = AsyncConnectionConfig::new()
                .set_connection_timeout(Some(DEADLINE))
                // Above BLOCK: a blocking read legitimately takes that long to reply.
                .set_response_timeout(Some(BLOCK + DEADLINE));
            let mut connection = self
                .queue
                .client
                .get_multiplexed_async_connection_with_config(&limits)
                .await?;
            create_group(&mut connection, &self.queue).await?;
            // Redis may have restarted empty. The old cursor would then skip the new, lower ids.
            START_OF_PENDING.clone_into(&mut self.sweep_cursor);
            self.connection = Some(connection);
        }
        #[expect(clippy::expect_used, reason = "set just above if it was None")]
        let connection = self.connection.as_mut().expect("a connection");
        Ok(connection)
    }
}

/// One consumer in the reply of `XINFO CONSUMERS`.
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
        // From the start of the stream: a notifier may have pushed before the group existed.
        // MKSTREAM: XGROUP fails if there is no stream.
        .arg("0")
        .arg("MKSTREAM");
    match command.exec_async(connection).await {
        Err(error) if error.code() == Some("BUSYGROUP") => Ok(()), // the group exists
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
