//! Jobs whose clients cancel them while they run.

use storm_shared::{
    models::{FailureReason, RequestId, Status},
    services::store::Scope,
};

use crate::{
    receiver::Receiver,
    rows::Rows as _,
    stack::{NO_TIMEOUT, Stack, reason},
};

const ONE_SLOT: (&str, &str) = ("WORKER_CONCURRENCY", "1");

async fn cancel(stack: &Stack, id: RequestId) {
    stack.store.cancel(Scope::All, id).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_job_that_runs_for_long_is_stopped_and_its_slot_is_free() {
    let stack = Stack::without_redis(&[ONE_SLOT]).await;
    let mut receiver = Receiver::answering(|_, _| 200).await;
    let long = stack.accept(100_000, Some(receiver.url())).await;
    let is_running = |row: &storm_shared::models::Request| row.status == Status::Processing;
    stack.row_when(long, is_running).await;
    cancel(&stack, long).await;
    let next = stack.accept(1, Some(receiver.url())).await;
    assert_eq!(stack.ended(next).await.status, Status::Completed);
    receiver.next().await;
    assert!(receiver.more().is_empty(), "no callback of the first");
    assert_eq!(reason(&stack.find(long).await), FailureReason::Cancelled);
}

#[tokio::test]
async fn an_attempt_under_way_is_given_up_and_no_other_follows() {
    let (mut hanging, release) = Receiver::held().await;
    let mut receiver = Receiver::answering(|_, _| 200).await;
    let stack = Stack::without_redis(&[ONE_SLOT, NO_TIMEOUT]).await;
    let id = stack.accept(1, Some(hanging.url())).await;
    hanging.next().await;
    cancel(&stack, id).await;
    let next = stack.accept(1, Some(receiver.url())).await;
    assert_eq!(stack.ended(next).await.status, Status::Completed);
    receiver.next().await;
    drop(release);
    let row = stack.find(id).await;
    assert_eq!(reason(&row), FailureReason::Cancelled);
    assert!(row.attempts.is_empty(), "its outcome is not known");
    assert!(hanging.more().is_empty());
}

#[tokio::test]
async fn a_job_that_waits_for_its_retry_makes_no_other_attempt() {
    let mut receiver = Receiver::answering(|_, _| 500).await;
    let stack = Stack::without_redis(&[("CALLBACK_RETRY_DELAYS", "100ms,100ms")]).await;
    let id = stack.accept(1, Some(receiver.url())).await;
    receiver.next().await;
    stack.row_when(id, |row| row.attempts.len() == 1).await;
    cancel(&stack, id).await;
    let made = stack.find(id).await.attempts.len();
    // Of this one, which begins later, all attempts are made.
    let next = stack.accept(1, Some(receiver.url())).await;
    assert_eq!(stack.ended(next).await.attempts.len(), 3);
    let row = stack.find(id).await;
    assert_eq!(reason(&row), FailureReason::Cancelled);
    assert_eq!(row.attempts.len(), made);
}
