//! The queue's protocol, against a real Redis.

use std::time::Duration;

use futures_util::FutureExt as _;
use storm_shared::{
    config::{QueueSettings, Settings},
    models::{HandlerName, RequestId},
    services::{
        queue::{
            Entry, JOBS_PER_ENTRY, Notification, NotificationReader, Notified, Notifier, Queue,
        },
        store::{Acceptance, NewJob},
    },
};

use crate::{
    database::{Engine, TestDatabase},
    jobs::spec,
    redis_server::RedisServer,
};

pub(crate) const KEY: &str = "high_priority";

pub(crate) fn settings(url: &str) -> QueueSettings {
    Settings::with([("REDIS_URL", url)]).unwrap().queue.unwrap()
}

pub(crate) fn queue(redis: &RedisServer, store: &str) -> Queue {
    Queue::new(&settings(&redis.url()), store).unwrap()
}

pub(crate) fn stream_length(redis: &RedisServer) -> i64 {
    redis::from_redis_value(redis.command(redis::cmd("XLEN").arg(KEY))).unwrap()
}

/// Reads until `count` entries have come.
pub(crate) async fn read(reader: &mut NotificationReader, count: usize) -> Vec<Entry> {
    let mut entries = Vec::new();
    while entries.len() < count {
        entries.extend(reader.read(count - entries.len()).await);
    }
    entries
}

pub(crate) fn jobs(entries: &[Entry]) -> Vec<RequestId> {
    let jobs = entries.iter().map(|entry| &entry.notified.jobs);
    jobs.flatten().copied().collect()
}

/// Notifies until the reader receives it. Notifications sent while Redis is down may be lost.
pub(crate) async fn notify_until_read(notifier: &Notifier, reader: &mut NotificationReader) {
    let id = RequestId::generate();
    loop {
        notifier.notify(id);
        let entries = reader.read(10).await;
        reader.acknowledge(&entries).await;
        if jobs(&entries).contains(&id) {
            return;
        }
    }
}

#[tokio::test]
async fn a_notification_is_delivered_once_then_deleted() {
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
    let entries = usize::try_from(stream_length(&redis)).unwrap();
    assert!(entries < 100, "{entries} for 1000 jobs");
    let first = read(&mut one, 40).await;
    let second = read(&mut two, entries - 40).await;
    let mut read = [jobs(&first), jobs(&second)].concat();
    read.sort();
    assert_eq!(read, ids);
    one.acknowledge(&first).await;
    two.acknowledge(&second).await;
    assert_eq!(stream_length(&redis), 0);
}

#[tokio::test]
async fn a_job_whose_caller_left_before_the_commit_is_notified_and_a_replay_is_not() {
    let redis = RedisServer::start();
    let database = TestDatabase::fresh(Engine::Sqlite).await;
    let store = database.open().await;
    let queue = queue(&redis, "here");
    let notifier = Notifier::start(queue.clone());
    let mut reader = NotificationReader::new(queue, "a".into());
    let job = |name: &str| {
        let mut job = NewJob::new(RequestId::generate(), spec(), None);
        job.idempotency_key = Some(name.as_bytes().try_into().unwrap());
        job.on_stored = Some(notifier.on_stored(&job));
        job
    };
    let (left, last) = (job("left"), job("last"));
    let lock = database.hold_lock().await;
    // The first poll queues the write.
    assert!(store.accept(left.clone()).now_or_never().is_none());
    lock.release().await;
    let replayed = store.accept(job("left")).await.unwrap();
    assert!(
        matches!(replayed, Acceptance::Replayed { id, .. } if id == left.id),
        "{replayed:?}"
    );
    store.accept(last.clone()).await.unwrap();
    let mut told = Vec::new();
    while told.len() < 2 {
        told.extend(jobs(&reader.read(10).await));
    }
    assert_eq!(told, [left.id, last.id]);
}

#[tokio::test]
async fn pending_entries_of_a_dead_consumer_are_claimed_by_another() {
    let redis = RedisServer::start();
    let queue = queue(&redis, "here");
    let notifier = Notifier::start(queue.clone());
    let ids: Vec<_> = (0..5 * JOBS_PER_ENTRY)
        .map(|_| RequestId::generate())
        .collect();
    for id in &ids {
        notifier.notify(*id);
    }
    let mut dead = NotificationReader::new(queue.clone(), "dead".into());
    read(&mut dead, 5).await;
    drop(dead);
    let mut alive =
        NotificationReader::new(queue, "alive".into()).with_min_idle_time(Duration::from_millis(1));
    // Fewer per sweep than are pending, so that the XAUTOCLAIM cursor is used.
    let mut taken = Vec::new();
    while taken.len() < ids.len() {
        let entries = alive.read(2).await;
        taken.extend(jobs(&entries));
        alive.acknowledge(&entries).await;
    }
    assert_eq!(taken, ids);
    assert_eq!(stream_length(&redis), 0);
}

