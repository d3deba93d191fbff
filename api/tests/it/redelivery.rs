//! Redelivery, and the backlog limit of a receiver.

use serde_json::{Value, json};
use storm_shared::{
    models::{AttemptClass, CallbackUrl, Failure, FailureReason, ReportSpec, RequestId, Stage},
    services::{
        report,
        store::{
            AttemptRecord, Candidate, NewJob, Outcome, OwnerId, Settlement, Store, WorkResult,
        },
    },
};

use crate::{
    client::{bare, post},
    server::Server,
};

fn spec() -> ReportSpec {
    serde_json::from_value(json!({"records": 1, "report_name": "a"})).unwrap()
}

async fn accept(store: &Store, callback: Option<&str>) -> RequestId {
    let id = RequestId::generate();
    let callback = callback.map(|url| CallbackUrl::parse(url).unwrap());
    let job = NewJob::new(id, spec(), callback);
    store.accept(job).await.unwrap();
    id
}

/// Creates a failed job. With a callback URL, its delivery has failed.
pub(crate) async fn failed(store: &Store, callback: Option<&str>) -> RequestId {
    let id = accept(store, callback).await;
    let owner = OwnerId::generate();
    store.register(owner, &[]).await.unwrap();
    let mut claimed = store
        .claim(owner, vec![Candidate::notified(id)], usize::MAX)
        .await
        .unwrap();
    let job = claimed.jobs.pop().unwrap().unwrap();
    let attempted = AttemptRecord {
        number: 1,
        stage: Stage::Callback,
        started_at: "2026-11-24T08:00:00Z".parse().unwrap(),
        duration: std::time::Duration::from_millis(12),
        class: AttemptClass::Status,
        status: Some(500),
        error: Some("HTTP status 500".to_owned()),
        internal_detail: None,
    };
    let failure = Failure::new(FailureReason::CallbackFailed, "It answered 500.");
    let report = WorkResult::of(&report::expected(&spec()));
    let finish = Settlement::Finish {
        attempt: Some(attempted),
        outcome: Outcome::Failed(failure),
    };
    store.settle(job.claim, Some(report), finish).await.unwrap();
    id
}

pub(crate) const HOOK: Option<&str> = Some("https://hooks.example/a");

#[tokio::test]
async fn a_failed_request_can_be_redelivered_and_lists_its_attempts() {
    let server = Server::start(&[]).await;
    let id = failed(&server.app.store, HOOK).await;
    let answer = server
        .ask(bare("POST", &format!("/requests/{id}/redeliver")))
        .await;
    assert_eq!(answer.status, 202);
    assert_eq!(answer.header("location"), Some(&*format!("/requests/{id}")));
    assert_eq!(answer.json()["request_id"], id.to_string());
    let row = server.ask(bare("GET", &format!("/requests/{id}"))).await;
    let row = row.json();
    assert_eq!(
        (&row["status"], &row["redelivery"]),
        (&json!("FAILED"), &json!("PENDING"))
    );
    assert_eq!(
        row["attempts"],
        json!([{
            "number": 1, "stage": "callback", "started_at": "2026-11-24T08:00:00.000Z",
            "duration_ms": 12, "class": "status", "status": 500, "error": "HTTP status 500",
        }])
    );
    let again = server
        .ask(bare("POST", &format!("/requests/{id}/redeliver")))
        .await;
    assert_eq!(again.problem(), "409 redelivery-under-way");
}

#[tokio::test]
async fn a_request_that_cannot_be_redelivered_returns_the_reason() {
    let server = Server::start(&[]).await;
    let store = &server.app.store;
    for (id, problem) in [
        (
            accept(store, HOOK).await.to_string(),
            "409 request-unfinished",
        ),
        (
            failed(store, None).await.to_string(),
            "409 nothing-to-redeliver",
        ),
        (RequestId::generate().to_string(), "404 not-found"),
        ("none".to_owned(), "404 not-found"),
    ] {
        let answer = server
            .ask(bare("POST", &format!("/requests/{id}/redeliver")))
            .await;
        assert_eq!(answer.problem(), problem);
    }
    for path in [
        "/requests/none/redeliver",
        "/requests/redeliver?status=FAILED",
    ] {
        let answer = server.ask(bare("PUT", path)).await;
        assert_eq!((answer.status, answer.header("allow")), (405, Some("POST")));
    }
}

