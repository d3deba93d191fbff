//! The queue's protocol, on a real Redis.

use std::time::Duration;

use storm_shared::{
    config::{QueueSettings, Settings},
    models::RequestId,
    services::queue::{Entry, NotificationReader, Notifier, Queue},
};

use crate::redis_server::RedisServer;

const KEY: &str = "high_priority";

fn settings(url: &str) -> QueueSettings {
    Settings::with([("REDIS_URL", url)]).unwrap().queue.unwrap()
}

fn queue(redis: &RedisServer, store: &str) -> Queue {
    Queue::new(&settings(&redis.url()), store).unwrap()
}

fn stream_length(redis: &RedisServer) -> i64 {
    redis::from_redis_value(redis.command(redis::cmd("XLEN").arg(KEY))).unwrap()
}

/// Reads until `count` entries have come.
async fn read(reader: &mut NotificationReader, count: usize) -> Vec<Entry> {
    let mut entries = Vec::new();
    while entries.len() < count {
        entries.extend(reader.read(count - entries.len()).await);
    }
    entries
}

fn jobs(entries: &[Entry]) -> Vec<RequestId> {
    entries.iter().filter_map(|entry| entry.job).collect()
}

/// Rings until the reader hears: what is rung while Redis is away is lost, as it may be.
async fn ring_until_heard(notifier: &Notifier, reader: &mut NotificationReader) {
    let id = RequestId::generate();
    loop {
        notifier.notify(id);
        let entries = reader.read(10).await;
        reader.done(&entries).await;
        if jobs(&entries).contains(&id) {
            return;
        }
    }
}

#[tokio::test]
async fn what_is_rung_is_read_once_and_then_gone() {
    let redis = RedisServer::start();
    let queue = queue(&redis, "here");
    let notifier = Notifier::start(queue.clone());
    let ids: Vec<_> = (0..1000).map(|_| RequestId::generate()).collect();
    for id in &ids {
        notifier.notify(*id);
    }
    notifier.close().await;
    let (mut one, mut two) = (
        NotificationReader::new(queue.clone(), "one".into()),
        NotificationReader::new(queue, "two".into()),
    );
    let first = read(&mut one, 400).await;
    let second = read(&mut two, 600).await;
    let mut read = [jobs(&first), jobs(&second)].concat();
    read.sort();
    assert_eq!(read, ids);
    one.done(&first).await;
    two.done(&second).await;
    assert_eq!(stream_length(&redis), 0);
}

#[tokio::test]
async fn entries_of_a_dead_consumer_are_taken_over() {
    let redis = RedisServer::start();
    let queue = queue(&redis, "here");
    let notifier = Notifier::start(queue.clone());
    let ids: Vec<_> = (0..5).map(|_| RequestId::generate()).collect();
    for id in &ids {
        notifier.notify(*id);
    }
    let mut dead = NotificationReader::new(queue.clone(), "dead".into());
    read(&mut dead, 5).await;
    drop(dead);
    let mut alive = NotificationReader::new(queue, "alive".into())
        .with_abandoned_after(Duration::from_millis(1));
    // In parts, by the sweep's cursor.
    let mut taken = Vec::new();
    while taken.len() < 5 {
        let entries = alive.read(2).await;
        taken.extend(jobs(&entries));
        alive.done(&entries).await;
    }
    assert_eq!(taken, ids);
    assert_eq!(stream_length(&redis), 0);
}

#[tokio::test]
async fn two_stores_on_one_redis_leave_each_others_entries_alone() {
    let redis = RedisServer::start();
    let (here, there) = (queue(&redis, "here"), queue(&redis, "there"));
    let (mut at_home, mut abroad) = (
        NotificationReader::new(here.clone(), "a".into()),
        NotificationReader::new(there, "b".into()),
    );
    let notifier = Notifier::start(here);
    let id = RequestId::generate();
    notifier.notify(id);
    let seen = read(&mut abroad, 1).await;
    assert_eq!(jobs(&seen), []);
    abroad.done(&seen).await;
    assert_eq!(
        stream_length(&redis),
        1,
        "it is still there for its own store"
    );
    let entries = read(&mut at_home, 1).await;
    assert_eq!(jobs(&entries), [id]);
    at_home.done(&entries).await;
    assert_eq!(stream_length(&redis), 0);
}

#[tokio::test]
async fn an_entry_that_is_none_of_ours_is_dropped() {
    let redis = RedisServer::start();
    redis.command(
        redis::cmd("XADD")
            .arg(KEY)
            .arg("*")
            .arg("what")
            .arg("garbage"),
    );
    let mut reader = NotificationReader::new(queue(&redis, "here"), "a".into());
    let entries = read(&mut reader, 1).await;
    assert_eq!(jobs(&entries), []);
    reader.done(&entries).await;
    assert_eq!(stream_length(&redis), 0);
}

#[tokio::test]
async fn a_flushed_redis_is_used_again() {
    let redis = RedisServer::start();
    let queue = queue(&redis, "here");
    let notifier = Notifier::start(queue.clone());
    let mut reader = NotificationReader::new(queue, "a".into());
    ring_until_heard(&notifier, &mut reader).await;
    redis.command(&redis::cmd("FLUSHALL"));
    ring_until_heard(&notifier, &mut reader).await;
}

#[tokio::test]
async fn a_redis_that_was_killed_and_came_back_empty_is_used_again() {
    let mut redis = RedisServer::start();
    let queue = queue(&redis, "here");
    let notifier = Notifier::start(queue.clone());
    let mut reader = NotificationReader::new(queue.clone(), "a".into());
    ring_until_heard(&notifier, &mut reader).await;
    redis.kill();
    assert!(queue.check().await.is_err());
    assert!(reader.read(1).await.is_empty());
    notifier.notify(RequestId::generate());
    let _redis = RedisServer::start_on(redis.port()).expect("its port is still free");
    ring_until_heard(&notifier, &mut reader).await;
    queue.check().await.unwrap();
}

#[tokio::test]
async fn without_redis_ringing_goes_on_and_the_check_fails() {
    let queue = Queue::new(&settings("redis://127.0.0.1:1"), "here").unwrap();
    let notifier = Notifier::start(queue.clone());
    for _ in 0..100_000 {
        notifier.notify(RequestId::generate());
    }
    assert!(queue.check().await.is_err());
}

#[tokio::test]
async fn the_stream_does_not_grow_beyond_its_length() {
    let redis = RedisServer::start();
    let settings = QueueSettings {
        length: 100,
        ..settings(&redis.url())
    };
    let queue = Queue::new(&settings, "here").unwrap();
    let notifier = Notifier::start(queue);
    for _ in 0..5000 {
        notifier.notify(RequestId::generate());
    }
    notifier.close().await;
    // Redis trims whole nodes of 100 entries.
    let length = stream_length(&redis);
    assert!((100..=200).contains(&length), "{length}");
}

#[tokio::test]
async fn a_consumer_that_closes_leaves_the_group() {
    let redis = RedisServer::start();
    let mut reader = NotificationReader::new(queue(&redis, "here"), "a".into());
    reader.read(1).await;
    reader.close().await;
    let consumers: Vec<redis::Value> = redis::from_redis_value(
        redis.command(
            redis::cmd("XINFO")
                .arg("CONSUMERS")
                .arg(KEY)
                .arg("storm:here"),
        ),
    )
    .unwrap();
    assert_eq!(consumers.len(), 0);
}
