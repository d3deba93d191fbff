//! Entries of the stream that name several jobs, and workers that share them.

use std::{sync::Arc, time::Duration};

use storm_shared::{
    config::Settings,
    models::{CallbackUrl, RequestId, Status},
    services::{
        queue::{JOBS_PER_ENTRY, NOTIFICATION_GRACE, Notification, Notifier, Queue},
        store::{NewJob, Store},
    },
};
use tempfile::TempDir;
use tokio::sync::watch;

use crate::{
    receiver::Receiver,
    redis_server::RedisServer,
    rows::{Rows as _, spec},
    stack::{NO_DRAIN, NO_TIMEOUT, Stack},
    table::Table,
};

const ONE_SLOT: (&str, &str) = ("WORKER_CONCURRENCY", "1");

/// Longer than a test takes: only a notification leads to the job.
const NOTIFIED_ONLY: Duration = Duration::from_hours(1);

/// Accepts `count` jobs, which the table gives to workers after `grace`.
async fn accept(
    store: &Store,
    count: usize,
    records: u64,
    url: Option<String>,
    grace: Duration,
) -> Vec<Notification> {
    let callback = url.map(|url| CallbackUrl::parse(&url).unwrap());
    let mut notifications = Vec::with_capacity(count);
    for _ in 0..count {
        let job = NewJob {
            notification_grace: grace,
            ..NewJob::new(RequestId::generate(), spec(records), callback.clone())
        };
        notifications.push(Notification::of(&job));
        store.accept(job).await.unwrap();
    }
    notifications
}

/// Notifies of all of them at once, in as few entries as they fit into.
async fn notify(redis: &RedisServer, store: &Store, notifications: &[Notification]) {
    let settings = Settings::with([("REDIS_URL", &*redis.url())]).unwrap();
    let queue = Queue::new(&settings.queue.unwrap(), store.id()).unwrap();
    let notifier = Notifier::start(queue);
    // Without a wait in between: they are one batch.
    for notification in notifications {
        notifier.notify(notification.clone());
    }
    notifier.close().await;
}

async fn all_completed(stack: &Stack, notifications: &[Notification]) {
    for job in notifications {
        let row = stack.ended(job.id).await;
        assert_eq!((row.status, row.claims), (Status::Completed, 1));
    }
}

