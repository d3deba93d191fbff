//! Fair shares between tenants: what one tenant's receiver does refuses no other tenant's jobs.

use std::time::Duration;

use serde_json::json;
use storm_shared::{
    models::{AttemptClass, CallbackUrl, Failure, FailureReason, ReportSpec, RequestId, Stage},
    services::{
        access::Token,
        report,
        store::{
            AttemptRecord, Candidate, NewJob, Outcome, OwnerId, Settlement, Store, WorkResult,
        },
    },
};

use crate::{
    auth::{bearing, entry, token},
    client::{bare, post},
    server::Server,
};

/// All tenants' receiver.
const ORIGIN: &str = "https://hooks.example";

/// The jobs that may wait for a tenant's receiver.
const LIMIT: usize = 12;

/// A server with these tenants, and their tokens.
async fn start(tenants: &[String]) -> (Server, Vec<Token>) {
    let tokens: Vec<_> = tenants.iter().map(|_| token()).collect();
    let entries: Vec<_> = tenants
        .iter()
        .zip(&tokens)
        .map(|(name, token)| entry(name, token))
        .collect();
    let (entries, limit) = (entries.join(","), LIMIT.to_string());
    let overrides = [
        ("API_TOKENS", entries.as_str()),
        ("MAX_PARKED_PER_ORIGIN", limit.as_str()),
    ];
    (Server::start(&overrides).await, tokens)
}

/// The status of a submission to `path` at the receiver.
async fn submit(server: &Server, token: &Token, path: &str) -> u16 {
    let url = format!("{ORIGIN}{path}");
    let body = json!({"records": 1, "report_name": "a", "callback_url": url});
    server
        .ask(bearing(token, &post("/async", body)))
        .await
        .status
}

/// A job of `tenant` whose first attempt was answered 404: its last one, or a retry is to follow.
async fn answered_404(store: &Store, tenant: &str, is_last: bool) -> RequestId {
    let id = RequestId::generate();
    let spec = json!({"records": 1, "report_name": "a"});
    let spec: ReportSpec = serde_json::from_value(spec).unwrap();
    let callback = CallbackUrl::parse(&format!("{ORIGIN}/wrong")).unwrap();
    let job = NewJob {
        created_by: Some(tenant.parse().unwrap()),
        ..NewJob::new(id, spec.clone(), Some(callback))
    };
    store.accept(job).await.unwrap();
    let owner = OwnerId::generate();
    store.register(owner, &[]).await.unwrap();
    let claimed = store.claim(owner, vec![Candidate::notified(id)], usize::MAX);
    let job = claimed.await.unwrap().jobs.pop().unwrap().unwrap();
    let attempt = AttemptRecord {
        number: 1,
        stage: Stage::Callback,
        started_at: "2026-11-24T08:00:00Z".parse().unwrap(),
        duration: Duration::from_millis(12),
        class: AttemptClass::Status,
        status: Some(404),
        error: Some("HTTP status 404".to_owned()),
        internal_detail: None,
    };
    let settlement = if is_last {
        let failure = Failure::new(FailureReason::CallbackFailed, "It answered 404.");
        Settlement::Finish {
            attempt: Some(attempt),
            outcome: Outcome::Failed(failure),
        }
    } else {
        let wait = Duration::from_hours(1);
        Settlement::Retry { attempt, wait }
    };
    let report = WorkResult::of(&report::expected(&spec));
    store
        .settle(job.claim, Some(report), settlement)
        .await
        .unwrap();
    id
}

/// Fills the backlog of `tenant`, until its jobs are refused.
async fn fill_backlog(server: &Server, tenant: &str, token: &Token) {
    for _ in 0..LIMIT {
        answered_404(&server.app.store, tenant, false).await;
    }
    while submit(server, token, "/wrong").await != 503 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn one_tenants_backlog_refuses_none_of_another_tenants_jobs_for_the_same_origin() {
    let tenants = ["a", "b"].map(str::to_owned);
    let (server, tokens) = start(&tenants).await;
    let [a, b] = &tokens[..] else {
        panic!("two tenants")
    };
    let store = &server.app.store;
    let [of_a, of_b] = [
        answered_404(store, "a", true).await,
        answered_404(store, "b", true).await,
    ];
    fill_backlog(&server, "a", a).await;
    assert_eq!(submit(&server, a, "/fine").await, 503, "the same receiver");
    assert_eq!(submit(&server, b, "/fine").await, 202);
    for (id, token, status) in [(of_a, a, 503), (of_b, b, 202)] {
        let redeliver = bare("POST", &format!("/requests/{id}/redeliver"));
        let answer = server.ask(bearing(token, &redeliver)).await;
        assert_eq!(answer.status, status);
    }
    let page = bare("POST", "/requests/redeliver?status=FAILED");
    let page = server.ask(bearing(a, &page)).await.json();
    assert_eq!(
        (&page["redelivering"], &page["skipped"]),
        (&json!(0), &json!(1))
    );
    // The limit is each tenant's, so the second gets to its own.
    fill_backlog(&server, "b", b).await;
    assert_eq!(submit(&server, a, "/fine").await, 503);
}

#[tokio::test]
async fn a_hostile_tenant_among_fifty_has_only_its_own_jobs_refused() {
    let tenants: Vec<_> = (0..50).map(|number| format!("t{number}")).collect();
    let (server, tokens) = start(&tenants).await;
    let (hostile, honest) = tokens.split_first().unwrap();
    fill_backlog(&server, "t0", hostile).await;
    for token in honest {
        assert_eq!(submit(&server, token, "/fine").await, 202);
    }
    assert_eq!(submit(&server, hostile, "/fine").await, 503);
}
