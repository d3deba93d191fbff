//! The reading side: one consumer of the store's consumer group, on a connection of its own.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use redis::{AsyncConnectionConfig, FromRedisValue, RedisError, Value, aio::MultiplexedConnection};
use tracing::debug;

use super::{
    DEADLINE, Queue, QueueError, RedisTrouble,
    acknowledgement::Acknowledgement,
    connections::LONGEST_LIFE,
    entry::{self, Entry},
    expiry::Expiry,
    foreign::ForeignWatch,
    group,
    link::Link,
    trouble::is_answer,
};

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

/// A consumer of the stream. Each worker has one.
pub struct NotificationReader {
    queue: Queue,
    consumer: String,
    connection: Option<Connected>,
    link: Link,
    acknowledging: Link,
    foreign: ForeignWatch,
    min_idle_time: Duration,
    sweep_cursor: String,
    next_sweep: Instant,
    expiry: Expiry,
}

struct Connected {
    connection: MultiplexedConnection,
    since: Instant,
}

impl NotificationReader {
    /// A reader under the consumer name `consumer`, which must be unique. Connects on first read.
    pub fn new(queue: Queue, consumer: String) -> Self {
        Self {
            consumer,
            connection: None,
            link: Link::new(&queue.status, |status| &status.reader),
            acknowledging: Link::new(&queue.status, |status| &status.acknowledgements),
            foreign: ForeignWatch::new(Arc::clone(&queue.status)),
            queue,
            min_idle_time: MIN_IDLE_TIME,
            sweep_cursor: START_OF_PENDING.to_owned(),
            next_sweep: Instant::now(),
            expiry: Expiry::new(),
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
                self.foreign.note(&entries);
                if entries.is_empty() {
                    self.recheck_acknowledging().await;
                }
                entries
            }
            Err(error) => {
                // After a timeout this connection may still be blocked in its XREADGROUP. Redis
                // would run later commands on it only after that.
                self.connection = None;
                // So that the next acknowledgement goes where the next entry comes from.
                self.queue.connections.close_idle();
                self.link.down(&error.into()).await;
                Vec::new()
            }
        }
    }

    /// Acknowledges and deletes entries, whether or not their claims succeeded.
    ///
    /// Entries that can't be acknowledged now are swept later.
    pub async fn acknowledge(&mut self, entries: &[Entry]) {
        if entries.is_empty() {
            return;
        }
        match self.try_acknowledge(entries).await {
            Ok(()) => self.acknowledging.up(),
            Err(error) => self.acknowledging.failed(&error),
        }
    }

    /// Leaves the consumer group, if this consumer has no pending entries.
    pub async fn close(mut self) {
        let Some(Connected { connection, .. }) = &mut self.connection else {
            return; // a consumer that stays is deleted by a sweep of another worker
        };
        let consumers = match group::consumers(connection, &self.queue).await {
            Ok(consumers) => consumers,
            Err(error) => return debug!(%error, "the consumer stays in its group"),
        };
        let name = self.consumer.as_bytes();
        let own = consumers.into_iter().find(|consumer| consumer.name == name);
        // DELCONSUMER drops the consumer's pending entries, so that no sweep would find them.
        if own.is_some_and(|own| own.pending == 0) {
            let _ = group::delete_consumer(connection, &self.queue, name).await;
        }
    }

    async fn try_read(&mut self, count: usize) -> Result<Vec<Entry>, RedisError> {
        if let Some(connected) = &self.connection
            && connected.since.elapsed() > LONGEST_LIFE
        {
            self.connection = None;
        }
        match self.sweep_or_read(count).await {
            // There is no stream or no group: the first start, FLUSHALL, or Redis restarted empty.
            Err(error) if is_answer(&error, "NOGROUP") => {
                let queue = self.queue.clone();
                group::create(self.connection().await?, &queue).await?;
                // FLUSHALL keeps the connection.
                START_OF_PENDING.clone_into(&mut self.sweep_cursor);
                self.expiry = Expiry::new();
                self.next_sweep = Instant::now();
                self.sweep_or_read(count).await
            }
            // The stream was deleted under a blocked read, or the master became a replica.
            Err(error) if is_answer(&error, "UNBLOCKED") => {
                self.connection = None;
                self.sweep_or_read(count).await
            }
            other => other,
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
        let reply = self.query(&command).await?;
        Ok(entry::of_streams(reply, &self.queue.store))
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
        let (cursor, entries, _deleted): (String, Value, Value) = self.query(&command).await?;
        // Until the end of the list, the next read sweeps on at once: a dead worker can leave many.
        if cursor == START_OF_PENDING {
            self.next_sweep = Instant::now() + SWEEP_INTERVAL;
            if let Err(error) = self.delete_dead_consumers().await {
                debug!(%error, "dead consumers were not deleted");
            }
            if let Some(put_off) = self.expiry.put_off(&self.queue)
                && let Err(error) = self.query::<Value>(&put_off).await
            {
                debug!(%error, "the stream's expiry was not put off");
            }
        }
        self.sweep_cursor = cursor;
        Ok(entry::of_list(entries, &self.queue.store))
    }

    async fn delete_dead_consumers(&mut self) -> Result<(), RedisError> {
        let queue = self.queue.clone();
        let consumers = group::consumers(self.connection().await?, &queue).await?;
        let dead = consumers
            .into_iter()
            .filter(|consumer| consumer.pending == 0 && consumer.idle > DEAD_AFTER)
            .filter(|consumer| consumer.name != self.consumer.as_bytes());
        // One that comes back is created again by its next read. Its jobs are in the table.
        for consumer in dead.collect::<Vec<_>>() {
            group::delete_consumer(self.connection().await?, &queue, &consumer.name).await?;
        }
        Ok(())
    }

    async fn try_acknowledge(&self, entries: &[Entry]) -> Result<(), QueueError> {
        let acknowledgement = Acknowledgement::of(entries);
        let mut pipeline = redis::pipe();
        acknowledgement.add_transaction(&self.queue, &mut pipeline);
        match self.queue.connections.run(&pipeline).await {
            // A full Redis queues nothing for EXEC, but it does delete. These entries may be what
            // it is full of.
            Err(error) if RedisTrouble::from(&error) == RedisTrouble::OutOfMemory => {
                pipeline.clear();
                acknowledgement.add_commands(&self.queue, &mut pipeline);
                self.queue.connections.run(&pipeline).await
            }
            other => other,
        }
    }

    /// Ends the outage of the acknowledgements if Redis takes them again: the next entry that needs
    /// one may be far away.
    async fn recheck_acknowledging(&mut self) {
        if self.acknowledging.is_down() && self.queue.check().await.is_ok() {
            self.acknowledging.up();
        }
    }

    async fn query<T: FromRedisValue>(&mut self, command: &redis::Cmd) -> Result<T, RedisError> {
        command.query_async(self.connection().await?).await
    }

    async fn connection(&mut self) -> Result<&mut MultiplexedConnection, RedisError> {
        let connected = match self.connection.take() {
            Some(connected) => connected,
            None => self.connect().await?,
        };
        Ok(&mut self.connection.insert(connected).connection)
    }

    async fn connect(&mut self) -> Result<Connected, RedisError> {
        // Redis may have restarted empty. The old cursor would then skip the new, lower ids.
        START_OF_PENDING.clone_into(&mut self.sweep_cursor);
        let limits = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(DEADLINE))
            // Above BLOCK: a blocking read legitimately takes that long to reply.
            .set_response_timeout(Some(BLOCK + DEADLINE));
        let client = &self.queue.client;
        let connection = client.get_multiplexed_async_connection_with_config(&limits);
        Ok(Connected {
            connection: connection.await?,
            since: Instant::now(),
        })
    }
}
