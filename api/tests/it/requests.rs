//! `GET /requests/{id}`.

use serde_json::{Value, json};

use crate::{
    client::{bare, post},
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
