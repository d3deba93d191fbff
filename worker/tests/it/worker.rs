//! End-to-end tests of a worker, from an accepted row to its end, with real `SQLite`, Redis and
//! sockets.

use std::{sync::Arc, time::Duration};

use storm_shared::{
    models::{EventKind, FailureReason, Status},
    services::report,
};
use tempfile::TempDir;
use tokio::net::TcpListener;

use crate::{
    receiver::Receiver,
    redis_server::RedisServer,
    rows::{Rows as _, ended_when_due, spec},
    stack::{NO_REDIS, Stack, reason},
};

#[tokio::test]
async fn a_job_is_run_delivered_and_completed() {
    let mut receiver = Receiver::answering(|_, _| 200).await;
    let stack = Stack::without_redis(&[]).await;
    let id = stack.accept(10, Some(receiver.url())).await;
    let body: serde_json::Value = serde_json::from_slice(&receiver.next().await).unwrap();
    let expected = serde_json::json!({
        "request_id": id,
        "report_id": "3eebd0ea-44d7-531b-b660-ca91c206c5e6",
        "status": "completed",
        "checksum": "a6652297c0dc6ba69ad50361e2bc93bffd239fa77e22c556eeb264bf2cf1bd73",
        "report_name": "Q1_Finance",
        "records": 10,
    });
    assert_eq!(body, expected);
    let row = stack.ended(id).await;
    assert_eq!(
        (row.status, row.attempts.len(), row.claims),
        (Status::Completed, 1, 1)
    );
    assert!(receiver.more().is_empty());
    stack.stop().await;
}

#[tokio::test]
async fn repeated_notifications_start_a_job_once() {
    let redis = RedisServer::start();
    let mut receiver = Receiver::answering(|_, _| 200).await;
    let folder = Arc::new(TempDir::new().unwrap());
    let stack = Stack::start(folder, &redis.url(), &[]).await;
    let notifier = stack.notifier();
    let id = stack.accept(1, Some(receiver.url())).await;
    for _ in 0..50 {
        notifier.notify(id);
    }
    receiver.next().await;
    assert_eq!(stack.ended(id).await.claims, 1);
    // Entries are read in order: once this second job has ended, all earlier ones were read.
    let next = stack.accept(1, Some(receiver.url())).await;
    notifier.notify(next);
    receiver.next().await;
    stack.ended(next).await;
    assert!(receiver.more().is_empty());
    let metrics = stack.get("/metrics").await;
    assert!(
        metrics.contains("ended_jobs_total{outcome=\"completed\"} 2"),
        "{metrics}"
    );
    // Each entry has led to a claim or was late.
    let claimed = "storm_worker_claimed_jobs_total{source=\"notification\"} ";
    let late = "storm_worker_late_notifications_total ";
    while count(&stack, claimed).await + count(&stack, late).await < 51 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stack.stop().await;
}

/// The value of the metric whose line starts with `name`.
async fn count(stack: &Stack, name: &str) -> u64 {
    let metrics = stack.get("/metrics").await;
    let value = metrics.lines().find_map(|line| line.strip_prefix(name));
    value
        .unwrap_or_else(|| panic!("no {name} in {metrics}"))
        .parse()
        .unwrap()
}

#[tokio::test]
async fn the_waits_of_a_job_are_measured_from_its_submission_to_its_callback() {
    let mut receiver = Receiver::answering(|_, _| 200).await;
    let stack = Stack::without_redis(&[("WORKER_CONCURRENCY", "8")]).await;
    for url in [Some(receiver.url()), None] {
        let id = stack.accept(10, url).await;
        stack.ended(id).await;
    }
    receiver.next().await;
    for line in [
        "storm_worker_queue_wait_seconds_count 2",
        "storm_worker_run_seconds_count 2",
        "storm_worker_run_seconds_bucket{le=\"0.05\"} 0",
        "storm_worker_time_to_callback_seconds_count 1",
        "storm_worker_slots 8",
        "storm_worker_slots_used 0",
        "storm_worker_long_jobs_limit 6",
        "storm_worker_group_commit_writes_count",
        "storm_build_info{service=\"worker\"",
    ] {
        stack.until_shown("/metrics", line).await;
    }
    stack.stop().await;
}

#[tokio::test]
async fn a_job_without_a_callback_completes_and_can_be_polled() {
    let stack = Stack::without_redis(&[]).await;
    let id = stack.accept(3, None).await;
    let row = stack.ended(id).await;
    assert_eq!((row.status, row.attempts.len()), (Status::Completed, 0));
    let result: report::Report = serde_json::from_str(row.result_payload.unwrap().get()).unwrap();
    assert_eq!(result, report::expected(&spec(3)));
    stack.stop().await;
}