#[tokio::test]
async fn two_stores_on_one_redis_read_only_their_own_entries() {
    let redis = RedisServer::start();
    let (here, there) = (queue(&redis, "here"), queue(&redis, "there"));
    let (mut own, mut foreign) = (
        NotificationReader::new(here.clone(), "a".into()),
        NotificationReader::new(there, "b".into()),
    );
    let notifier = Notifier::start(here);
    let id = RequestId::generate();
    notifier.notify(id);
    let seen = read(&mut foreign, 1).await;
    assert_eq!(jobs(&seen), []);
    foreign.acknowledge(&seen).await;
    assert_eq!(
        stream_length(&redis),
        1,
        "the entry stays for its own store"
    );
    let entries = read(&mut own, 1).await;
    assert_eq!(jobs(&entries), [id]);
    own.acknowledge(&entries).await;
    assert_eq!(stream_length(&redis), 0);
}

#[tokio::test]
async fn a_single_notification_is_an_entry_as_the_release_before_writes_and_reads_it() {
    let redis = RedisServer::start();
    let queue = queue(&redis, "here");
    let notifier = Notifier::start(queue.clone());
    let notification = Notification {
        id: RequestId::generate(),
        tenant: "a".parse().ok(),
        is_long: true,
    };
    notifier.notify(notification.clone());
    notifier.close().await;
    let entries: Vec<(String, Vec<String>)> =
        redis::from_redis_value(redis.run(&format!("XRANGE {KEY} - +"))).unwrap();
    let id = notification.id.to_string();
    let expected = ["id", &id, "store", "here", "tenant", "a", "long", "1"];
    assert_eq!(entries[0].1, expected);
    let mut reader = NotificationReader::new(queue, "a".into());
    let read = read(&mut reader, 1).await;
    let expected = Notified {
        jobs: vec![notification.id],
        tenant: notification.tenant,
        is_long: true,
    };
    assert_eq!(read[0].notified, expected);
}

#[tokio::test]
async fn a_malformed_entry_is_deleted() {
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
    reader.acknowledge(&entries).await;
    assert_eq!(stream_length(&redis), 0);
}

#[tokio::test]
async fn an_entry_that_cannot_be_decoded_is_dropped_and_its_batch_is_read() {
    let redis = RedisServer::start();
    let queue = queue(&redis, "here");
    let mut reader = NotificationReader::new(queue.clone(), "a".into());
    reader.read(1).await; // creates the group
    let add = |fields: &[&[u8]]| redis.command(redis::cmd("XADD").arg(KEY).arg("*").arg(fields));
    let id = RequestId::generate();
    let job = || add(&[b"id", id.to_string().as_bytes(), b"store", b"here"]);
    job();
    add(&[b"\xff", b"\xff"]);
    add(&[b"id", b"\xff", b"store", b"here"]);
    add(&[b"id", b"", b"", b""]);
    add(&[b"store", b"here"]);
    add(&[
        b"store",
        b"here",
        b"id",
        b"no id",
        b"id",
        id.to_string().as_bytes(),
    ]);
    job();
    let entries = reader.read(100).await;
    assert_eq!(entries.len(), 7, "one batch");
    assert_eq!(jobs(&entries), [id, id]);
    assert_eq!(queue.status().malformed.get(), 5);
    assert!(queue.status().links().all(|(_, up)| up));
    reader.acknowledge(&entries).await;
    assert_eq!(stream_length(&redis), 0);
}

#[tokio::test]
async fn the_queue_works_with_either_protocol_and_over_a_unix_socket() {
    let redis = RedisServer::start();
    let folder = tempfile::TempDir::new().unwrap();
    let socket = folder.path().join("redis.sock");
    let tcp = redis.url();
    // Redis opens the socket at start only, so a second one listens there.
    let (_second, unix) = RedisServer::start_at_socket(&socket);
    for url in [
        format!("{tcp}/1?protocol=resp2"),
        format!("{tcp}/2?protocol=resp3"),
        unix,
    ] {
        let queue = Queue::new(&settings(&url), "here").unwrap();
        let notifier = Notifier::start(queue.clone());
        let mut reader = NotificationReader::new(queue.clone(), "a".into());
        notify_until_read(&notifier, &mut reader).await;
        queue.check().await.unwrap();
        reader.close().await;
    }
}

