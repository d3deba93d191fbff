//! `Prefer` of `POST /async` and `POST /async/{handler}`: a submission that waits for its result.

use serde_json::{Value, json};
use storm_shared::{
    models::{Failure, FailureReason, ReportSpec, RequestId},
    services::{
        report,
        store::{Candidate, Claim, Outcome, OwnerId, Settlement, Store, WorkResult},
    },
};

use crate::{
    client::{bare, post},
    eventually,
    idempotency::{accepted, keyed},
    server::Server,
};

pub(crate) const JOB: &str = r#"{"records": 1, "report_name": "a"}"#;

const CALLED_BACK: &str =
    r#"{"records": 1, "report_name": "a", "callback_url": "https://hooks.example/"}"#;

/// The same request with the header `Prefer`.
pub(crate) fn preferring(prefer: &str, request: &str) -> String {
    request.replacen("\r\n", &format!("\r\nprefer: {prefer}\r\n"), 1)
}

/// Waits until so many requests wait for a result.
pub(crate) async fn waiters(server: &Server, count: usize) {
    let shown = format!("\nstorm_api_waiters {count}\n");
    eventually(shown.trim(), || {
        server.app.metrics.render().contains(&shown)
    })
    .await;
}

/// The newest job.
pub(crate) async fn newest(server: &Server) -> RequestId {
    let query = "SELECT id FROM requests ORDER BY id DESC LIMIT 1";
    let id = server.database().await.value(query).await;
    id.parse().unwrap()
}

/// Claims a new job for a new worker.
pub(crate) async fn claim(store: &Store, id: RequestId) -> Claim {
    let owner = OwnerId::generate();
    store.register(owner, &[]).await.unwrap();
    let claimed = store.claim(owner, vec![Candidate::notified(id)], usize::MAX);
    let mut claimed = claimed.await.unwrap();
    claimed.jobs.pop().unwrap().unwrap().claim
}

/// The result of [`JOB`].
pub(crate) fn result() -> WorkResult {
    let spec: ReportSpec = serde_json::from_str(JOB).unwrap();
    WorkResult::of(&report::expected(&spec))
}

/// Ends a job that is claimed.
pub(crate) async fn settle(store: &Store, claim: Claim, outcome: Outcome) {
    let attempt = None;
    let finish = Settlement::Finish { attempt, outcome };
    let settled = store.settle(claim, Some(result()), finish);
    settled.await.unwrap();
}

/// Ends a new job.
pub(crate) async fn end(store: &Store, id: RequestId, outcome: Outcome) {
    let claim = claim(store, id).await;
    settle(store, claim, outcome).await;
}

#[tokio::test]
async fn a_submission_that_waits_is_answered_with_its_result_as_get_shows_it() {
    let server = Server::start(&[]).await;
    // The longest wait is a minute, whatever is asked for.
    for (prefer, applied) in [
        ("respond-async, wait=3600", "wait=60"),
        ("wait=50", "wait=50"),
    ] {
        let mut client = server.connect().await;
        client.send(preferring(prefer, &post("/async", JOB))).await;
        waiters(&server, 1).await;
        let id = newest(&server).await;
        end(&server.app.store, id, Outcome::Completed).await;
        let answer = client.answer().await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("preference-applied"), Some(applied));
        let path = format!("/requests/{id}");
        assert_eq!(answer.header("content-location"), Some(&*path));
        assert_eq!(answer.header("content-type"), Some("application/json"));
        let shown = answer.json();
        assert_eq!(shown["status"], "COMPLETED");
        assert!(shown["result_payload"]["checksum"].is_string());
        assert_eq!(shown, server.ask(bare("GET", &path)).await.json());
        waiters(&server, 0).await;
    }
}

#[tokio::test]
async fn a_submission_with_a_callback_waits_for_the_result_and_not_for_its_delivery() {
    let server = Server::start(&[]).await;
    let mut client = server.connect().await;
    let submission = post("/async", CALLED_BACK);
    client.send(preferring("wait=60", &submission)).await;
    waiters(&server, 1).await;
    let claim = claim(&server.app.store, newest(&server).await).await;
    let stored = server.app.store.store_worked(claim, Ok(result()), None);
    stored.await.unwrap();
    let answer = client.answer().await;
    assert_eq!(answer.status, 200);
    let shown = answer.json();
    assert_eq!(
        (&shown["status"], &shown["completed_at"]),
        (&json!("PROCESSING"), &Value::Null)
    );
    assert!(shown["result_payload"]["checksum"].is_string());
}

