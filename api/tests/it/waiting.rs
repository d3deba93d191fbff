//! `waiting_for` of `GET /requests/{id}`.

use std::time::Duration;

use serde_json::{Value, json};
use storm_shared::{
    models::{AttemptClass, RequestId, Stage},
    services::store::{AttemptRecord, Candidate, Claim, Ended, OwnerId, Settlement, Store},
};

use crate::{
    client::{bare, post},
    redelivery::{HOOK, failed},
    server::Server,
};

const JOB: &str = r#"{"records": 1, "report_name": "a", "callback_url": "https://hooks.example/"}"#;

/// Longer than any test takes.
const AN_HOUR: Duration = Duration::from_hours(1);

async fn accept(server: &Server) -> RequestId {
    let accepted = server.ask(post("/async", JOB)).await.json();
    accepted["request_id"].as_str().unwrap().parse().unwrap()
}

/// Claims the job for a new worker, whose heartbeat is dated `renewed_at`.
async fn claim(server: &Server, candidate: Candidate, renewed_at: &str) -> Claim {
    let owner = OwnerId::generate();
    let store = &server.app.store;
    store.register(owner, &[]).await.unwrap();
    let update = format!("UPDATE workers SET renewed_at = '{renewed_at}' WHERE owner = '{owner}'");
    server.database().await.change(1, &update).await;
    let claimed = store.claim(owner, vec![candidate], usize::MAX).await;
    claimed.unwrap().jobs.pop().unwrap().unwrap().claim
}

async fn claim_new(server: &Server, id: RequestId) -> Claim {
    claim(server, Candidate::notified(id), "9999-01-01T00:00:00.000Z").await
}

async fn settle(store: &Store, claim: Claim, settlement: Settlement) {
    store.settle(claim, None, settlement).await.unwrap();
}

/// The request as the API shows it.
async fn shown(server: &Server, id: RequestId) -> Value {
    let answer = server.ask(bare("GET", &format!("/requests/{id}"))).await;
    assert_eq!(answer.status, 200);
    answer.json()
}

/// Asserts the reason, and that there is a detail. Returns `until`.
async fn waits_for(server: &Server, id: RequestId, reason: &str) -> Value {
    let mut request = shown(server, id).await;
    let waiting = request["waiting_for"].take();
    assert_eq!(waiting.as_object().unwrap().len(), 3, "{waiting}");
    assert_eq!(waiting["reason"], reason, "{waiting}");
    let detail = waiting["detail"].as_str().unwrap();
    assert!(detail.ends_with('.'), "{detail}");
    assert!(waiting["until"].is_null() || waiting["until"] == request["next_attempt_at"]);
    waiting["until"].clone()
}

#[tokio::test]
async fn an_accepted_request_waits_for_capacity_and_then_runs() {
    let server = Server::start(&[]).await;
    let id = accept(&server).await;
    assert_eq!(waits_for(&server, id, "capacity").await, Value::Null);
    let claim = claim_new(&server, id).await;
    assert_eq!(waits_for(&server, id, "running").await, Value::Null);
    let named = format!("Worker {} works on the job under claim 1.", claim.owner);
    assert_eq!(shown(&server, id).await["waiting_for"]["detail"], named);
}

#[tokio::test]
async fn a_request_waits_for_its_retry_and_for_its_receiver_until_a_time() {
    let server = Server::start(&[]).await;
    let attempt = AttemptRecord {
        number: 1,
        stage: Stage::Callback,
        started_at: "2026-11-24T08:00:00Z".parse().unwrap(),
        duration: Duration::from_millis(12),
        class: AttemptClass::Status,
        status: Some(503),
        error: Some("HTTP status 503".to_owned()),
        internal_detail: None,
    };
    let retry = Settlement::Retry {
        attempt,
        wait: AN_HOUR,
    };
    let park = Settlement::Park { wait: AN_HOUR };
    for (settlement, reason) in [(retry, "retry"), (park, "receiver")] {
        let id = accept(&server).await;
        let claim = claim_new(&server, id).await;
        settle(&server.app.store, claim, settlement).await;
        assert!(waits_for(&server, id, reason).await.is_string());
    }
}

#[tokio::test]
async fn a_request_whose_worker_is_silent_waits_for_the_lease_and_then_in_quarantine() {
    let server = Server::start(&[]).await;
    let store = &server.app.store;
    let id = accept(&server).await;
    let lost = claim(&server, Candidate::notified(id), "2026-01-01T00:00:00.000Z").await;
    assert_eq!(waits_for(&server, id, "lease").await, Value::Null);

    let observer = OwnerId::generate();
    store.register(observer, &[]).await.unwrap();
    let seen = store.renew(observer, Ended::default()).await.unwrap();
    let silent = seen.others.into_iter().find(|it| it.owner == lost.owner);
    store.expire(silent.unwrap(), 5).await.unwrap().unwrap();
    assert_eq!(waits_for(&server, id, "quarantine").await, Value::Null);
}

#[tokio::test]
async fn a_request_that_is_over_waits_only_for_its_redelivery() {
    let server = Server::start(&[]).await;
    let id = failed(&server.app.store, HOOK).await;
    assert_eq!(
        shown(&server, id).await.get("waiting_for"),
        Some(&Value::Null)
    );
    let redeliver = bare("POST", &format!("/requests/{id}/redeliver"));
    assert_eq!(server.ask(redeliver).await.status, 202);
    assert_eq!(waits_for(&server, id, "capacity").await, Value::Null);
    assert_eq!(
        shown(&server, id).await["waiting_for"]["detail"],
        json!("The redelivery waits for a worker with a free slot.")
    );
}
