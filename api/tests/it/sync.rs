//! `POST /sync`.

use serde_json::json;

use crate::{client::post, eventually, server::Server};

const JOB: &str = r#"{"records": 10, "report_name": "Q1_Finance"}"#;

fn failed(reason: &str) -> (String, Option<String>) {
    ("FAILED".to_owned(), Some(reason.to_owned()))
}

#[tokio::test]
async fn sync_returns_the_known_report_and_records_it() {
    let server = Server::start(&[]).await;
    let answer = server.ask(post("/sync", JOB)).await;
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.json(),
        json!({
            "report_id": "3eebd0ea-44d7-531b-b660-ca91c206c5e6",
            "status": "completed",
            "checksum": "a6652297c0dc6ba69ad50361e2bc93bffd239fa77e22c556eeb264bf2cf1bd73",
        })
    );
    server
        .until_sync_rows(&[("COMPLETED".to_owned(), None)])
        .await;
}

#[tokio::test]
async fn a_saturated_pool_returns_503_unrecorded_while_async_accepts() {
    let server = Server::start(&[("SYNC_THREADS", "2"), ("SYNC_QUEUE", "1")]).await;
    let gates = server.occupy().await;
    let waiting = server.app.pool.admit().unwrap();
    let answer = server.ask(post("/sync", JOB)).await;
    assert_eq!(answer.problem(), "503 saturated");
    assert!(answer.header("retry-after").is_some());
    assert_eq!(server.ask(post("/async", JOB)).await.status, 202);
    assert_eq!(server.sync_rows().await, []);
    drop((gates, waiting));
    assert_eq!(server.ask(post("/sync", JOB)).await.status, 200);
}

#[tokio::test]
async fn a_request_queued_too_long_returns_503_and_frees_its_slot() {
    let settings = [
        ("SYNC_THREADS", "1"),
        ("SYNC_QUEUE", "1"),
        ("SYNC_TIMEOUT", "50ms"),
    ];
    let server = Server::start(&settings).await;
    let gates = server.occupy().await;
    for requests in 1..=3 {
        let answer = server.ask(post("/sync", JOB)).await;
        assert_eq!(answer.problem(), "503 sync-timeout");
        assert!(answer.header("retry-after").is_some());
        let expected = vec![failed("sync_timeout"); requests];
        server.until_sync_rows(&expected).await;
    }
    drop(gates);
}

#[tokio::test]
async fn a_report_that_takes_too_long_returns_503() {
    let server = Server::start(&[("SYNC_TIMEOUT", "1ms")]).await;
    let answer = server
        .ask(post("/sync", json!({"records": 49, "report_name": "a"})))
        .await;
    assert_eq!(answer.problem(), "503 sync-timeout");
    server.until_sync_rows(&[failed("sync_timeout")]).await;
}

#[tokio::test]
async fn a_client_disconnect_is_detected_and_recorded() {
    let settings = [("SYNC_THREADS", "1")];
    let server = Server::start(&settings).await;
    let gates = server.occupy().await;
    let mut client = server.connect().await;
    client.send(post("/sync", JOB)).await;
    eventually("admission", || server.one_waits()).await;
    drop(client);
    // The thread is still occupied and the timeout is far away.
    server.until_sync_rows(&[failed("client_gone")]).await;
    drop(gates);
}

#[tokio::test]
async fn a_sync_report_is_returned_even_if_it_cannot_be_recorded() {
    let server = Server::start(&[]).await;
    let database = server.database().await;
    let refuse_all = database.either(
        "CREATE TRIGGER refuses BEFORE INSERT ON requests
         BEGIN SELECT raise(ABORT, 'refused by the test'); END",
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
         $$ BEGIN RAISE 'refused by the test'; END $$;
         CREATE TRIGGER refuses BEFORE INSERT ON requests
         FOR EACH ROW EXECUTE FUNCTION refuse()",
    );
    database.run(refuse_all).await;
    assert_eq!(server.ask(post("/sync", JOB)).await.status, 200);
    assert_eq!(
        server.ask(post("/async", JOB)).await.problem(),
        "503 database-unavailable"
    );
}

#[tokio::test]
async fn a_sync_response_does_not_wait_for_its_record() {
    let server = Server::start(&[]).await;
    let lock = server.database().await;
    loop {
        lock.lock().await;
        assert_eq!(server.ask(post("/sync", JOB)).await.status, 200);
        assert_eq!(server.sync_rows().await, []);
        lock.unlock().await;
        // Writes are ordered: once a later write is accepted, the record was written or dropped.
        while server.ask(post("/async", JOB)).await.status != 202 {}
        if server.sync_rows().await == [("COMPLETED".to_owned(), None)] {
            return;
        }
        // On a busy machine the lock outlasted the lock timeout of the record: try again.
        assert_eq!(server.sync_rows().await, []);
    }
}
