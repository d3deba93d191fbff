//! The store's consumer group, and its consumers.

use std::{collections::HashMap, time::Duration};

use redis::{
    FromRedisValue, ParsingError, RedisError, Value, aio::MultiplexedConnection, from_redis_value,
};

use super::{Queue, trouble::is_answer};

/// One consumer in the reply of `XINFO CONSUMERS`.
pub(super) struct Consumer {
    /// Any bytes: whoever can write to Redis can name a consumer.
    pub(super) name: Vec<u8>,
    pub(super) pending: usize,
    pub(super) idle: Duration,
}

impl FromRedisValue for Consumer {
    fn from_redis_value(value: Value) -> Result<Self, ParsingError> {
        let fields = HashMap::<String, Value>::from_redis_value(value)?;
        let field = |name: &str| fields.get(name).cloned().unwrap_or(Value::Nil);
        Ok(Self {
            name: from_redis_value(field("name"))?,
            pending: from_redis_value(field("pending"))?,
            idle: Duration::from_millis(from_redis_value(field("idle"))?),
        })
    }
}

/// Creates the group, and the stream if there is none.
pub(super) async fn create(
    connection: &mut MultiplexedConnection,
    queue: &Queue,
) -> Result<(), RedisError> {
    let mut command = redis::cmd("XGROUP");
    command.arg("CREATE").arg(&queue.key).arg(queue.group());
    // From the start of the stream: a notifier may have pushed before the group existed. MKSTREAM:
    // XGROUP fails if there is no stream.
    command.arg("0").arg("MKSTREAM");
    match command.exec_async(connection).await {
        Err(error) if is_answer(&error, "BUSYGROUP") => Ok(()), // the group exists
        other => other,
    }
}

/// The group's consumers.
pub(super) async fn consumers(
    connection: &mut MultiplexedConnection,
    queue: &Queue,
) -> Result<Vec<Consumer>, RedisError> {
    let mut command = redis::cmd("XINFO");
    command.arg("CONSUMERS").arg(&queue.key).arg(queue.group());
    command.query_async(connection).await
}

/// Deletes a consumer, and with it its pending entries.
pub(super) async fn delete_consumer(
    connection: &mut MultiplexedConnection,
    queue: &Queue,
    name: &[u8],
) -> Result<(), RedisError> {
    let mut command = redis::cmd("XGROUP");
    command.arg("DELCONSUMER").arg(&queue.key);
    command.arg(queue.group()).arg(name);
    command.exec_async(connection).await
}
