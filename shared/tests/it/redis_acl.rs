//! A Redis user that lacks a command: what the tasks report, and for how long.

use std::{cell::RefCell, io, sync::Once, time::Duration};

use storm_shared::{
    models::RequestId,
    services::queue::{NotificationReader, Notifier, Queue, RedisTrouble},
};

use crate::{
    queue::{jobs, notify_until_read, queue, settings, stream_length},
    redis_faults::until_reported,
    redis_server::RedisServer,
};

thread_local! {
    static LOG: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Writes to the log of its thread, and so of its test.
struct ThreadLog;

impl io::Write for ThreadLog {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LOG.with_borrow_mut(|log| log.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Begins the log of this thread.
fn begin_log() {
    static SUBSCRIBED: Once = Once::new();
    // One for all threads: tracing caches whether a line's place in the code has a subscriber, and
    // a thread without one could switch it off for all.
    SUBSCRIBED.call_once(|| {
        let lines = tracing_subscriber::fmt().with_ansi(false);
        let lines = lines.with_writer(|| ThreadLog).finish();
        tracing::subscriber::set_global_default(lines).unwrap();
        tracing::callsite::rebuild_interest_cache();
    });
    LOG.take();
}

/// The lines of one task since [`begin_log`].
fn log_of(task: &str) -> Vec<String> {
    let text = String::from_utf8(LOG.with_borrow(Clone::clone)).unwrap();
    let of_task = |line: &&str| line.contains(&format!("task=\"{task}\""));
    text.lines().filter(of_task).map(str::to_owned).collect()
}

/// Asserts that `lines` tell of one outage, a denied permission, that is not over.
fn assert_steady(lines: &[String], fault: &str) {
    let [line] = lines else {
        panic!("{fault}: {lines:?}");
    };
    assert!(line.contains("permission denied (ACL)"), "{fault}: {line}");
}

async fn checked(queue: &Queue) -> Option<RedisTrouble> {
    let checked = queue.check().await;
    checked.err().as_ref().map(RedisTrouble::from)
}

#[tokio::test]
async fn a_worker_whose_acknowledgements_are_denied_says_so_steadily_until_it_ends() {
    const DENIED: Option<RedisTrouble> = Some(RedisTrouble::PermissionDenied);
    for command in ["exec", "multi", "xdel", "xack", "xack -xlen"] {
        let redis = RedisServer::start();
        let (pushing, worker) = (queue(&redis, "here"), queue(&redis, "here"));
        let notifier = Notifier::start(pushing);
        let mut reader = NotificationReader::new(worker.clone(), "a".into());
        notify_until_read(&notifier, &mut reader).await;
        begin_log();
        redis.run(&format!("ACL SETUSER default -{command}"));
        assert_eq!(checked(&worker).await, DENIED, "-{command}, no entry yet");
        for _ in 0..2 {
            notify_until_read(&notifier, &mut reader).await;
            assert_eq!(worker.status().trouble(), DENIED, "-{command}, an entry");
            // Without an entry, the reader asks whether acknowledgements are taken again.
            assert_eq!(reader.read(1).await, []);
            assert_eq!(worker.status().trouble(), DENIED, "-{command}, idle");
            assert_eq!(checked(&worker).await, DENIED, "-{command}");
        }
        let up: Vec<_> = worker.status().links().collect();
        assert_eq!(up, [("reader", true), ("acknowledgements", false)]);
        assert_steady(&log_of("acknowledgements"), command);
        redis.run("ACL SETUSER default +@all");
        while worker.status().trouble().is_some() {
            reader.read(1).await;
        }
        assert_eq!(checked(&worker).await, None);
    }
}

#[tokio::test]
async fn entries_whose_acknowledgement_was_denied_are_deleted_once_it_is_allowed() {
    let redis = RedisServer::start();
    let worker = queue(&redis, "here");
    let notifier = Notifier::start(worker.clone());
    let reader = NotificationReader::new(worker.clone(), "a".into());
    let mut reader = reader.with_min_idle_time(Duration::from_millis(1));
    redis.run("ACL SETUSER default -exec");
    for _ in 0..10 {
        notify_until_read(&notifier, &mut reader).await;
    }
    assert!(stream_length(&redis) >= 10);
    redis.run("ACL SETUSER default +@all");
    while stream_length(&redis) > 0 {
        let entries = reader.read(10).await;
        reader.acknowledge(&entries).await;
    }
}

#[tokio::test]
async fn a_notifier_whose_check_is_denied_says_so_steadily_and_still_notifies() {
    for command in ["multi", "discard", "xlen"] {
        let redis = RedisServer::start();
        let (api, worker) = (queue(&redis, "here"), queue(&redis, "here"));
        let notifier = Notifier::start(api.clone());
        let mut reader = NotificationReader::new(worker, "a".into());
        notify_until_read(&notifier, &mut reader).await;
        begin_log();
        redis.run(&format!("ACL SETUSER default -{command}"));
        until_reported(&api, Some(RedisTrouble::PermissionDenied)).await;
        for _ in 0..5 {
            let id = RequestId::generate();
            notifier.notify(id);
            while !jobs(&reader.read(10).await).contains(&id) {
                assert!(api.status().trouble().is_some(), "-{command}");
            }
        }
        // Its task ends after the last push, and so after every change that a push makes.
        notifier.close().await;
        assert_eq!(api.status().unsent.get(), 0, "-{command}");
        assert_steady(&log_of("notifier"), command);
    }
}

#[tokio::test]
async fn a_worker_is_told_of_commands_that_it_needs_only_now_and_then() {
    let redis = RedisServer::start();
    let worker = queue(&redis, "here");
    let mut reader = NotificationReader::new(worker.clone(), "a".into());
    reader.read(1).await; // creates the group
    for command in ["xgroup", "xinfo", "xgroup|create", "xgroup|delconsumer"] {
        redis.run(&format!("ACL SETUSER default -{command}"));
        let denied = Some(RedisTrouble::PermissionDenied);
        assert_eq!(checked(&worker).await, denied, "-{command}");
        redis.run("ACL SETUSER default +@all");
        assert_eq!(checked(&worker).await, None, "+{command}");
    }
}

#[tokio::test]
async fn a_user_who_may_not_select_the_database_is_told_as_a_denied_permission() {
    let redis = RedisServer::start();
    redis.run("ACL SETUSER default -select");
    let url = format!("{}/3", redis.url());
    let queue = Queue::new(&settings(&url), "here").unwrap();
    assert_eq!(checked(&queue).await, Some(RedisTrouble::PermissionDenied));
}

/// A transaction that is denied leaves its commands to run one by one.
#[tokio::test]
async fn a_check_changes_nothing_in_a_stream_that_exists_even_if_transactions_are_denied() {
    let redis = RedisServer::start();
    redis.run("XADD high_priority 1-1 id x");
    let queue = queue(&redis, "here");
    let _notifier = Notifier::start(queue.clone());
    let _reader = NotificationReader::new(queue.clone(), "a".into());
    for denied in ["-multi", "+multi -exec", "+@all -discard"] {
        redis.run(&format!("ACL SETUSER default {denied}"));
        assert!(queue.check().await.is_err(), "{denied}");
        let stream = redis.run("XINFO STREAM high_priority FULL");
        let stream = format!("{stream:?}");
        assert!(stream.contains("1-1"), "{denied}: {stream}");
        assert!(!stream.contains("storm:"), "{denied}: {stream}");
    }
}