#[tokio::test]
async fn the_queue_recovers_from_flushall() {
    let redis = RedisServer::start();
    let queue = queue(&redis, "here");
    let notifier = Notifier::start(queue.clone());
    let mut reader = NotificationReader::new(queue, "a".into());
    notify_until_read(&notifier, &mut reader).await;
    redis.command(&redis::cmd("FLUSHALL"));
    notify_until_read(&notifier, &mut reader).await;
}

#[tokio::test]
async fn the_queue_recovers_when_redis_is_killed_and_restarts_empty() {
    let mut redis = RedisServer::start();
    let queue = queue(&redis, "here");
    let notifier = Notifier::start(queue.clone());
    let mut reader = NotificationReader::new(queue.clone(), "a".into());
    notify_until_read(&notifier, &mut reader).await;
    redis.kill();
    assert!(queue.check().await.is_err());
    assert!(reader.read(1).await.is_empty());
    notifier.notify(RequestId::generate());
    let _redis = RedisServer::start_on(redis.port()).expect("its port is still free");
    notify_until_read(&notifier, &mut reader).await;
    queue.check().await.unwrap();
}

#[tokio::test]
async fn without_redis_notify_does_not_block_and_the_check_fails() {
    let queue = Queue::new(&settings("redis://127.0.0.1:1"), "here").unwrap();
    let notifier = Notifier::start(queue.clone());
    for _ in 0..100_000 {
        notifier.notify(RequestId::generate());
    }
    assert!(queue.check().await.is_err());
}

#[tokio::test]
async fn the_stream_is_trimmed_to_its_length() {
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
    // Approximate trimming removes whole nodes of 100 entries.
    let length = stream_length(&redis);
    assert!((100..=200).contains(&length), "{length}");
}

#[tokio::test]
async fn a_closed_reader_leaves_its_consumer_group() {
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

/// The stream of the handler `pdf`.
const OF_PDF: &str = "high_priority:pdf";

/// The seconds after which a stream expires: negative if it does not.
fn ttl(redis: &RedisServer, key: &str) -> i64 {
    redis::from_redis_value(redis.command(redis::cmd("TTL").arg(key))).unwrap()
}

#[tokio::test]
async fn the_stream_of_a_handler_expires_a_week_after_its_last_use_and_the_reports_never() {
    const WEEK: i64 = 7 * 24 * 3600;
    let redis = RedisServer::start();
    let queue = queue(&redis, "here");
    let handler: HandlerName = "pdf".parse().unwrap();
    let notifier = Notifier::start(queue.clone());
    notifier.notify(RequestId::generate());
    notifier.notify_of(handler.clone(), RequestId::generate().into());
    let expires = async {
        while ttl(&redis, OF_PDF) < 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let expires = tokio::time::timeout(Duration::from_mins(1), expires).await;
    assert!(expires.is_ok(), "what is written expires");
    assert!(ttl(&redis, OF_PDF) <= WEEK);
    assert_eq!(ttl(&redis, KEY), -1);
    // A worker puts it off when it starts, and sets it again in a stream that it has to create.
    redis.run(&format!("EXPIRE {OF_PDF} 60"));
    let mut of_handler = NotificationReader::new(queue.of_handler(&handler), "a".into());
    let mut of_report = NotificationReader::new(queue.clone(), "a".into());
    for change in ["PING", "FLUSHALL"] {
        redis.run(change);
        of_handler.read(1).await;
        of_report.read(1).await;
        let left = ttl(&redis, OF_PDF);
        assert!((WEEK - 3600..=WEEK).contains(&left), "{change}: {left} s");
        assert_eq!(ttl(&redis, KEY), -1, "{change}");
    }
}

#[tokio::test]
async fn who_may_not_expire_a_stream_notifies_and_reads_all_the_same() {
    let redis = RedisServer::start();
    redis.run("ACL SETUSER default -expire");
    let (api, worker) = (queue(&redis, "here"), queue(&redis, "here"));
    let handler: HandlerName = "pdf".parse().unwrap();
    let notifier = Notifier::start(api.clone());
    let mut reader = NotificationReader::new(worker.of_handler(&handler), "a".into());
    for _ in 0..3 {
        let id = RequestId::generate();
        notifier.notify_of(handler.clone(), id.into());
        let entries = read(&mut reader, 1).await;
        assert_eq!(jobs(&entries), [id]);
        reader.acknowledge(&entries).await;
    }
    assert_eq!(ttl(&redis, OF_PDF), -1);
    for queue in [&api, &worker] {
        assert_eq!(queue.status().trouble(), None);
        queue.check().await.unwrap();
    }
}
