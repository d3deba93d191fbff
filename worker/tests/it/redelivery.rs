//! Attempt records and redelivery, from the table to the receiver.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use storm_shared::{
    models::{AttemptClass, FailureReason, Request, RequestId, Status},
    services::store::{Ended, OwnerId, Scope},
};

use crate::{
    program_database::Direct,
    receiver::Receiver,
    rows::Rows as _,
    stack::{Stack, reason},
};

/// A receiver whose status the test can change.
async fn switched(first: u16) -> (Receiver, Arc<AtomicU16>) {
    let status = Arc::new(AtomicU16::new(first));
    let answer = Arc::clone(&status);
    let receiver = Receiver::answering(move |_, _| answer.load(Ordering::SeqCst)).await;
    (receiver, status)
}

async fn redelivered(stack: &Stack, id: RequestId) -> Request {
    let begun = stack.store.redeliver(Scope::All, id).await.unwrap();
    begun.unwrap();
    stack.row_when(id, |row| row.redelivery.is_none()).await
}

#[tokio::test]
async fn a_redelivery_has_the_same_id_and_bytes_and_its_own_attempts() {
    let (mut receiver, status) = switched(500).await;
    let stack = Stack::without_redis(&[]).await;
    let id = stack.accept(1, Some(receiver.url())).await;
    assert_eq!(
        reason(&stack.ended(id).await),
        FailureReason::CallbackFailed
    );
    let row = redelivered(&stack, id).await;
    assert_eq!((row.status, row.attempts.len()), (Status::Failed, 8));

    status.store(200, Ordering::SeqCst);
    let row = redelivered(&stack, id).await;
    assert_eq!((row.status, row.attempts.len()), (Status::Completed, 9));
    assert!(row.failure.is_none());
    let bodies = receiver.more();
    assert_eq!(bodies.len(), 9);
    assert!(bodies.iter().all(|body| *body == bodies[0]));

    status.store(500, Ordering::SeqCst);
    let row = redelivered(&stack, id).await;
    assert_eq!((row.status, row.attempts.len()), (Status::Completed, 13));
    let numbers: Vec<_> = row.attempts.iter().map(|it| it.number).collect();
    assert_eq!(numbers, (1..=13).collect::<Vec<_>>());
    stack.stop().await;
}

#[tokio::test]
async fn every_attempt_is_recorded_with_its_class_and_status() {
    let mut receiver = Receiver::answering(|nth, _| [500, 302, 204][nth]).await;
    let stack = Stack::without_redis(&[]).await;
    let id = stack.accept(1, Some(receiver.url())).await;
    let row = stack.ended(id).await;
    let attempts: Vec<_> = row
        .attempts
        .iter()
        .map(|it| (it.number, it.class, it.status))
        .collect();
    assert_eq!(
        attempts,
        [
            (1, AttemptClass::Status, Some(500)),
            (2, AttemptClass::Status, Some(302)),
            (3, AttemptClass::Success, Some(204)),
        ]
    );
    assert!(
        row.attempts
            .iter()
            .all(|it| it.started_at >= row.created_at)
    );
    assert_eq!(row.attempts[0].error.as_deref(), Some("HTTP status 500"));
    assert_eq!(row.attempts[2].error, None);
    assert_eq!(receiver.more().len(), 3);
    stack.stop().await;
}

#[tokio::test]
async fn a_410_ends_a_job_at_once() {
    let mut receiver = Receiver::answering(|_, _| 410).await;
    let stack = Stack::without_redis(&[]).await;
    let id = stack.accept(1, Some(receiver.url())).await;
    let row = stack.ended(id).await;
    assert_eq!(reason(&row), FailureReason::CallbackFailed);
    assert_eq!(row.attempts[0].class, AttemptClass::Gone);
    assert_eq!(receiver.more().len(), 1);
    stack.stop().await;
}

#[tokio::test]
async fn a_refusal_is_recorded_in_full_and_only_its_class_is_public() {
    let stack = Stack::without_redis(&[("CALLBACK_ALLOW", "")]).await;
    let id = stack.accept(1, Some("http://127.0.0.9/".to_owned())).await;
    let row = stack.ended(id).await;
    assert_eq!(reason(&row), FailureReason::CallbackRefused);
    let shown = serde_json::to_string(&row.attempts).unwrap() + &row.failure.unwrap().detail;
    assert!(
        shown.contains("loopback") && !shown.contains("127.0.0.9"),
        "{shown}"
    );
    let (_store, folder) = stack.stop().await;
    let table = Direct::open(folder.path()).await;
    let whole = table.value("SELECT internal_detail FROM attempts").await;
    assert!(
        whole.contains("127.0.0.9 is refused as loopback"),
        "{whole}"
    );
}

/// What the worker has ended, and the long ones among them, as its heartbeat says that begins after
/// this call.
async fn ended_by_heartbeat(stack: &Stack) -> (u64, u64) {
    let observer = OwnerId::generate();
    stack.store.register(observer, &[]).await.unwrap();
    let beat = async || {
        stack
            .store
            .renew(observer, Ended::default())
            .await
            .unwrap()
            .others[0]
            .beat
    };
    // One may have begun before.
    let enough = beat().await + 2;
    while beat().await < enough {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    stack.store.deregister(observer).await.unwrap();
    let load = stack.store.load(0, Duration::ZERO, false).await.unwrap();
    let sum = |of: fn(&Ended) -> u64| load.ended.values().map(of).sum();
    (sum(|it| it.jobs), sum(|it| it.long_jobs))
}

#[tokio::test]
async fn heartbeats_count_jobs_that_have_ended_and_neither_attempts_nor_redeliveries() {
    let (receiver, status) = switched(500).await;
    let stack = Stack::without_redis(&[]).await;
    let failed = stack.accept(1, Some(receiver.url())).await;
    stack.ended(failed).await;
    assert_eq!(ended_by_heartbeat(&stack).await, (1, 0));
    status.store(200, Ordering::SeqCst);
    redelivered(&stack, failed).await;
    stack
        .ended(stack.accept(1, Some(receiver.url())).await)
        .await;
    // Just long enough to be a long one.
    stack.ended(stack.accept(501, None).await).await;
    assert_eq!(ended_by_heartbeat(&stack).await, (3, 1));
    stack.stop().await;
}
