//! The log: how few lines a fault of many requests costs.

use futures_util::future::join_all;
use tempfile::TempDir;

use crate::{
    client::{Client, post},
    service::{Service, database, program},
};

const JOB: &str = r#"{"records": 10, "report_name": "Q1_Finance"}"#;

#[tokio::test]
async fn a_dead_redis_under_a_thousand_jobs_is_a_handful_of_lines() {
    let folder = TempDir::new().unwrap();
    let mut command = program(folder.path());
    command.env("REDIS_URL", "redis://127.0.0.1:1");
    let service = Service::spawn(command, folder.path()).await;
    service.is_open().await;
    let mut client = Client::connect(service.addr).await;
    for _ in 0..1000 {
        client.send(post("/async", JOB)).await;
        assert_eq!(client.answer().await.status, 202);
    }
    service.says("Redis can't be used").await;
    assert!(service.log_lines() < 10, "{}", service.log_lines());
}

#[tokio::test]
async fn a_full_backlog_under_a_thousand_submissions_is_a_handful_of_lines() {
    let folder = TempDir::new().unwrap();
    let mut command = program(folder.path());
    command.env("MAX_BACKLOG", "1");
    let service = Service::spawn(command, folder.path()).await;
    service.is_open().await;
    let mut client = Client::connect(service.addr).await;
    let mut refused = 0;
    for _ in 0..1000 {
        client.send(post("/async", JOB)).await;
        refused += u32::from(client.answer().await.status == 503);
    }
    assert_eq!(refused, 999);
    service.says("the backlog is full").await;
    assert!(service.log_lines() < 10, "{}", service.log_lines());
}

#[tokio::test]
async fn a_locked_database_under_hundreds_of_submissions_is_a_handful_of_lines() {
    let folder = TempDir::new().unwrap();
    let service = Service::start(&folder).await;
    let lock = database(folder.path()).await;
    lock.lock().await;
    let asked = (0..200).map(|_| service.ask(post("/async", JOB)));
    for answer in join_all(asked).await {
        assert_eq!(answer.problem(), "503 database-locked");
    }
    lock.unlock().await;
    let accepted = service.ask(post("/async", JOB)).await;
    assert_eq!(accepted.status, 202);
    service.says("the database accepts ").await;
    assert!(service.log_lines() < 10, "{}", service.log_lines());
}
