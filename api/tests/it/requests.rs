//! `GET /requests/{id}` and `DELETE /requests/{id}`.

use serde_json::{Value, json};
use storm_shared::services::store::{Candidate, OwnerId};

use crate::{
    client::{bare, post},
    redelivery::{HOOK, failed},
    server::Server,
};

#[tokio::test]
async fn get_returns_an_accepted_request_as_stored() {
    let server = Server::start(&[]).await;
    let input = json!({"records": 10, "report_name": "Q1_Finance"});
    let url = "https://hooks.example/a";
    let mut body = input.clone();
    body["callback_url"] = url.into();
    let accepted = server.ask(post("/async", body)).await;
    let answer = server
        .ask(bare("GET", accepted.header("location").unwrap()))
        .await;
    assert_eq!(answer.status, 200);
    let request = answer.json();
    assert_eq!(request["id"], accepted.json()["request_id"]);
    assert_eq!(
        (&request["mode"], &request["status"]),
        (&json!("async"), &json!("PENDING"))
    );
    assert_eq!(
        (&request["input_payload"], &request["callback_url"]),
        (&input, &json!(url))
    );
    for field in ["result_payload", "completed_at", "failure"] {
        assert_eq!(request.get(field), Some(&Value::Null), "{field}");
    }
    let created = request["created_at"].as_str().unwrap();
    assert!(created.len() == 24 && created.ends_with('Z'), "{created}");
}

#[tokio::test]
async fn a_valid_traceparent_is_kept_and_an_invalid_one_is_replaced() {
    const SENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let server = Server::start(&[]).await;
    let once = format!("traceparent: {SENT}\r\n");
    for (headers, kept) in [
        (once.clone(), true),
        (once.repeat(2), false),
        (once.to_uppercase(), false),
        (String::new(), false),
    ] {
        let job = post("/async", r#"{"records": 1, "report_name": "a"}"#);
        let job = job.replacen("\r\n", &format!("\r\n{headers}"), 1);
        let accepted = server.ask(job).await;
        assert_eq!(accepted.status, 202, "{headers}");
        let location = accepted.header("location").unwrap();
        let row = server.ask(bare("GET", location)).await.json();
        let traceparent = row["traceparent"].as_str().unwrap();
        assert_eq!(traceparent == SENT, kept, "{headers}{traceparent}");
        assert_eq!(traceparent.len(), SENT.len(), "{traceparent}");
    }
}

#[tokio::test]
async fn head_returns_the_headers_of_get_without_a_body() {
    let server = Server::start(&[]).await;
    let accepted = server
        .ask(post("/async", r#"{"records": 1, "report_name": "a"}"#))
        .await;
    let location = accepted.header("location").unwrap();
    let get = server.ask(bare("GET", location)).await;
    let mut client = server.connect().await;
    for _ in 0..2 {
        client.send(bare("HEAD", location)).await;
        let head = client.head().await;
        assert_eq!(head.status, 200);
        assert_eq!(head.header("content-length"), get.header("content-length"));
    }
}

#[tokio::test]
async fn an_unknown_id_is_404() {
    let server = Server::start(&[]).await;
    let path = "/requests/0193b7a2-5d3c-7e21-9f0a-3c5b8e6d1f42";
    assert_eq!(
        server.ask(bare("GET", path)).await.problem(),
        "404 not-found"
    );
}

#[tokio::test]
async fn a_malformed_id_is_404_with_an_explanation() {
    let server = Server::start(&[]).await;
    for id in [
        "42",
        "%00",
        "0193b7a2-5d3c-7e21-9f0a-3c5b8e6d1f4",
        "'%20OR%201=1--",
    ] {
        let answer = server.ask(bare("GET", &format!("/requests/{id}"))).await;
        assert_eq!(answer.problem(), "404 not-found", "{id}");
        assert!(answer.json()["detail"].as_str().unwrap().contains("UUID"));
    }
}

#[tokio::test]
async fn delete_cancels_a_job_and_a_repeat_gives_the_same_answer() {
    let server = Server::start(&[]).await;
    let accepted = server
        .ask(post("/async", r#"{"records": 1, "report_name": "a"}"#))
        .await;
    let location = accepted.header("location").unwrap();
    for _ in 0..2 {
        let cancelled = server.ask(bare("DELETE", location)).await;
        assert_eq!(cancelled.status, 200);
        let body = cancelled.json();
        assert_eq!(body["request_id"], accepted.json()["request_id"]);
        assert_eq!(body["status"], "FAILED");
        assert_eq!(body["failure"]["reason"], "cancelled");
        let message = body["message"].as_str().unwrap();
        assert!(message.contains("no callback will be sent"), "{message}");
        let row = server.ask(bare("GET", location)).await.json();
        assert_eq!(
            (&row["status"], &row["failure"]),
            (&body["status"], &body["failure"])
        );
        assert!(row["completed_at"].is_string());
    }
}

#[tokio::test]
async fn an_attempt_under_way_is_mentioned_by_the_answer_to_a_delete() {
    let server = Server::start(&[]).await;
    let accepted = server
        .ask(post("/async", r#"{"records": 1, "report_name": "a"}"#))
        .await;
    let id = accepted.json()["request_id"].as_str().unwrap().to_owned();
    let (store, owner) = (&server.app.store, OwnerId::generate());
    store.register(owner, &[]).await.unwrap();
    let notified = vec![Candidate::notified(id.parse().unwrap())];
    let claimed = store.claim(owner, notified, usize::MAX).await.unwrap();
    assert_eq!(claimed.jobs.len(), 1);
    for _ in 0..2 {
        let body = server
            .ask(bare("DELETE", &format!("/requests/{id}")))
            .await
            .json();
        let message = body["message"].as_str().unwrap();
        assert!(message.contains("may take effect"), "{message}");
    }
}

#[tokio::test]
async fn what_can_not_be_cancelled_is_a_404_or_a_409_that_says_why() {
    let server = Server::start(&[]).await;
    let unknown = "/requests/0193b7a2-5d3c-7e21-9f0a-3c5b8e6d1f42";
    let answer = server.ask(bare("DELETE", unknown)).await;
    assert_eq!(answer.problem(), "404 not-found");
    let malformed = server.ask(bare("DELETE", "/requests/1")).await;
    assert_eq!(malformed.status, 404);

    let id = failed(&server.app.store, HOOK).await;
    let path = format!("/requests/{id}");
    let over = server.ask(bare("DELETE", &path)).await;
    assert_eq!(over.problem(), "409 request-over");
    assert!(over.text().contains("FAILED"), "{}", over.text());
    let begun = server.ask(bare("POST", &format!("{path}/redeliver"))).await;
    assert_eq!(begun.status, 202);
    let cancelled = server.ask(bare("DELETE", &path)).await;
    assert_eq!(cancelled.status, 200);
    let body = cancelled.json();
    assert_eq!(body["failure"]["reason"], "callback_failed");
    let message = body["message"].as_str().unwrap();
    assert!(
        message.starts_with("The redelivery is cancelled"),
        "{message}"
    );

    let with_body = post(&path, r#"{"a": 1}"#).replacen("POST", "DELETE", 1);
    let refused = server.ask(with_body).await;
    assert_eq!(refused.problem(), "400 unexpected-body");
}