#[tokio::test]
async fn bulk_redelivery_is_paged_with_a_cursor() {
    let server = Server::start(&[]).await;
    for _ in 0..5 {
        failed(&server.app.store, HOOK).await;
    }
    let mut path =
        "/requests/redeliver?status=FAILED&since=2020-01-01T00:00:00Z&limit=2".to_owned();
    let mut pages = Vec::new();
    loop {
        let answer = server.ask(bare("POST", &path)).await;
        assert_eq!(answer.status, 202, "{}", answer.text());
        let page = answer.json();
        pages.push(page["redelivering"].as_u64().unwrap());
        let Value::String(cursor) = &page["cursor"] else {
            break;
        };
        path = format!("/requests/redeliver?status=FAILED&limit=2&cursor={cursor}");
    }
    assert_eq!(pages, [2, 2, 1]);
    let answer = server.ask(bare("POST", "/requests/redeliver")).await;
    assert_eq!(answer.problem(), "422 validation");
}

#[tokio::test]
async fn a_backlog_over_the_limit_returns_503_for_that_origin_only() {
    let server = Server::start(&[("MAX_PARKED_PER_ORIGIN", "2")]).await;
    let body = |url: &str| {
        let body = json!({"records": 1, "report_name": "a", "callback_url": url});
        post("/async", body)
    };
    let over_limit = "https://hooks.example/b";
    assert_eq!(server.ask(body(over_limit)).await.status, 202);
    // Two jobs with an attempt due or scheduled: they count as the origin's backlog.
    let waiting = [
        failed(&server.app.store, HOOK).await,
        failed(&server.app.store, HOOK).await,
    ];
    let over = failed(&server.app.store, HOOK).await;
    for id in waiting {
        let redelivered = bare("POST", &format!("/requests/{id}/redeliver"));
        assert_eq!(server.ask(redelivered).await.status, 202);
    }
    let refused = loop {
        let answer = server.ask(body(over_limit)).await;
        if answer.status != 202 {
            break answer;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(refused.problem(), "503 receiver-overloaded");
    assert!(refused.header("retry-after").is_some());
    let redelivered = bare("POST", &format!("/requests/{over}/redeliver"));
    assert_eq!(server.ask(redelivered).await.status, 503);
    let page = bare("POST", "/requests/redeliver?status=FAILED");
    let page = server.ask(page).await.json();
    assert_eq!(
        (&page["redelivering"], &page["skipped"]),
        (&json!(0), &json!(1))
    );
    for other in ["https://hooks.example:8443/b", "http://hooks.example/b"] {
        assert_eq!(server.ask(body(other)).await.status, 202, "{other}");
    }
    let polled = post("/async", json!({"records": 1, "report_name": "a"}));
    assert_eq!(server.ask(polled).await.status, 202);

    // All callbacks are delivered, so the backlog is empty.
    let delivered = "DELETE FROM redeliveries";
    server.database().await.run(delivered).await;
    while server.ask(body(over_limit)).await.status != 202 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn bulk_redelivery_stops_at_the_backlog_limit() {
    let server = Server::start(&[("MAX_PARKED_PER_ORIGIN", "2")]).await;
    for _ in 0..5 {
        failed(&server.app.store, HOOK).await;
    }
    let page = bare("POST", "/requests/redeliver?status=FAILED");
    let page = server.ask(page).await.json();
    assert_eq!(
        (&page["redelivering"], &page["skipped"]),
        (&json!(2), &json!(3))
    );
}
