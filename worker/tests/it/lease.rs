//! Leases of workers whose heartbeat stops, and jobs in quarantine.

use std::{sync::Arc, time::Duration};

use storm_shared::models::{EventKind, RequestId, Status};
use tempfile::TempDir;

use crate::{receiver::Receiver, rows::Rows as _, stack::Stack};

/// The seconds since the last heartbeat, according to `/healthz`; `None` if the heartbeat is ok.
async fn silence(stack: &Stack) -> Option<u64> {
    let health = stack.get("/healthz").await;
    let (_, heartbeat) = health.split_once(r#""heartbeat":""#).unwrap();
    heartbeat
        .strip_prefix("silent for ")
        .map(|silent| silent.split_once(" s").unwrap().0.parse().unwrap())
}

/// Waits until the last heartbeat is `seconds` old.
async fn silent_for(stack: &Stack, seconds: u64) {
    while silence(stack).await < Some(seconds) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_worker_without_a_valid_lease_begins_no_attempt() {
    let mut receiver = Receiver::answering(|_, _| 200).await;
    let stack = Stack::without_redis(&[("WORKER_LEASE", "1s")]).await;
    // The report is done within a second of the claim. By then more than half of the lease has
    // passed without a heartbeat.
    let id = stack.accept(90, Some(receiver.url())).await;
    stack
        .row_when(id, |row| row.status == Status::Processing)
        .await;
    let stalled = stack.database().await;
    stalled.lock().await; // no heartbeat is stored
    silent_for(&stack, 2).await;
    assert!(
        receiver.more().is_empty(),
        "an attempt began without a valid lease"
    );
    stalled.unlock().await;
    receiver.next().await;
    let row = stack.ended(id).await;
    assert_eq!((row.status, row.claims), (Status::Completed, 1));
    stack.stop().await;
}

#[tokio::test]
async fn a_stalled_database_expires_no_lease() {
    let folder = Arc::new(TempDir::new().unwrap());
    let lease = [("WORKER_LEASE", "2s")];
    let one = Stack::start(folder.clone(), "none", &lease).await;
    let two = Stack::start(folder, "none", &lease).await;
    let id = one.accept(100_000, None).await;
    one.row_when(id, |row| row.status == Status::Processing)
        .await;
    let stalled = one.database().await;
    stalled.lock().await;
    silent_for(&one, 2).await;
    silent_for(&two, 2).await;
    stalled.unlock().await;
    for stack in [&one, &two] {
        while silence(stack).await.is_some() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let metrics = stack.get("/metrics").await;
        assert!(
            metrics.contains("storm_worker_expired_workers_total 0"),
            "{metrics}"
        );
    }
    let row = one.find(id).await;
    assert_eq!((row.status, row.lost_claims), (Status::Processing, 0));
    for stack in [one, two] {
        stack.shutdown.cancel();
    }
}

#[tokio::test]
async fn a_quarantined_job_that_waits_to_run_alone_blocks_no_other_job() {
    let stack = Stack::without_redis(&[("WORKER_CONCURRENCY", "4")]).await;
    let long = stack.accept(100_000, None).await;
    stack
        .row_when(long, |row| row.status == Status::Processing)
        .await;
    let suspect = RequestId::generate();
    let database = stack.database().await;
    let due = database.either("0", "'epoch'");
    let insert = format!(
        r#"INSERT INTO requests (id, mode, status, input_payload, created_at, lost_claims, due)
           VALUES ('{suspect}', 'async', 'PENDING', '{{"report_name":"Q1","records":1}}',
               '2026-11-23T12:00:00.000Z', 4, {due})"#
    );
    database.change(1, &insert).await;
    // Some arrive while the suspect waits for its slots, others during its pause.
    for _ in 0..5 {
        let id = stack.accept(1, None).await;
        assert_eq!(stack.ended(id).await.status, Status::Completed);
        tokio::time::sleep(Duration::from_millis(600)).await;
    }
    let row = stack.find(suspect).await;
    assert_eq!(
        (row.status, row.claims),
        (Status::Pending, 0),
        "the suspect ran beside another job"
    );
    stack.shutdown.cancel();
}

/// As if a standby was promoted that did not have the settlement yet.
#[tokio::test]
async fn a_job_whose_settlement_the_database_has_lost_is_run_again_while_its_worker_lives() {
    let mut receiver = Receiver::answering(|_, _| 200).await;
    let stack = Stack::without_redis(&[("WORKER_LEASE", "1s")]).await;
    let running = stack.accept(100_000, None).await;
    stack
        .row_when(running, |row| row.status == Status::Processing)
        .await;
    let id = stack.accept(1, Some(receiver.url())).await;
    let first = receiver.next().await;
    stack.ended(id).await;
    let undo = format!(
        "UPDATE requests SET status = 'PROCESSING', completed_at = NULL, ended = NULL,
             delivered = NULL WHERE id = '{id}'"
    );
    stack.database().await.change(1, &undo).await;
    assert_eq!(receiver.next().await, first);
    let row = stack.ended(id).await;
    assert_eq!(
        (row.status, row.claims, row.lost_claims),
        (Status::Completed, 2, 0)
    );
    let events: Vec<_> = row.events.iter().map(|event| event.event).collect();
    assert_eq!(events, [EventKind::GivenBack]);
    // What runs is left alone.
    let row = stack.find(running).await;
    assert_eq!((row.status, row.claims), (Status::Processing, 1));
    stack.shutdown.cancel();
}
