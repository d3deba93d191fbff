//! Redis faults: Redis only carries notifications, so every job still runs from the table.

use std::sync::Arc;

use storm_shared::{
    config::Settings,
    models::{RequestId, Status},
    services::{
        queue::{Notifier, Queue},
        store::Store,
    },
};
use tempfile::TempDir;
use tokio::net::TcpListener;

use crate::{
    process::WorkerProcess, program_database, receiver::Receiver, redis_server::RedisServer,
    rows::Rows as _, stack::Stack,
};

/// Accepts every connection and never responds.
async fn half_open() -> (String, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    let held = tokio::spawn(async move {
        let mut connections = Vec::new();
        while let Ok((connection, _)) = listener.accept().await {
            connections.push(connection);
        }
    });
    (url, held)
}

#[tokio::test]
async fn with_a_half_open_redis_connection_jobs_run_from_the_table() {
    let (redis, _held) = half_open().await;
    let mut receiver = Receiver::answering(|_, _| 200).await;
    let stack = Stack::start(Arc::new(TempDir::new().unwrap()), &redis, &[]).await;
    let notifier = stack.notifier();
    let id = stack.accept(1, Some(receiver.url())).await;
    notifier.notify(id);
    receiver.next().await;
    assert_eq!(stack.ended(id).await.status, Status::Completed);
    let health = stack.get("/healthz").await;
    assert!(health.starts_with("HTTP/1.1 503"), "{health}");
    assert!(
        health.contains(r#""database":"ok""#) && health.contains(r#""claims":"ok""#),
        "{health}"
    );
    stack.stop().await;
}

#[tokio::test]
async fn after_flushall_every_pending_job_runs_and_notifications_resume() {
    const JOBS: usize = 2000;
    let redis = RedisServer::start();
    let mut receiver = Receiver::answering(|_, _| 200).await;
    let folder = Arc::new(TempDir::new().unwrap());
    // Few slots, so that most jobs are still pending when FLUSHALL deletes the entries.
    let few = [("WORKER_CONCURRENCY", "50")];
    let stack = Stack::start(folder, &redis.url(), &few).await;
    let notifier = stack.notifier();
    let mut ids = Vec::with_capacity(JOBS);
    for _ in 0..JOBS {
        let id = stack.accept(5, Some(receiver.url())).await;
        notifier.notify(id);
        ids.push(id);
    }
    receiver.next().await;
    redis.command(&redis::cmd("FLUSHALL"));
    for id in ids {
        assert_eq!(stack.ended(id).await.status, Status::Completed);
    }
    // FLUSHALL also deleted the stream: notify until the worker reads one again.
    let before = claimed_by_notification(&stack).await;
    while claimed_by_notification(&stack).await == before {
        let id = stack.accept(1, None).await;
        notifier.notify(id);
        stack.ended(id).await;
    }
    stack.stop().await;
}

/// The number of jobs claimed after a notification.
async fn claimed_by_notification(stack: &Stack) -> u64 {
    let metrics = stack.get("/metrics").await;
    let line = metrics
        .lines()
        .find(|line| line.starts_with("storm_worker_claimed_jobs_total{source=\"notification\"}"));
    line.map_or(0, |line| line.rsplit_once(' ').unwrap().1.parse().unwrap())
}

/// Polls `path` until the answer contains `part`.
#[tokio::test]
async fn healthz_and_metrics_report_what_the_workers_redis_refuses() {
    let redis = RedisServer::start();
    let stack = Stack::start(Arc::new(TempDir::new().unwrap()), &redis.url(), &[]).await;
    for (fault, repair, words, task) in [
        (
            "SET high_priority x",
            "DEL high_priority",
            "wrong type at QUEUE_NAME",
            Some("reader"),
        ),
        (
            "REPLICAOF 127.0.0.1 1",
            "REPLICAOF NO ONE",
            "read-only replica",
            Some("reader"),
        ),
        (
            "ACL SETUSER default -xreadgroup",
            "ACL SETUSER default +xreadgroup",
            "permission denied (ACL)",
            Some("reader"),
        ),
        // Only the check meets these while no entry comes.
        (
            "ACL SETUSER default -xack",
            "ACL SETUSER default +xack",
            "permission denied (ACL)",
            None,
        ),
        (
            "CONFIG SET maxmemory 1",
            "CONFIG SET maxmemory 0",
            "out of memory (maxmemory)",
            None,
        ),
    ] {
        let up = |task, up| format!("storm_worker_redis_up{{task=\"{task}\"}} {up}");
        stack.until_shown("/healthz", r#""redis":"ok""#).await;
        redis.run(fault);
        let shown = format!(r#""redis":"{words}""#);
        stack.until_shown("/healthz", &shown).await;
        if let Some(task) = task {
            stack.until_shown("/metrics", &up(task, 0)).await;
        }
        redis.run(repair);
        stack.until_shown("/healthz", r#""redis":"ok""#).await;
        stack.until_shown("/metrics", &up("reader", 1)).await;
    }
    stack.stop().await;
}

#[tokio::test]
async fn a_worker_that_reads_only_notifications_of_another_database_reports_it_until_own_ones_come()
{
    let redis = RedisServer::start();
    let stack = Stack::start(Arc::new(TempDir::new().unwrap()), &redis.url(), &[]).await;
    let settings = stack.settings.queue.as_ref().unwrap();
    let elsewhere = Notifier::start(Queue::new(settings, "another database").unwrap());
    stack.until_shown("/healthz", r#""redis":"ok""#).await;
    elsewhere.notify(RequestId::generate());
    let only = |is| format!("storm_worker_foreign_only {is}");
    stack.until_shown("/metrics", &only(0)).await;
    stack.until_shown("/metrics", &only(1)).await;
    let dropped = r#"storm_worker_dropped_entries_total{why="foreign"} 1"#;
    stack.until_shown("/metrics", dropped).await;
    stack.notifier().notify(RequestId::generate());
    stack.until_shown("/metrics", &only(0)).await;
    stack.stop().await;
}

#[tokio::test]
async fn a_worker_on_another_database_than_its_api_says_so_with_a_hint_at_db_url() {
    let (api, worker) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let redis = RedisServer::start();
    let url = redis.url();
    let worker = WorkerProcess::start(worker.path(), &[("REDIS_URL", &url)]);
    // The API's side of the same settings, with another DB_URL, as a relative path is.
    let database = program_database::url(api.path());
    let settings = Settings::with([("DB_URL", database.as_str()), ("REDIS_URL", &url)]).unwrap();
    let store = Store::open(&settings.store).await.unwrap();
    let queue = Queue::new(settings.queue.as_ref().unwrap(), store.id()).unwrap();
    Notifier::start(queue).notify(RequestId::generate());
    worker.logs("give both the same DB_URL").await;
    store.close().await;
}

#[tokio::test]
async fn without_redis_every_job_runs_from_the_table() {
    let mut receiver = Receiver::answering(|nth, _| if nth == 0 { 500 } else { 200 }).await;
    let stack = Stack::start(Arc::new(TempDir::new().unwrap()), "none", &[]).await;
    let id = stack.accept(1, Some(receiver.url())).await;
    let first = receiver.next().await;
    assert_eq!(receiver.next().await, first);
    let row = stack.ended(id).await;
    assert_eq!((row.status, row.attempts.len()), (Status::Completed, 2));
    let health = stack.get("/healthz").await;
    assert!(health.starts_with("HTTP/1.1 200"), "{health}");
    assert!(health.contains(r#""redis":"none""#), "{health}");
    stack.stop().await;
}
