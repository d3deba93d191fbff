//! Requests that a worker deletes after `RETENTION`.

use storm_shared::models::Status;

use crate::{
    rows::Rows as _,
    stack::{NO_DRAIN, Stack},
};

const FOR_A_SECOND: [(&str, &str); 3] = [
    ("RETENTION", "1s"),
    ("IDEMPOTENCY_WINDOW", "1s"),
    ("HTTP_TIMEOUT", "1s"),
];

#[tokio::test]
async fn a_worker_deletes_what_ended_longer_than_the_retention_ago_and_nothing_else() {
    let stack = Stack::without_redis(&[&FOR_A_SECOND[..], &[NO_DRAIN]].concat()).await;
    let long = stack.accept(100_000, None).await;
    let is_running = |row: &storm_shared::models::Request| row.status == Status::Processing;
    stack.row_when(long, is_running).await;
    for _ in 0..3 {
        stack.accept(1, None).await;
    }
    let deleted = "storm_worker_deleted_requests_total 3";
    stack.until_shown("/metrics", deleted).await;
    assert_eq!(stack.find(long).await.status, Status::Processing);
}

#[tokio::test]
async fn without_a_retention_nothing_is_deleted() {
    let stack = Stack::without_redis(&[("RETENTION", "0")]).await;
    let id = stack.accept(1, None).await;
    assert_eq!(stack.ended(id).await.status, Status::Completed);
    // By the time at which another worker has deleted one that ended later, it would be gone.
    let other = Stack::without_redis(&FOR_A_SECOND).await;
    other.accept(1, None).await;
    other
        .until_shown("/metrics", "storm_worker_deleted_requests_total 1")
        .await;
    assert_eq!(stack.find(id).await.status, Status::Completed);
}
