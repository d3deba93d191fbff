//! Fair shares of a worker's slots between tenants, and between long and short jobs.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use storm_shared::{
    models::{CallbackUrl, RequestId, Status},
    services::{
        queue::Notification,
        store::{NewJob, Store},
    },
};
use tempfile::TempDir;
use tokio::sync::watch;

use crate::{
    receiver::Receiver,
    redis_server::RedisServer,
    rows::{Rows as _, spec},
    stack::Stack,
};

/// The drain does not wait for what hangs or is long.
const NO_DRAIN: (&str, &str) = ("DRAIN_TIMEOUT", "1ms");

const FOUR_SLOTS: (&str, &str) = ("WORKER_CONCURRENCY", "4");

/// Accepts a job of `tenant` and returns its notification.
async fn accept(
    store: &Store,
    tenant: Option<&str>,
    records: u64,
    callback: Option<String>,
) -> Notification {
    let callback = callback.map(|url| CallbackUrl::parse(&url).unwrap());
    let mut job = NewJob::new(RequestId::generate(), spec(records), callback);
    job.created_by = tenant.map(|name| name.parse().unwrap());
    let notification = Notification::of(&job);
    store.accept(job).await.unwrap();
    notification
}

/// Runs `test` without Redis, and with notifications.
async fn with_and_without_redis<F: Future<Output = ()>>(test: impl Fn(Stack, bool) -> F) {
    let redis = RedisServer::start();
    for (url, is_notified) in [("none".to_owned(), false), (redis.url(), true)] {
        let folder = Arc::new(TempDir::new().unwrap());
        let stack = Stack::start(folder, &url, &[FOUR_SLOTS, NO_DRAIN]).await;
        test(stack, is_notified).await;
    }
}

/// Notifies of all of them, in order, if the worker is to hear of them.
fn notify(stack: &Stack, is_notified: bool, notifications: &[Notification]) {
    if is_notified {
        let notifier = stack.notifier();
        for notification in notifications {
            notifier.notify(notification.clone());
        }
    }
}

#[tokio::test]
async fn forty_nine_tenants_are_served_while_the_receivers_of_a_hostile_one_hang() {
    with_and_without_redis(|stack, is_notified| async move {
        let (release, released) = watch::channel(());
        let hostile_calls = Arc::new(AtomicUsize::new(0));
        let mut hostile_receivers = Vec::new();
        for _ in 0..10 {
            let (calls, released) = (Arc::clone(&hostile_calls), released.clone());
            let hanging = Receiver::answering_when(move |_, _| {
                let (nth, mut released) = (calls.fetch_add(1, Ordering::SeqCst), released.clone());
                async move {
                    // Its first ones end: the worker cannot know yet that others will come.
                    if nth >= 40 {
                        let _ = released.changed().await;
                    }
                    200
                }
            });
            hostile_receivers.push(hanging.await);
        }
        let mut healthy = Vec::new();
        for _ in 0..7 {
            healthy.push(Receiver::answering(|_, _| 200).await);
        }
        let mut notifications = Vec::new();
        for receiver in hostile_receivers.iter().cycle().take(100) {
            let url = Some(receiver.url());
            notifications.push(accept(&stack.store, Some("hostile"), 1, url).await);
        }
        for (tenant, receiver) in healthy.iter().cycle().enumerate().take(49) {
            let name = format!("tenant-{tenant}");
            let url = Some(receiver.url());
            notifications.push(accept(&stack.store, Some(&name), 1, url).await);
        }
        notify(&stack, is_notified, &notifications);
        for other in &notifications[100..] {
            assert_eq!(stack.ended(other.id).await.status, Status::Completed);
        }
        drop(release);
        for job in &notifications[..100] {
            assert_eq!(stack.ended(job.id).await.status, Status::Completed);
        }
        stack.stop().await;
    })
    .await;
}

#[tokio::test]
async fn of_two_tenants_neither_waits_for_all_jobs_of_the_other() {
    with_and_without_redis(|stack, is_notified| async move {
        let mut receiver = Receiver::answering(|_, _| 200).await;
        let mut notifications = Vec::new();
        for tenant in ["first", "second"] {
            for _ in 0..100 {
                let url = Some(receiver.url());
                notifications.push(accept(&stack.store, Some(tenant), 5, url).await);
            }
        }
        notify(&stack, is_notified, &notifications);
        for job in &notifications {
            assert_eq!(stack.ended(job.id).await.status, Status::Completed);
        }
        let second: Vec<_> = notifications[100..]
            .iter()
            .map(|it| it.id.to_string())
            .collect();
        let of_second = |body: &bytes::Bytes| {
            let body: serde_json::Value = serde_json::from_slice(body).unwrap();
            second.iter().any(|id| body["request_id"] == **id)
        };
        let callbacks = receiver.more();
        let first_of_second = callbacks.iter().position(of_second).unwrap();
        assert!(first_of_second < 90, "{first_of_second}");
        stack.stop().await;
    })
    .await;
}

#[tokio::test]
async fn long_jobs_leave_a_quarter_of_the_slots_to_short_ones() {
    with_and_without_redis(|stack, is_notified| async move {
        let mut notifications = Vec::new();
        for _ in 0..8 {
            notifications.push(accept(&stack.store, None, 100_000, None).await);
        }
        for _ in 0..20 {
            notifications.push(accept(&stack.store, None, 1, None).await);
        }
        notify(&stack, is_notified, &notifications);
        let is_running =
            async |job: &Notification| stack.find(job.id).await.status == Status::Processing;
        for job in &notifications[8..] {
            assert_eq!(stack.ended(job.id).await.status, Status::Completed);
        }
        let running = loop {
            let mut running = 0;
            for job in &notifications[..8] {
                running += usize::from(is_running(job).await);
            }
            if running >= 3 {
                break running;
            }
            tokio::task::yield_now().await;
        };
        assert_eq!(running, 3);
        // Another short one finds its slot, and no more long ones have begun.
        let last = accept(&stack.store, None, 1, None).await;
        notify(&stack, is_notified, std::slice::from_ref(&last));
        stack.ended(last.id).await;
        let mut running = 0;
        for job in &notifications[..8] {
            running += usize::from(is_running(job).await);
        }
        assert_eq!(running, 3);
        stack.stop().await;
    })
    .await;
}
