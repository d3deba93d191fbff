//! Redis answers, but is of no use: what the queue does and what it reports.

use std::time::Duration;

use storm_shared::{
    models::{HandlerName, RequestId},
    services::queue::{NotificationReader, Notifier, Queue, RedisTrouble},
};

use crate::{
    moving_name::MovingName,
    queue::{jobs, notify_until_read, queue, settings, stream_length},
    redis_server::RedisServer,
};

/// The queues of an API and of a worker at `url`: two processes, and so two pools.
fn queues(url: &str) -> (Queue, Queue) {
    let queue = || Queue::new(&settings(url), "here").unwrap();
    (queue(), queue())
}

/// Makes `new` the master and `old` its replica, as a failover does, and moves the name.
fn fail_over(name: &MovingName, old: &RedisServer, new: &RedisServer) {
    new.replicate(None);
    old.replicate(Some(new));
    name.move_to(new.port());
}

/// Waits until what the tasks report is as expected.
pub(crate) async fn until_reported(queue: &Queue, expected: Option<RedisTrouble>) {
    while queue.status().trouble() != expected {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_failover_is_followed_although_the_old_master_answers_as_a_replica() {
    let (old, new) = (RedisServer::start(), RedisServer::start());
    let name = MovingName::of(old.port()).await;
    let (api, worker) = queues(&name.url());
    let notifier = Notifier::start(api.clone());
    // Its sweep finds entries again that it could not acknowledge.
    let mut reader = NotificationReader::new(worker.clone(), "a".into())
        .with_min_idle_time(Duration::from_millis(1));
    notify_until_read(&notifier, &mut reader).await;

    for (from, to) in [(&old, &new), (&new, &old)] {
        fail_over(&name, from, to);
        notify_until_read(&notifier, &mut reader).await;
        while stream_length(to) > 0 {
            let entries = reader.read(10).await;
            reader.acknowledge(&entries).await;
        }
        for queue in [&api, &worker] {
            queue.check().await.unwrap();
            until_reported(queue, None).await;
        }
    }
}

#[tokio::test]
async fn an_idle_notifier_follows_a_failover_before_the_next_job() {
    let (old, new) = (RedisServer::start(), RedisServer::start());
    let name = MovingName::of(old.port()).await;
    let (api, _) = queues(&name.url());
    let notifier = Notifier::start(api.clone());
    let clients = |redis: &RedisServer| {
        let list: String = redis::from_redis_value(redis.run("CLIENT LIST")).unwrap();
        list.lines()
            .filter(|line| !line.contains("cmd=client"))
            .count()
    };
    while clients(&old) == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // The old master has no replica and the new one no master, so that only clients are listed.
    old.run("REPLICAOF 127.0.0.1 1");
    name.move_to(new.port());
    while clients(&old) > 0 || clients(&new) == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // Not one notification is lost from here on.
    for _ in 0..100 {
        notifier.notify(RequestId::generate());
    }
    notifier.close().await;
    let mut reader = NotificationReader::new(api, "a".into());
    let mut read = 0;
    while read < 100 {
        read += jobs(&reader.read(10).await).len();
    }
}

#[tokio::test]
async fn every_answer_that_shows_a_useless_connection_is_reported_until_it_ends() {
    let redis = RedisServer::start();
    let (api, worker) = queues(&redis.url());
    let notifier = Notifier::start(api.clone());
    let reading = tokio::spawn({
        let mut reader = NotificationReader::new(worker.clone(), "a".into());
        async move {
            loop {
                let entries = reader.read(10).await;
                reader.acknowledge(&entries).await;
            }
        }
    });
    until_reported(&worker, None).await;
    let (both, api_only, worker_only) = ([&api, &worker], [&api; 2], [&worker; 2]);
    for (fault, repair, trouble, concerned) in [
        (
            "REPLICAOF 127.0.0.1 1",
            "REPLICAOF NO ONE",
            RedisTrouble::ReadOnlyReplica,
            both,
        ),
        (
            "SET high_priority x",
            "DEL high_priority",
            RedisTrouble::WrongType,
            both,
        ),
        (
            "ACL SETUSER default -@stream",
            "ACL SETUSER default +@all",
            RedisTrouble::PermissionDenied,
            both,
        ),
        (
            "ACL SETUSER default resetkeys",
            "ACL SETUSER default allkeys",
            RedisTrouble::PermissionDenied,
            both,
        ),
        (
            "ACL SETUSER default -xadd",
            "ACL SETUSER default +xadd",
            RedisTrouble::PermissionDenied,
            api_only,
        ),
        (
            "ACL SETUSER default -xautoclaim",
            "ACL SETUSER default +xautoclaim",
            RedisTrouble::PermissionDenied,
            worker_only,
        ),
        (
            "CONFIG SET maxmemory 1",
            "CONFIG SET maxmemory 0",
            RedisTrouble::OutOfMemory,
            api_only,
        ),
        (
            "CONFIG SET min-replicas-to-write 1",
            "CONFIG SET min-replicas-to-write 0",
            RedisTrouble::TooFewReplicas,
            both,
        ),
    ] {
        redis.run(fault);
        for queue in concerned {
            until_reported(queue, Some(trouble)).await;
        }
        redis.run(repair);
        for queue in concerned {
            until_reported(queue, None).await;
            queue.check().await.unwrap();
        }
    }
    assert_eq!(stream_length(&redis), 0, "no check wrote anything");
    reading.abort();
    drop(notifier);
}

#[tokio::test]
async fn a_missing_or_wrong_password_is_told_as_such() {
    let redis = RedisServer::start();
    redis.run("ACL SETUSER default resetpass >right");
    let port = redis.port();
    for (user, expected) in [
        ("", Some(RedisTrouble::AuthenticationFailed)),
        (":wrong@", Some(RedisTrouble::AuthenticationFailed)),
        ("nobody:right@", Some(RedisTrouble::AuthenticationFailed)),
        (":right@", None),
    ] {
        let (queue, _) = queues(&format!("redis://{user}127.0.0.1:{port}"));
        let checked = queue.check().await;
        let trouble = checked.as_ref().err().map(RedisTrouble::from);
        assert_eq!(trouble, expected, "{user} {checked:?}");
    }
}

#[tokio::test]
async fn a_check_writes_nothing_even_if_transactions_are_denied() {
    let redis = RedisServer::start();
    let (queue, _) = queues(&redis.url());
    let _notifier = Notifier::start(queue.clone());
    let _reader = NotificationReader::new(queue.clone(), "a".into());
    redis.run("ACL SETUSER default -multi -discard");
    assert!(queue.check().await.is_err());
    let keys: i64 = redis::from_redis_value(redis.run("DBSIZE")).unwrap();
    assert_eq!(keys, 0);
}

#[tokio::test]
async fn entries_that_fill_redis_up_are_still_deleted() {
    let redis = RedisServer::start();
    let queue = queue(&redis, "here");
    let mut reader = NotificationReader::new(queue.clone(), "a".into());
    reader.read(1).await; // creates the group
    let notifier = Notifier::start(queue.clone());
    for _ in 0..10 {
        notifier.notify(RequestId::generate());
    }
    notifier.close().await;
    redis.run("CONFIG SET maxmemory 1");
    let mut read = 0;
    while read < 10 {
        let entries = reader.read(10).await;
        read += jobs(&entries).len();
        reader.acknowledge(&entries).await;
    }
    assert_eq!(stream_length(&redis), 0);
}

#[tokio::test]
async fn a_hung_connection_is_replaced_as_soon_as_the_server_answers_again() {
    let redis = RedisServer::start();
    let (api, worker) = queues(&redis.url());
    let notifier = Notifier::start(api.clone());
    let mut reader = NotificationReader::new(worker, "a".into());
    notify_until_read(&notifier, &mut reader).await;
    redis.run("CLIENT PAUSE 6000 ALL");
    until_reported(&api, Some(RedisTrouble::NoAnswer)).await;
    notify_until_read(&notifier, &mut reader).await;
    until_reported(&api, None).await;
}

#[tokio::test]
async fn dropped_notifications_are_counted() {
    let queue = Queue::new(&settings("redis://127.0.0.1:1"), "here").unwrap();
    let notifier = Notifier::start(queue.clone());
    for _ in 0..10_000 {
        notifier.notify(RequestId::generate());
    }
    notifier.close().await;
    let status = queue.status();
    assert!(status.overflowed.get() > 0, "more than the channel holds");
    assert!(status.unsent.get() > 0, "no Redis took them");
    assert_eq!(status.trouble(), Some(RedisTrouble::Unreachable));
}

#[tokio::test]
async fn the_documented_redis_users_may_do_what_the_services_need_and_nothing_else() {
    let redis = RedisServer::start();
    for user in include_str!("../../src/services/queue/users.acl").lines() {
        redis.run(&user.replacen("user", "ACL SETUSER", 1));
    }
    let of = |user: &str| {
        let at = redis.port();
        let url = format!("redis://{user}:change-me@127.0.0.1:{at}/3");
        Queue::new(&settings(&url), "here").unwrap()
    };
    let (api, worker) = (of("storm-api"), of("storm-worker"));
    let notifier = Notifier::start(api.clone());
    // It sweeps, looks for dead consumers, acknowledges, and leaves the group at the end.
    let mut reader = NotificationReader::new(worker.clone(), "a".into())
        .with_min_idle_time(Duration::from_millis(1));
    notify_until_read(&notifier, &mut reader).await;
    // The same in the stream of a handler.
    let handler: HandlerName = "thumbnails".parse().unwrap();
    let mut of_handler = NotificationReader::new(worker.of_handler(&handler), "a".into())
        .with_min_idle_time(Duration::from_millis(1));
    let id = RequestId::generate();
    let mut entries = Vec::new();
    while !jobs(&entries).contains(&id) {
        notifier.notify_of(handler.clone(), id.into());
        entries = of_handler.read(10).await;
        of_handler.acknowledge(&entries).await;
    }
    for queue in [&api, &worker, &worker.of_handler(&handler)] {
        queue.check().await.unwrap();
        until_reported(queue, None).await;
    }
    of_handler.close().await;
    reader.close().await;
    notifier.close().await;
    let denied: Vec<redis::Value> = redis::from_redis_value(redis.run("ACL LOG")).unwrap();
    assert_eq!(denied.len(), 0, "{denied:?}");
    for refused in [
        "ACL DRYRUN storm-api FLUSHALL",
        "ACL DRYRUN storm-worker GET other",
        "ACL DRYRUN storm-api XLEN high_priority_of_another",
        "ACL DRYRUN storm-worker XLEN high_priority_of_another",
    ] {
        assert_ne!(redis.run(refused), redis::Value::Okay);
    }
}
