//! Startup and shutdown of the API, called as a library.

use std::time::Duration;

use storm_api::Error;
use tempfile::TempDir;
use tokio::{net::TcpListener, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    PATIENCE,
    client::{Client, bare, post},
    eventually,
    program_database::{Direct, folder_on_sqlite},
    server::{Server, settings},
};

const JOB: &str = r#"{"records": 10, "report_name": "Q1_Finance"}"#;

#[tokio::test]
async fn graceful_shutdown_answers_open_requests_and_closes_idle_connections() {
    let server = Server::start(&[("SYNC_THREADS", "1")]).await;
    let gates = server.occupy().await;
    let mut idle = server.connect().await;
    idle.send(bare("GET", "/nothing")).await;
    idle.answer().await;
    let mut open = server.connect().await;
    open.send(post("/sync", JOB)).await;
    eventually("admission", || server.one_waits()).await;

    server.shutdown.cancel();
    assert!(idle.is_closed().await);
    drop(gates);
    let answer = open.answer().await;
    assert_eq!(answer.status, 200);
    assert!(open.is_closed().await);
    assert_eq!(server.sync_rows().await, [("COMPLETED".to_owned(), None)]);
    server.ended().await.unwrap();
}

#[tokio::test]
async fn a_request_that_outlasts_the_drain_gets_503_and_is_recorded() {
    let settings = [
        ("SYNC_THREADS", "1"),
        ("SYNC_TIMEOUT", "10m"),
        ("DRAIN_TIMEOUT", "50ms"),
    ];
    let server = Server::start(&settings).await;
    let gates = server.occupy().await;
    let mut open = server.connect().await;
    open.send(post("/sync", JOB)).await;
    eventually("admission", || server.one_waits()).await;
    server.shutdown.cancel();
    assert_eq!(open.answer().await.problem(), "503 shutting-down");
    let reason = Some("shut_down".to_owned());
    server
        .until_sync_rows(&[("FAILED".to_owned(), reason)])
        .await;
    drop(gates);
    server.ended().await.unwrap();
}

#[tokio::test]
async fn the_api_runs_until_shutdown() {
    let folder = TempDir::new().unwrap();
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(storm_api::run(
        listener,
        settings(&folder, &[]),
        shutdown.clone(),
    ));
    shutdown.cancel();
    timeout(PATIENCE, running)
        .await
        .expect("an end")
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn an_unexpected_end_of_the_store_stops_the_api_with_an_error() {
    let server = Server::start(&[]).await;
    server.app.store.close().await; // what a panic of its thread causes
    let ended = server.ended().await;
    assert!(matches!(ended, Err(Error::StoreEnded)), "{ended:?}");
}

#[tokio::test]
async fn shutdown_is_graceful_while_the_database_is_locked_at_startup() {
    let folder = TempDir::new().unwrap();
    let lock = Direct::open(folder.path()).await;
    lock.lock_opening().await;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let shutdown = CancellationToken::new();
    let mut running = Box::pin(storm_api::run(
        listener,
        settings(&folder, &[]),
        shutdown.clone(),
    ));
    let waited = timeout(Duration::from_millis(100), &mut running).await;
    assert!(waited.is_err(), "it keeps waiting for the lock");
    shutdown.cancel();
    timeout(PATIENCE, running).await.expect("an end").unwrap();
}

#[tokio::test]
async fn a_connection_opened_during_startup_stays_open_and_is_served_afterwards() {
    let folder = TempDir::new().unwrap();
    let lock = Direct::open(folder.path()).await;
    lock.lock_opening().await;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(storm_api::run(
        listener,
        settings(&folder, &[]),
        shutdown.clone(),
    ));
    let mut early = Client::connect(addr).await;
    early.send(post("/async", JOB)).await;
    assert_eq!(early.answer().await.problem(), "503 database-unavailable");
    lock.unlock().await;
    let mut status = 503;
    while status == 503 {
        early.send(post("/async", JOB)).await;
        status = early.answer().await.status;
    }
    assert_eq!(status, 202);
    shutdown.cancel();
    timeout(PATIENCE, running)
        .await
        .expect("an end")
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn a_file_that_is_not_a_database_makes_run_return_an_error() {
    let folder = folder_on_sqlite();
    std::fs::write(folder.path().join("storm.db"), "plain text, not a database").unwrap();
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let ended = storm_api::run(listener, settings(&folder, &[]), CancellationToken::new()).await;
    assert!(matches!(ended, Err(Error::Store(_))), "{ended:?}");
}
