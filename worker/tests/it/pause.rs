//! What operators pause: workers wait, lose nothing, and continue.

use std::sync::Arc;

use storm_shared::{
    models::{CallbackUrl, ClientName, Request, RequestId, Status, WaitReason},
    services::store::{Paused, Scope, Store},
};
use tempfile::TempDir;

use crate::{
    receiver::Receiver,
    redis_server::RedisServer,
    rows::Rows as _,
    stack::{NO_TIMEOUT, Stack},
    table::Table,
};

fn operator() -> ClientName {
    "ops".parse().unwrap()
}

async fn pause(store: &Store, what: Paused) {
    let changed = store.pause(what, operator()).await.unwrap().unwrap();
    assert!(changed);
}

async fn resume(store: &Store, what: Paused) {
    assert!(store.resume(what, operator()).await.unwrap());
}

fn origin_of(receiver: &Receiver) -> Paused {
    let url = CallbackUrl::parse(&receiver.url()).unwrap();
    Paused::Origin(url.origin().clone())
}

/// Waits until the worker says in `/healthz` what the test has paused.
async fn until_seen(stack: &Stack, text: &str) {
    while !stack.get("/healthz").await.contains(text) {
        tokio::task::yield_now().await;
    }
}

/// Pauses the origin of the receiver, and waits until the worker knows. Returns what to resume.
async fn pause_origin(stack: &Stack, receiver: &Receiver) -> Paused {
    let what = origin_of(receiver);
    pause(&stack.store, what.clone()).await;
    until_seen(stack, r#""paused_origins":1"#).await;
    what
}

/// The value of a metric without labels.
async fn metric(stack: &Stack, name: &str) -> String {
    let scraped = stack.get("/metrics").await;
    let mut lines = scraped.lines();
    let line = lines.find_map(|line| line.strip_prefix(&format!("{name} ")));
    line.unwrap().to_owned()
}

async fn all_completed(stack: &Stack, ids: &[RequestId]) {
    for id in ids {
        assert_eq!(stack.ended(*id).await.status, Status::Completed);
    }
}

#[tokio::test]
async fn a_paused_worker_claims_nothing_and_after_the_resumption_all_jobs_end() {
    let stack = Stack::without_redis(&[]).await;
    let mut receiver = Receiver::answering(|_, _| 200).await;
    pause(&stack.store, Paused::Everything).await;
    let mut ids = Vec::new();
    for _ in 0..20 {
        ids.push(stack.accept(1, Some(receiver.url())).await);
    }
    until_seen(&stack, r#""paused":true"#).await;
    assert_eq!(metric(&stack, "storm_worker_paused").await, "1");
    let healthy = stack.get("/healthz").await;
    assert!(healthy.starts_with("HTTP/1.1 200"), "{healthy}");
    for id in &ids {
        let row = stack.find(*id).await;
        assert_eq!((row.status, row.claims), (Status::Pending, 0));
        assert_eq!(row.waiting_for.unwrap().reason, WaitReason::Paused);
    }
    assert!(receiver.more().is_empty());
    resume(&stack.store, Paused::Everything).await;
    all_completed(&stack, &ids).await;
    assert_eq!(receiver.more().len(), ids.len());
    while stack.get("/healthz").await.contains("paused") {
        tokio::task::yield_now().await;
    }
    assert_eq!(metric(&stack, "storm_worker_paused").await, "0");
}

#[tokio::test]
async fn notifications_that_come_during_a_pause_are_acknowledged_and_no_job_is_lost() {
    let redis = RedisServer::start();
    let folder = Arc::new(TempDir::new().unwrap());
    let stack = Stack::start(folder, &redis.url(), &[]).await;
    let mut receiver = Receiver::answering(|_, _| 200).await;
    let notifier = stack.notifier();
    // The worker reads notifications.
    let first = stack.accept(1, Some(receiver.url())).await;
    notifier.notify(first);
    all_completed(&stack, &[first]).await;
    receiver.next().await;
    let all_acknowledged = async || {
        while redis.run("XLEN high_priority") != redis::Value::Int(0) {
            tokio::task::yield_now().await;
        }
    };
    all_acknowledged().await;
    let late = metric(&stack, "storm_worker_late_notifications_total").await;

    pause(&stack.store, Paused::Everything).await;
    let mut ids = Vec::new();
    for nth in 0..20 {
        let id = stack.accept(1, Some(receiver.url())).await;
        notifier.notify(id);
        ids.push(id);
        // Half of them are refused by the store, perhaps, and half by a worker that knows.
        if nth == 10 {
            until_seen(&stack, r#""paused":true"#).await;
        }
    }
    notifier.close().await;
    all_acknowledged().await;
    let late_since = metric(&stack, "storm_worker_late_notifications_total").await;
    assert_eq!(late_since, late, "they are not late");
    for id in &ids {
        assert_eq!(stack.find(*id).await.claims, 0);
    }
    resume(&stack.store, Paused::Everything).await;
    all_completed(&stack, &ids).await;
    assert_eq!(receiver.more().len(), ids.len());
}

#[tokio::test]
async fn what_runs_when_everything_is_paused_goes_on_to_its_end() {
    let (mut receiver, release) = Receiver::held().await;
    let stack = Stack::without_redis(&[NO_TIMEOUT]).await;
    let id = stack.accept(1, Some(receiver.url())).await;
    receiver.next().await;
    pause(&stack.store, Paused::Everything).await;
    until_seen(&stack, r#""paused":true"#).await;
    drop(release);
    all_completed(&stack, &[id]).await;
}

#[tokio::test]
async fn a_paused_origin_gets_no_attempt_while_another_one_goes_on() {
    // No time for parking is left at once: it must not force an attempt.
    let stack = Stack::without_redis(&[("CALLBACK_PARK_MAX", "1ms")]).await;
    let mut held = Receiver::answering(|_, _| 200).await;
    let mut other = Receiver::answering(|_, _| 200).await;
    let what = pause_origin(&stack, &held).await;
    assert_eq!(metric(&stack, "storm_worker_paused_origins").await, "1");
    let again = stack.accept(1, Some(other.url())).await;
    all_completed(&stack, &[again]).await;
    other.next().await;

    let (mut ids, mut others) = (Vec::new(), Vec::new());
    for _ in 0..10 {
        ids.push(stack.accept(1, Some(held.url())).await);
        others.push(stack.accept(1, Some(other.url())).await);
    }
    all_completed(&stack, &others).await;
    for id in &ids {
        let parked = |row: &Request| row.parks > 0 && row.status == Status::Pending;
        let row = stack.row_when(*id, parked).await;
        assert_eq!(row.waiting_for.unwrap().reason, WaitReason::Paused);
        assert!(row.attempts.is_empty(), "none is spent");
        assert_eq!(row.parks, 1, "it is not claimed again and again");
    }
    assert!(held.more().is_empty());
    resume(&stack.store, what).await;
    all_completed(&stack, &ids).await;
    assert_eq!(held.more().len(), ids.len());
}

#[tokio::test]
async fn a_resumed_origins_jobs_are_released_before_their_park_time_is_over() {
    // A park lasts for minutes.
    let stack = Stack::without_redis(&[("CALLBACK_PARK_MAX", "1h")]).await;
    let mut receiver = Receiver::answering(|_, _| 200).await;
    let what = pause_origin(&stack, &receiver).await;
    let id = stack.accept_of("one", &receiver.url()).await;
    let other = stack.accept_of("other", &receiver.url()).await;
    for id in [id, other] {
        stack.row_when(id, |row| row.parks == 1).await;
    }
    resume(&stack.store, what).await;
    all_completed(&stack, &[id, other]).await;
    // The first claim parked it, and the second one has delivered it.
    assert_eq!(stack.find(id).await.claims, 2);
    assert_eq!(receiver.more().len(), 2);
}

#[tokio::test]
async fn a_redelivery_to_a_paused_origin_waits_too() {
    let stack = Stack::without_redis(&[]).await;
    let mut receiver = Receiver::answering(|_, _| 200).await;
    let id = stack.accept(1, Some(receiver.url())).await;
    all_completed(&stack, &[id]).await;
    receiver.next().await;
    let what = pause_origin(&stack, &receiver).await;
    let begun = stack.store.redeliver(Scope::All, id).await;
    begun.unwrap().unwrap();
    stack.row_when(id, |row| row.parks > 0).await;
    assert!(receiver.more().is_empty());
    resume(&stack.store, what).await;
    receiver.next().await;
    stack.row_when(id, |row| row.redelivery.is_none()).await;
}

#[tokio::test]
async fn a_worker_that_starts_during_a_pause_calls_no_paused_origin() {
    let mut receiver = Receiver::answering(|_, _| 200).await;
    let table = Table::new().await;
    let what = origin_of(&receiver);
    pause(&table.store, what.clone()).await;
    let id = table.accept(1, Some(receiver.url())).await;
    let first = table.worker(&[]);
    table.row_when(id, |row| row.parks > 0).await;
    // Killed during the pause: the next one knows of it, too.
    first.signal("KILL");
    drop(first);
    let other = table.accept(1, Some(receiver.url())).await;
    let _second = table.worker(&[]);
    table.row_when(other, |row| row.parks > 0).await;
    assert!(receiver.more().is_empty());
    resume(&table.store, what).await;
    for id in [id, other] {
        assert_eq!(table.ended(id).await.status, Status::Completed);
    }
}

#[tokio::test]
async fn the_jobs_of_a_worker_that_is_killed_during_a_pause_are_reclaimed_and_wait() {
    let (mut receiver, release) = Receiver::held().await;
    let table = Table::new().await;
    let first = table.worker(&[NO_TIMEOUT]);
    let id = table.accept(1, Some(receiver.url())).await;
    receiver.next().await;
    pause(&table.store, Paused::Everything).await;
    let second = table.worker(&[NO_TIMEOUT]);
    first.signal("KILL");
    drop(first);
    let reclaimed = |row: &Request| row.status == Status::Pending && row.lost_claims == 1;
    let row = table.row_when(id, reclaimed).await;
    assert_eq!(row.waiting_for.unwrap().reason, WaitReason::Paused);
    // One that starts now claims no suspect either.
    let third = table.worker(&[NO_TIMEOUT]);
    drop(second);
    let row = table.find(id).await;
    assert_eq!((row.status, row.claims), (Status::Pending, 1));
    drop(release);
    resume(&table.store, Paused::Everything).await;
    assert_eq!(table.ended(id).await.status, Status::Completed);
    drop(third);
}