#[tokio::test]
async fn retries_send_the_same_bytes() {
    let mut receiver = Receiver::answering(|nth, _| if nth < 2 { 500 } else { 204 }).await;
    let stack = Stack::without_redis(&[]).await;
    let id = stack.accept(1, Some(receiver.url())).await;
    let first = receiver.next().await;
    assert_eq!(receiver.next().await, first);
    assert_eq!(receiver.next().await, first);
    let row = stack.ended(id).await;
    assert_eq!((row.status, row.attempts.len()), (Status::Completed, 3));
    assert_eq!(row.next_attempt_at, None);
    stack.stop().await;
}

#[tokio::test]
async fn a_job_fails_after_four_attempts_and_keeps_its_result_and_the_last_error() {
    let mut receiver = Receiver::answering(|_, _| 503).await;
    let stack = Stack::without_redis(&[]).await;
    let id = stack.accept(1, Some(receiver.url())).await;
    let row = stack.ended(id).await;
    assert_eq!((row.status, row.attempts.len()), (Status::Failed, 4));
    assert_eq!(receiver.more().len(), 4);
    let failure = row.failure.unwrap();
    assert_eq!(failure.reason, FailureReason::CallbackFailed);
    assert!(failure.detail.contains("503"), "{}", failure.detail);
    assert!(row.result_payload.is_some());
    for line in [
        r#"storm_worker_callback_attempts_total{class="status"} 4"#,
        r#"storm_worker_callback_attempts_total{class="success"} 0"#,
        r#"storm_worker_ended_jobs_total{outcome="callback_failed"} 1"#,
        "storm_worker_time_to_callback_seconds_count 0",
    ] {
        stack.until_shown("/metrics", line).await;
    }
    stack.stop().await;
}

#[tokio::test]
async fn a_redirect_is_a_failure_and_is_not_followed() {
    let mut receiver = Receiver::answering(|_, _| 307).await;
    let stack = Stack::without_redis(&[]).await;
    let id = stack.accept(1, Some(receiver.url())).await;
    assert_eq!(
        reason(&stack.ended(id).await),
        FailureReason::CallbackFailed
    );
    assert_eq!(receiver.more().len(), 4);
    stack.stop().await;
}

#[tokio::test]
async fn a_refused_address_fails_the_job_at_once_and_nothing_is_sent() {
    let mut receiver = Receiver::answering(|_, _| 200).await;
    let stack = Stack::without_redis(&[("CALLBACK_ALLOW", "127.0.0.2/32")]).await;
    let id = stack.accept(1, Some(receiver.url())).await;
    let row = stack.ended(id).await;
    assert_eq!(
        (reason(&row), row.attempts.len()),
        (FailureReason::CallbackRefused, 1)
    );
    // A tenant must not learn the addresses of names in the operator's network.
    let detail = row.failure.unwrap().detail;
    assert!(
        detail.contains("loopback") && !detail.contains("127."),
        "{detail}"
    );
    assert!(receiver.more().is_empty());
    let metrics = stack.get("/metrics").await;
    let counted = "storm_worker_callback_refusals_total{rule=\"loopback\"} 1";
    assert!(metrics.contains(counted), "{metrics}");
    stack.stop().await;
}

#[tokio::test]
async fn a_hanging_receiver_times_out_and_is_retried() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", silent.local_addr().unwrap());
    let stack = Stack::without_redis(&[("CALLBACK_TIMEOUT", "50ms")]).await;
    let id = stack.accept(1, Some(url)).await;
    let row = stack.ended(id).await;
    assert_eq!(
        (reason(&row), row.attempts.len()),
        (FailureReason::CallbackFailed, 4)
    );
    stack.stop().await;
}

#[tokio::test]
async fn a_scheduled_retry_holds_no_slot_and_no_worker() {
    // The receiver returns 500 for the job with 2 records and 200 for all others.
    let mut receiver = Receiver::answering(|_, body| {
        if body.windows(11).any(|part| part == b"\"records\":2") {
            500
        } else {
            200
        }
    })
    .await;
    let slow_retries = [("WORKER_CONCURRENCY", "1"), ("CALLBACK_RETRY_DELAYS", "1h")];
    let stack = Stack::without_redis(&slow_retries).await;
    let waiting = stack.accept(2, Some(receiver.url())).await;
    receiver.next().await;
    let runnable = stack.accept(1, Some(receiver.url())).await;
    assert_eq!(stack.ended(runnable).await.status, Status::Completed);

    let (store, _folder) = stack.stop().await;
    let row = store.find(waiting).await.unwrap().unwrap();
    assert_eq!((row.status, row.attempts.len()), (Status::Pending, 1));
    assert!(row.next_attempt_at.is_some() && row.result_payload.is_some());
}