#[tokio::test]
async fn a_failed_job_is_a_200_with_its_failure() {
    let server = Server::start(&[("HANDLERS__PDF__URL", "http://127.0.0.1:9/")]).await;
    let mut client = server.connect().await;
    let submission = post("/async/pdf", r#"{"payload": {"page": 7}}"#);
    client
        .send(preferring("respond-async, wait=60", &submission))
        .await;
    waiters(&server, 1).await;
    let id = newest(&server).await;
    let cancel = bare("DELETE", &format!("/requests/{id}"));
    assert_eq!(server.ask(cancel).await.status, 200);
    let answer = client.answer().await;
    assert_eq!(answer.status, 200);
    let shown = answer.json();
    assert_eq!(
        (&shown["handler"], &shown["status"]),
        (&json!("pdf"), &json!("FAILED"))
    );
    assert_eq!(shown["failure"]["reason"], "cancelled");

    client
        .send(preferring("wait=60", &post("/async", JOB)))
        .await;
    waiters(&server, 1).await;
    let failure = Failure::new(FailureReason::WorkFailed, "It answered 422.");
    end(
        &server.app.store,
        newest(&server).await,
        Outcome::Failed(failure),
    )
    .await;
    let shown = client.answer().await.json();
    let failure = json!({"reason": "work_failed", "detail": "It answered 422."});
    assert_eq!(shown["failure"], failure);
}

#[tokio::test]
async fn after_the_wait_the_answer_is_the_202() {
    let server = Server::start(&[]).await;
    for (prefer, applied) in [
        ("respond-async, wait=1", "respond-async, wait=1"),
        ("wait=0", "wait=0"),
    ] {
        let answer = server.ask(preferring(prefer, &post("/async", JOB))).await;
        let id = accepted(&answer, false);
        assert_eq!(answer.header("preference-applied"), Some(applied));
        assert_eq!(answer.header("location"), Some(&*format!("/requests/{id}")));
        assert!(answer.header("retry-after").is_some());
        let body = answer.json();
        assert_eq!(body["status"], "pending");
        assert!(body["expected_at"].is_string() && body["message"].is_string());
    }
    // None of these was acknowledged at once, which that metric is about.
    let metrics = server.app.metrics.render();
    assert!(
        metrics.contains("storm_api_ack_seconds_count 0"),
        "{metrics}"
    );
}

#[tokio::test]
async fn without_a_wait_the_answer_is_the_202_at_once() {
    let server = Server::start(&[]).await;
    for prefer in [
        "respond-async",
        "return=minimal",
        "wait",
        "wait=soon",
        "=,;",
        "",
    ] {
        let answer = server.ask(preferring(prefer, &post("/async", JOB))).await;
        accepted(&answer, false);
        assert_eq!(answer.header("preference-applied"), None, "{prefer}");
    }
    let metrics = server.app.metrics.render();
    assert!(
        metrics.contains("storm_api_ack_seconds_count 6"),
        "{metrics}"
    );
}

#[tokio::test]
async fn preferences_are_read_from_every_line_also_behind_one_that_is_no_text() {
    let server = Server::start(&[]).await;
    let submission = preferring("respond-async, WAIT=\"0\"", &post("/async", JOB));
    let (line, rest) = submission.split_once("\r\n").unwrap();
    let first = b"\r\nprefer: a=\"\xff\"\r\n".as_slice();
    let mut client = server.connect().await;
    client
        .send([line.as_bytes(), first, rest.as_bytes()].concat())
        .await;
    let answer = client.answer().await;
    let applied = answer.header("preference-applied");
    assert_eq!(
        (answer.status, applied),
        (202, Some("respond-async, wait=0"))
    );
}

#[tokio::test]
async fn a_replay_waits_for_the_result_of_the_first_submission() {
    let server = Server::start(&[]).await;
    let submission = keyed("k", JOB);
    let first = server.ask(&submission).await;
    let id = accepted(&first, false);
    let mut client = server.connect().await;
    client.send(preferring("wait=60", &submission)).await;
    waiters(&server, 1).await;
    end(&server.app.store, id.parse().unwrap(), Outcome::Completed).await;
    let answers = [
        client.answer().await,
        // One that comes when the job is over.
        server.ask(preferring("wait=60", &submission)).await,
    ];
    for answer in answers {
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("idempotent-replayed"), Some("true"));
        assert_eq!(answer.json()["id"], id);
    }
    // And one that does not wait gets the answer of the first.
    accepted(&server.ask(&submission).await, true);
}
