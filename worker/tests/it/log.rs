//! The log: what a `LOG` filter shows of each job, and how few lines a fault of many jobs costs.

use serde_json::Value;
use storm_shared::models::{RequestId, Status};

use crate::{process::WorkerProcess, receiver::Receiver, rows::Rows as _, table::Table};

/// More than a worker logs in its life besides.
const A_HANDFUL: usize = 40;

async fn accept_many(table: &Table, jobs: usize, callback: &str) -> Vec<RequestId> {
    let mut ids = Vec::new();
    for _ in 0..jobs {
        ids.push(table.accept(1, Some(callback.to_owned())).await);
    }
    ids
}

/// Stops the worker, whose log must have counted the lines with this message.
async fn is_a_handful(worker: WorkerProcess, message: &str) {
    worker.signal("TERM");
    worker.logs("stopped").await;
    let counted = format!(r#""kind":"{message}"#);
    worker.logs(&counted).await;
    let log = worker.log();
    let lines = log.lines().count();
    assert!(lines < A_HANDFUL, "{lines} lines:\n{log}");
}

#[tokio::test]
async fn hundreds_of_failing_callbacks_are_a_handful_of_lines() {
    let receiver = Receiver::answering(|_, _| 410).await;
    let table = Table::new().await;
    let ids = accept_many(&table, 300, &receiver.url()).await;
    let worker = WorkerProcess::start(table.folder.path(), &[]);
    for id in ids {
        assert_eq!(table.ended(id).await.status, Status::Failed);
    }
    is_a_handful(worker, "callback failed").await;
}

#[tokio::test]
async fn a_dead_redis_under_hundreds_of_jobs_is_a_handful_of_lines() {
    let receiver = Receiver::answering(|_, _| 200).await;
    let table = Table::new().await;
    let dead = ("REDIS_URL", "redis://127.0.0.1:1");
    let worker = WorkerProcess::start(table.folder.path(), &[dead]);
    worker.logs("Redis can't be used").await;
    for id in accept_many(&table, 300, &receiver.url()).await {
        assert_eq!(table.ended(id).await.status, Status::Completed);
    }
    worker.signal("TERM");
    worker.logs("stopped").await;
    let log = worker.log();
    let lines = log.lines().count();
    assert!(lines < A_HANDFUL, "{lines} lines:\n{log}");
}

#[tokio::test]
async fn a_locked_database_under_many_jobs_is_a_handful_of_lines() {
    const JOBS: usize = 100;
    let (mut receiver, release) = Receiver::held().await;
    let table = Table::new().await;
    let ids = accept_many(&table, JOBS, &receiver.url()).await;
    let all_at_once = ("CALLBACK_PER_ORIGIN", "100");
    let worker = WorkerProcess::start(table.folder.path(), &[all_at_once]);
    for _ in &ids {
        receiver.next().await;
    }
    let lock = table.database().await;
    lock.lock().await;
    drop(release);
    worker.logs("a write is retried").await;
    drop(lock);
    for id in ids {
        assert_eq!(table.ended(id).await.status, Status::Completed);
    }
    is_a_handful(worker, "a write is retried").await;
}

#[tokio::test]
async fn a_log_filter_shows_one_line_for_each_job_that_ends_with_its_id_and_outcome() {
    let table = Table::new().await;
    let filter = ("LOG", "info,storm_worker::jobs=debug");
    let worker = WorkerProcess::start(table.folder.path(), &[filter]);
    let refused = "http://10.0.0.1/".to_owned();
    for (callback, outcome) in [(None, "completed"), (Some(refused), "callback_refused")] {
        let id = table.accept(1, callback).await;
        worker.logs(&format!(r#""id":"{id}","outcome""#)).await;
        let log = worker.log();
        let mut lines = log
            .lines()
            .filter(|line| line.contains("storm_worker::jobs"));
        let line: Value = serde_json::from_str(lines.next_back().unwrap()).unwrap();
        assert_eq!(line["message"], "job ended");
        assert_eq!(line["outcome"], outcome);
    }
    let shown = worker.log().matches("job ended").count();
    assert_eq!(shown, 2, "{}", worker.log());
}