#[tokio::test]
async fn a_scheduled_retry_survives_a_restart_and_keeps_its_due_time() {
    let receiver = Receiver::answering(|nth, _| if nth == 0 { 500 } else { 200 }).await;
    let folder = Arc::new(TempDir::new().unwrap());
    let slow = [("CALLBACK_RETRY_DELAYS", "1s,1h")];
    let first = Stack::start(folder.clone(), NO_REDIS, &slow).await;
    let id = first.accept(1, Some(receiver.url())).await;
    let scheduled = first
        .row_when(id, |row| row.next_attempt_at.is_some())
        .await;
    first.stop().await;

    let second = Stack::start(folder, NO_REDIS, &slow).await;
    let row = second.ended(id).await;
    assert_eq!(
        (row.status, row.attempts.len(), row.claims),
        (Status::Completed, 2, 2)
    );
    assert_eq!(row.lost_claims, 0);
    assert!(
        ended_when_due(&row, &scheduled),
        "the retry ran before it was due"
    );
    second.stop().await;
}

#[tokio::test]
async fn jobs_unfinished_at_the_drain_deadline_are_released() {
    let stack = Stack::without_redis(&[("DRAIN_TIMEOUT", "1ms")]).await;
    let id = stack.accept(100_000, None).await;
    stack
        .row_when(id, |row| row.status == Status::Processing)
        .await;
    let (store, _folder) = stack.stop().await;
    let row = store.find(id).await.unwrap().unwrap();
    assert_eq!((row.status, row.claims), (Status::Pending, 1));
    assert_eq!(
        (row.attempts.len(), row.lost_claims),
        (0, 0),
        "a release spends no attempt and no claim"
    );
    assert_eq!(row.events[0].event, EventKind::GivenBack);
    assert!(
        row.next_attempt_at.is_some(),
        "another worker can claim it at once"
    );
}

#[tokio::test]
async fn two_workers_on_one_store_deliver_every_job_once() {
    const JOBS: usize = 1000;
    let redis = RedisServer::start();
    let mut receiver = Receiver::answering(|_, _| 200).await;
    let folder = Arc::new(TempDir::new().unwrap());
    let one = Stack::start(folder.clone(), &redis.url(), &[]).await;
    let two = Stack::start(folder, &redis.url(), &[]).await;
    let notifier = one.notifier();
    let accepting = (0..JOBS).map(|nth| {
        let (one, notifier, url) = (&one, &notifier, receiver.url());
        async move {
            let id = one.accept(1, Some(url)).await;
            // Some notifications are lost: those jobs are found by polling the table.
            if nth % 7 > 0 {
                notifier.notify(id);
            }
            id.to_string()
        }
    });
    let mut accepted = futures_util::future::join_all(accepting).await;
    let mut called = Vec::new();
    for _ in 0..JOBS {
        let body: serde_json::Value = serde_json::from_slice(&receiver.next().await).unwrap();
        called.push(body["request_id"].as_str().unwrap().to_owned());
    }
    called.sort();
    accepted.sort();
    assert_eq!(called, accepted);
    for id in &accepted {
        assert_eq!(
            one.ended(id.parse().unwrap()).await.status,
            Status::Completed
        );
    }
    one.stop().await;
    two.stop().await;
    assert!(receiver.more().is_empty());
}

#[tokio::test]
async fn health_without_redis_is_503_and_reports_the_database_as_ok() {
    let stack = Stack::start(Arc::new(TempDir::new().unwrap()), NO_REDIS, &[]).await;
    let health = stack.get("/healthz").await;
    assert!(health.starts_with("HTTP/1.1 503"), "{health}");
    assert!(health.contains("\"database\":\"ok\""), "{health}");
    stack.stop().await;
}

#[tokio::test]
async fn health_is_ok_when_the_database_and_redis_respond() {
    let redis = RedisServer::start();
    let stack = Stack::start(Arc::new(TempDir::new().unwrap()), &redis.url(), &[]).await;
    let health = stack.get("/healthz").await;
    assert!(health.starts_with("HTTP/1.1 200"), "{health}");
    let checks = r#"{"status":"ok","database":"ok","redis":"ok","claims":"ok","heartbeat":"ok""#;
    assert!(health.contains(checks), "{health}");
    stack.stop().await;
}