async fn all_acknowledged(redis: &RedisServer) {
    while redis.run("XLEN high_priority") != redis::Value::Int(0) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The value of the metric whose line begins with `name`.
async fn metric(stack: &Stack, name: &str) -> usize {
    let metrics = stack.get("/metrics").await;
    let value = metrics.lines().find_map(|line| line.strip_prefix(name));
    value.map_or(0, |value| value.trim().parse().unwrap())
}

async fn claimed_by_notification(stack: &Stack) -> usize {
    metric(
        stack,
        "storm_worker_claimed_jobs_total{source=\"notification\"}",
    )
    .await
}

/// A receiver that answers its first call once the sender is dropped, and the others at once.
async fn holding_the_first() -> (Receiver, watch::Sender<()>) {
    let (release, released) = watch::channel(());
    let receiver = Receiver::answering_when(move |nth, _| {
        let mut released = released.clone();
        async move {
            if nth == 0 {
                let _ = released.changed().await;
            }
            200
        }
    });
    (receiver.await, release)
}

#[tokio::test]
async fn two_workers_share_a_burst() {
    let redis = RedisServer::start();
    let folder = Arc::new(TempDir::new().unwrap());
    let slots = [("WORKER_CONCURRENCY", "16")];
    let one = Stack::start(folder.clone(), &redis.url(), &slots).await;
    let two = Stack::start(folder, &redis.url(), &slots).await;
    // Both wait for entries.
    while !format!("{:?}", redis.run("INFO clients")).contains("blocked_clients:2") {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // Each takes its slot for seconds: whoever has taken an entry can't take the next one, too.
    let burst = accept(&one.store, 2 * JOBS_PER_ENTRY, 400, None, NOTIFIED_ONLY).await;
    notify(&redis, &one.store, &burst).await;
    all_completed(&one, &burst).await;
    for worker in [&one, &two] {
        assert_eq!(claimed_by_notification(worker).await, JOBS_PER_ENTRY);
    }
    all_acknowledged(&redis).await;
    one.stop().await;
    two.stop().await;
}

#[tokio::test]
async fn a_worker_with_one_slot_runs_all_jobs_of_an_entry_one_after_the_other() {
    let redis = RedisServer::start();
    let folder = Arc::new(TempDir::new().unwrap());
    let mut receiver = Receiver::answering(|_, _| 200).await;
    let stack = Stack::start(folder, &redis.url(), &[ONE_SLOT]).await;
    let url = Some(receiver.url());
    let jobs = accept(&stack.store, JOBS_PER_ENTRY + 1, 1, url, NOTIFIED_ONLY).await;
    notify(&redis, &stack.store, &jobs).await;
    all_completed(&stack, &jobs).await;
    assert_eq!(claimed_by_notification(&stack).await, jobs.len());
    assert_eq!(receiver.more().len(), jobs.len());
    all_acknowledged(&redis).await;
    stack.stop().await;
}

/// How often entries were read.
fn reads(redis: &RedisServer) -> usize {
    let stats = format!("{:?}", redis.run("INFO commandstats"));
    let (_, calls) = stats
        .split_once("cmdstat_xreadgroup:calls=")
        .unwrap_or(("", "0,"));
    calls.split(',').next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_worker_reads_as_many_entries_of_one_job_as_it_has_slots_not_a_sixteenth_of_them() {
    const SLOTS: &str = "256";
    let redis = RedisServer::start();
    let folder = Arc::new(TempDir::new().unwrap());
    let slots = ("WORKER_CONCURRENCY", SLOTS);
    let stack = Stack::start(folder, &redis.url(), &[slots]).await;
    // Each takes its slot for seconds.
    let count = SLOTS.parse().unwrap();
    let jobs = accept(&stack.store, count, 400, None, NOTIFIED_ONLY).await;
    let of_tenant = |(nth, job): (usize, &Notification)| Notification {
        tenant: format!("t{nth}").parse().ok(),
        ..job.clone()
    };
    let of_tenants: Vec<_> = jobs.iter().enumerate().map(of_tenant).collect();
    let before = reads(&redis);
    notify(&redis, &stack.store, &of_tenants).await;
    all_completed(&stack, &jobs).await;
    let reads = reads(&redis) - before;
    // A sixteenth of the free slots at a time would take more than 50.
    assert!(reads < 40, "{reads}");
    stack.stop().await;
}

#[tokio::test]
async fn jobs_that_a_busy_worker_has_in_hand_are_run_by_an_idle_one_and_their_entry_is_acknowledged()
 {
    let redis = RedisServer::start();
    let folder = Arc::new(TempDir::new().unwrap());
    let (mut receiver, release) = holding_the_first().await;
    let busy = Stack::start(folder.clone(), &redis.url(), &[ONE_SLOT, NO_TIMEOUT]).await;
    let url = Some(receiver.url());
    let jobs = accept(&busy.store, JOBS_PER_ENTRY, 1, url, NOTIFICATION_GRACE).await;
    notify(&redis, &busy.store, &jobs).await;
    receiver.next().await;
    let idle = Stack::start(folder, &redis.url(), &[]).await;
    let (first, others) = jobs.split_first().unwrap();
    all_completed(&idle, others).await;
    assert_eq!(idle.find(first.id).await.status, Status::Processing);
    drop(release);
    all_completed(&busy, &jobs).await;
    all_acknowledged(&redis).await;
    busy.stop().await;
    idle.stop().await;
}

#[tokio::test]
async fn an_entry_of_which_some_jobs_were_claimed_from_the_table_starts_the_others_once() {
    let redis = RedisServer::start();
    let folder = Arc::new(TempDir::new().unwrap());
    let stack = Stack::start(folder, &redis.url(), &[]).await;
    let half = JOBS_PER_ENTRY / 2;
    let done = accept(&stack.store, half, 1, None, Duration::ZERO).await;
    all_completed(&stack, &done).await;
    let new = accept(&stack.store, half, 1, None, NOTIFIED_ONLY).await;
    let mixed: Vec<_> = done.into_iter().zip(new).flat_map(<[_; 2]>::from).collect();
    notify(&redis, &stack.store, &mixed).await;
    all_completed(&stack, &mixed).await;
    all_acknowledged(&redis).await;
    let late = metric(&stack, "storm_worker_late_notifications_total").await;
    assert_eq!((claimed_by_notification(&stack).await, late), (half, half));
    stack.stop().await;
}

#[tokio::test]
async fn jobs_that_a_killed_worker_had_in_hand_are_run_by_another() {
    let redis = RedisServer::start();
    let table = Table::new().await;
    let (mut receiver, _held) = holding_the_first().await;
    let with_redis = ("REDIS_URL", &*redis.url());
    let killed = table.worker(&[with_redis, ONE_SLOT, NO_TIMEOUT]);
    let url = Some(receiver.url());
    let jobs = accept(&table.store, JOBS_PER_ENTRY, 1, url, NOTIFICATION_GRACE).await;
    notify(&redis, &table.store, &jobs).await;
    receiver.next().await;
    let _other = table.worker(&[with_redis]);
    killed.signal("KILL");
    for job in &jobs {
        assert_eq!(table.ended(job.id).await.status, Status::Completed);
    }
}

#[tokio::test]
async fn a_worker_that_shuts_down_leaves_the_jobs_in_its_hand_to_the_table() {
    let redis = RedisServer::start();
    let folder = Arc::new(TempDir::new().unwrap());
    let (mut receiver, _held) = holding_the_first().await;
    let settings = [ONE_SLOT, NO_TIMEOUT, NO_DRAIN];
    let stack = Stack::start(folder, &redis.url(), &settings).await;
    let url = Some(receiver.url());
    let jobs = accept(&stack.store, JOBS_PER_ENTRY, 1, url, NOTIFIED_ONLY).await;
    notify(&redis, &stack.store, &jobs).await;
    receiver.next().await;
    let (store, _folder) = stack.stop().await;
    all_acknowledged(&redis).await;
    for job in &jobs[1..] {
        let row = store.find(job.id).await.unwrap().unwrap();
        assert_eq!((row.status, row.claims), (Status::Pending, 0));
    }
    store.close().await;
}
