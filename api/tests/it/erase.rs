//! `POST /requests/{id}/erase`.

use serde_json::{Value, json};
use storm_shared::models::RequestId;

use crate::{
    auth::{bearing, entry, token},
    client::{bare, post},
    idempotency::{accepted, keyed},
    redelivery::{HOOK, failed},
    server::Server,
};

fn erase(id: &str) -> String {
    bare("POST", &format!("/requests/{id}/erase"))
}

async fn find(server: &Server, id: &str) -> Value {
    let found = server.ask(bare("GET", &format!("/requests/{id}"))).await;
    assert_eq!(found.status, 200);
    found.json()
}

#[tokio::test]
async fn an_erased_request_shows_its_outcome_and_when_it_was_erased_and_a_repeat_is_the_same() {
    let server = Server::start(&[]).await;
    let id = failed(&server.app.store, HOOK).await.to_string();
    let before = find(&server, &id).await;
    assert_eq!(before.get("erased_at"), Some(&Value::Null));
    let first = server.ask(erase(&id)).await;
    assert_eq!(first.status, 200);
    let body = first.json();
    assert_eq!(
        (&body["request_id"], &body["status"]),
        (&json!(id), &json!("FAILED"))
    );
    let after = find(&server, &id).await;
    assert_eq!(after["erased_at"], body["erased_at"]);
    assert_eq!(body["erased_at"].as_str().unwrap().len(), 24);
    assert_eq!(after["input_payload"], json!({"erased": true}));
    for field in ["result_payload", "callback_url"] {
        assert!(before[field] != Value::Null && after[field] == Value::Null);
    }
    assert_eq!(after["failure"]["reason"], before["failure"]["reason"]);
    assert_eq!(after["attempts"][0]["class"], "status");
    assert_eq!(after["attempts"][0]["error"], Value::Null);
    assert_eq!(server.ask(erase(&id)).await.json(), body);
    assert_eq!(find(&server, &id).await, after);
    let listed = server.ask(bare("GET", "/requests")).await.json();
    assert_eq!(listed["requests"][0]["id"], json!(id));

    let redelivery = bare("POST", &format!("/requests/{id}/redeliver"));
    let refused = server.ask(redelivery).await;
    assert_eq!(refused.problem(), "409 request-erased");
    let page = bare("POST", "/requests/redeliver?status=FAILED");
    assert_eq!(server.ask(page).await.json()["redelivering"], 0);
}

#[tokio::test]
async fn what_can_not_be_erased_is_a_404_or_a_409_that_says_to_cancel_it_first() {
    let server = Server::start(&[]).await;
    for id in [RequestId::generate().to_string(), "1".to_owned()] {
        let unknown = server.ask(erase(&id)).await;
        assert_eq!(unknown.problem(), "404 not-found");
    }
    let redelivered = failed(&server.app.store, HOOK).await.to_string();
    let begun = bare("POST", &format!("/requests/{redelivered}/redeliver"));
    assert_eq!(server.ask(begun).await.status, 202);
    let job = post("/async", r#"{"records": 1, "report_name": "a"}"#);
    let waits = accepted(&server.ask(job).await, false);
    for (id, problem) in [
        (redelivered, "409 redelivery-under-way"),
        (waits, "409 request-unfinished"),
    ] {
        let refused = server.ask(erase(&id)).await;
        assert_eq!(refused.problem(), problem);
        assert!(refused.text().contains("DELETE"), "{}", refused.text());
        assert_eq!(find(&server, &id).await["erased_at"], Value::Null);
        let cancel = bare("DELETE", &format!("/requests/{id}"));
        assert_eq!(server.ask(cancel).await.status, 200);
        assert_eq!(server.ask(erase(&id)).await.status, 200);
    }
    let get = server.ask(bare("GET", "/requests/1/erase")).await;
    assert_eq!((get.status, get.header("allow")), (405, Some("POST")));
    let with_body = server.ask(post("/requests/1/erase", r#"{"a": 1}"#)).await;
    assert_eq!(with_body.problem(), "400 unexpected-body");
}

#[tokio::test]
async fn the_key_of_an_erased_request_starts_no_second_job() {
    let server = Server::start(&[]).await;
    let job = r#"{"records": 1, "report_name": "a"}"#;
    let id = accepted(&server.ask(keyed("k", job)).await, false);
    let cancel = bare("DELETE", &format!("/requests/{id}"));
    assert_eq!(server.ask(cancel).await.status, 200);
    assert_eq!(accepted(&server.ask(keyed("k", job)).await, true), id);
    assert_eq!(server.ask(erase(&id)).await.status, 200);
    let refused = server.ask(keyed("k", job)).await;
    assert_eq!(refused.problem(), "422 idempotency-key-reused");
    assert!(refused.text().contains("erased"), "{}", refused.text());
}

#[tokio::test]
async fn a_tenant_can_erase_only_its_own_requests() {
    let (one, other) = (token(), token());
    let tokens = [entry("one", &one), entry("other", &other)].join(",");
    let server = Server::start(&[("API_TOKENS", &tokens)]).await;
    let job = post("/async", r#"{"records": 1, "report_name": "a"}"#);
    let id = accepted(&server.ask(bearing(&one, &job)).await, false);
    let cancel = bare("DELETE", &format!("/requests/{id}"));
    assert_eq!(server.ask(bearing(&one, &cancel)).await.status, 200);
    let refused = server.ask(bearing(&other, &erase(&id))).await;
    assert_eq!(refused.problem(), "404 not-found");
    let unknown = erase(&RequestId::generate().to_string());
    let unknown = server.ask(bearing(&other, &unknown)).await;
    assert_eq!(refused.json(), unknown.json());
    assert_eq!(server.ask(bearing(&one, &erase(&id))).await.status, 200);
}
