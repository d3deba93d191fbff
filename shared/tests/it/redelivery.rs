//! Redelivery, parking, and the record of attempts.

use std::time::Duration;

use jiff::Timestamp;
use storm_shared::{
    models::{AttemptClass, Failure, FailureReason, Request, RequestId, Status},
    services::{
        report,
        store::{
            AttemptRecord, Candidate, Job, Outcome, Redeliverable, RedeliveryPage, Scope, Store,
            Unredeliverable,
        },
    },
};

use crate::store::{
    accept, attempted, claim_due, due_jobs, new_store, new_worker, spec, success, timeout,
};

async fn row(store: &Store, id: RequestId) -> Request {
    store.find(id).await.unwrap().unwrap()
}

async fn redeliver(store: &Store, id: RequestId) -> Result<(), Unredeliverable> {
    store.redeliver(Scope::All, id).await.unwrap()
}

fn failed(detail: &str) -> Outcome {
    Outcome::Failed(Failure::new(FailureReason::CallbackFailed, detail))
}

/// Accepts and claims a new job.
async fn claimed(store: &Store) -> Job {
    let (id, owner) = (accept(store).await, new_worker(store).await);
    let notified = vec![Candidate::notified(id)];
    store.claim(owner, notified).await.unwrap().pop().unwrap()
}

async fn finish(store: &Store, job: &Job, last: AttemptRecord, outcome: Outcome) {
    let report = report::expected(&job.spec);
    let finished = store.finalise(job.claim, Some(&report), Some(last), outcome);
    finished.await.unwrap();
}

/// A job that finished with `outcome` after one attempt.
async fn finished(store: &Store, outcome: Outcome) -> RequestId {
    let job = claimed(store).await;
    let last = match outcome {
        Outcome::Completed => success(),
        Outcome::Failed(_) => timeout(1),
    };
    finish(store, &job, last, outcome).await;
    job.claim.id
}

#[tokio::test]
async fn a_redelivered_failed_request_gets_a_new_series_and_completes() {
    let (store, _folder) = new_store().await;
    let id = finished(&store, failed("It answered 500.")).await;
    let before = row(&store, id).await;
    assert_eq!(redeliver(&store, id).await, Ok(()));
    let waits = row(&store, id).await;
    assert_eq!(
        (waits.status, waits.redelivery),
        (Status::Failed, Some(Status::Pending))
    );

    let job = claim_due(&store).await.pop().unwrap();
    assert_eq!((job.attempts, job.attempts_before), (1, 1));
    assert_eq!(job.report, Some(report::expected(&spec())));
    assert_eq!(
        row(&store, id).await.redelivery,
        Some(Status::Processing),
        "the status is unchanged meanwhile"
    );
    finish(
        &store,
        &job,
        attempted(2, AttemptClass::Success),
        Outcome::Completed,
    )
    .await;
    let after = row(&store, id).await;
    assert_eq!((after.status, after.redelivery), (Status::Completed, None));
    assert!(after.failure.is_none() && after.completed_at >= before.completed_at);
    let numbers: Vec<_> = after.attempts.iter().map(|it| it.number).collect();
    assert_eq!(numbers, [1, 2]);
}

#[tokio::test]
async fn a_failed_redelivery_leaves_a_completed_request_unchanged() {
    let (store, _folder) = new_store().await;
    let id = finished(&store, Outcome::Completed).await;
    let before = row(&store, id).await;
    redeliver(&store, id).await.unwrap();
    let job = claim_due(&store).await.pop().unwrap();
    finish(&store, &job, timeout(2), failed("It timed out.")).await;
    let after = row(&store, id).await;
    assert_eq!((after.status, after.redelivery), (Status::Completed, None));
    assert_eq!(after.completed_at, before.completed_at);
    assert!(after.failure.is_none());
    assert_eq!(after.attempts[1].class, AttemptClass::Timeout);
}

#[tokio::test]
async fn a_failed_redelivery_of_a_failed_request_replaces_its_failure() {
    let (store, _folder) = new_store().await;
    let id = finished(&store, failed("It answered 500.")).await;
    let before = row(&store, id).await;
    redeliver(&store, id).await.unwrap();
    let job = claim_due(&store).await.pop().unwrap();
    finish(&store, &job, timeout(2), failed("It timed out.")).await;
    let after = row(&store, id).await;
    assert_eq!(after.status, Status::Failed);
    assert_eq!(after.failure.unwrap().detail, "It timed out.");
    assert_eq!(after.completed_at, before.completed_at);
}

#[tokio::test]
async fn a_redelivery_survives_release_and_lease_expiry_and_keeps_its_series() {
    let (store, _folder) = new_store().await;
    let id = finished(&store, Outcome::Completed).await;
    redeliver(&store, id).await.unwrap();
    let job = claim_due(&store).await.pop().unwrap();
    let (report, now) = (report::expected(&job.spec), Timestamp::now());
    let retry = store.schedule_retry(job.claim, &report, timeout(2), now);
    retry.await.unwrap();
    assert_eq!(row(&store, id).await.status, Status::Completed);

    let second = claim_due(&store).await.pop().unwrap();
    assert_eq!((second.attempts, second.attempts_before), (2, 1));
    assert_eq!(store.deregister(second.claim.owner).await.unwrap(), 1);
    let third = claim_due(&store).await.pop().unwrap();
    let dead = third.claim.owner.to_string();
    let watcher = new_worker(&store).await;
    let seen = store.renew(watcher).await.unwrap().into_iter();
    let seen = seen.filter(|it| it.owner == dead).collect::<Vec<_>>();
    let expired = store.expire(seen[0].clone(), 5).await.unwrap().unwrap();
    assert_eq!((expired.reclaimed, expired.poisoned), (1, 0));
    let waits = row(&store, id).await;
    assert_eq!(
        (waits.status, waits.redelivery),
        (Status::Completed, Some(Status::Pending))
    );
    assert_eq!(claim_due(&store).await.len(), 1);
}

#[tokio::test]
async fn a_poison_redelivery_ends_and_leaves_a_completed_request_unchanged() {
    let (store, _folder) = new_store().await;
    let id = finished(&store, Outcome::Completed).await;
    redeliver(&store, id).await.unwrap();
    let mut poisoned = 0;
    for _ in 0..2 {
        let job = claim_due(&store).await.pop().unwrap();
        let (dead, watcher) = (job.claim.owner.to_string(), new_worker(&store).await);
        let others = store.renew(watcher).await.unwrap();
        let seen = others.into_iter().find(|it| it.owner == dead).unwrap();
        poisoned += store.expire(seen, 2).await.unwrap().unwrap().poisoned;
        store.deregister(watcher).await.unwrap();
    }
    assert_eq!(poisoned, 1);
    let after = row(&store, id).await;
    assert_eq!((after.status, after.redelivery), (Status::Completed, None));
    assert!(after.failure.is_none());
}

#[tokio::test]
async fn only_a_finished_request_with_a_result_and_a_callback_is_redeliverable() {
    let (store, _folder) = new_store().await;
    let unknown = RequestId::generate();
    assert_eq!(
        redeliver(&store, unknown).await,
        Err(Unredeliverable::Unknown)
    );
    let pending = accept(&store).await;
    assert_eq!(
        redeliver(&store, pending).await,
        Err(Unredeliverable::Unfinished)
    );
    let held = claimed(&store).await;
    assert_eq!(
        redeliver(&store, held.claim.id).await,
        Err(Unredeliverable::Unfinished)
    );
    let without_result = store.finalise(held.claim, None, None, failed("It broke."));
    without_result.await.unwrap();
    assert_eq!(
        redeliver(&store, held.claim.id).await,
        Err(Unredeliverable::Nothing)
    );
    let twice = finished(&store, Outcome::Completed).await;
    assert_eq!(redeliver(&store, twice).await, Ok(()));
    assert_eq!(
        redeliver(&store, twice).await,
        Err(Unredeliverable::UnderWay)
    );
    let others = Scope::Of("other".parse().unwrap());
    assert_eq!(
        store.redeliver(others, twice).await.unwrap(),
        Err(Unredeliverable::Unknown)
    );
}

#[tokio::test]
async fn keyset_pages_return_every_request_once_in_order() {
    let (store, _folder) = new_store().await;
    let mut all = Vec::new();
    for _ in 0..7 {
        all.push(finished(&store, failed("It answered 500.")).await);
        finished(&store, Outcome::Completed).await;
    }
    let page = |after| RedeliveryPage {
        status: Status::Failed,
        since: None,
        after,
        limit: 3,
    };
    let (mut found, mut cursor) = (Vec::new(), None);
    loop {
        let Redeliverable { requests, next } =
            store.redeliverable(Scope::All, page(cursor)).await.unwrap();
        assert!(
            requests
                .iter()
                .all(|(_, origin)| origin == "http://example.com")
        );
        let ids: Vec<_> = requests.into_iter().map(|(id, _)| id).collect();
        let begun = store.redeliver_all(Scope::All, ids.clone()).await.unwrap();
        assert_eq!(begun, ids.len());
        found.extend(ids);
        cursor = next;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(found, all);
    let nobodys = Scope::Of("other".parse().unwrap());
    let none = store.redeliverable(nobodys, page(None)).await.unwrap();
    assert_eq!(none, Redeliverable::default());
    let later = RedeliveryPage {
        since: Some(Timestamp::now() + Duration::from_hours(1)),
        ..page(None)
    };
    let none = store.redeliverable(Scope::All, later).await.unwrap();
    assert_eq!(none, Redeliverable::default());
}

#[tokio::test]
async fn every_attempt_is_recorded_and_the_internal_detail_is_not_shown() {
    let (store, folder) = new_store().await;
    let job = claimed(&store).await;
    let first = AttemptRecord {
        error: Some("could not connect".to_owned()),
        internal_detail: Some("could not connect: 10.0.0.1:80: refused".to_owned()),
        ..attempted(1, AttemptClass::Connect)
    };
    let report = report::expected(&job.spec);
    let retry = store.schedule_retry(job.claim, &report, first, Timestamp::now());
    retry.await.unwrap();
    let job = claim_due(&store).await.pop().unwrap();
    let last = AttemptRecord {
        status: Some(204),
        ..attempted(2, AttemptClass::Success)
    };
    finish(&store, &job, last, Outcome::Completed).await;

    let shown = serde_json::to_value(row(&store, job.claim.id).await).unwrap();
    let attempts = shown["attempts"].as_array().unwrap();
    assert_eq!(attempts.len(), 2);
    assert_eq!(attempts[0]["class"], "connect");
    assert_eq!(attempts[0]["error"], "could not connect");
    assert_eq!(attempts[1]["status"], 204);
    assert_eq!(attempts[1]["duration_ms"], 7);
    assert!(!shown.to_string().contains("10.0.0.1"), "{shown}");
    let internal_detail: String = crate::store::direct(&folder)
        .query_row("SELECT internal_detail FROM attempts", [], |row| row.get(0))
        .unwrap();
    assert!(internal_detail.contains("10.0.0.1"));
}

#[tokio::test]
async fn a_parked_job_is_due_at_once_when_its_receiver_recovers() {
    let (store, _folder) = new_store().await;
    let job = claimed(&store).await;
    let report = report::expected(&job.spec);
    let later = Timestamp::now() + Duration::from_secs(50);
    store.park(job.claim, &report, later).await.unwrap();
    let parked = row(&store, job.claim.id).await;
    assert_eq!((parked.status, parked.parks), (Status::Pending, 1));
    assert!(parked.attempts.is_empty() && parked.events.is_empty());
    assert!(parked.parked_since.is_some() && parked.result_payload.is_some());
    assert_eq!(due_jobs(&store, 9).await.due, []);

    let unpark = async |origin: &str| store.unpark(origin.to_owned(), 9).await.unwrap();
    assert_eq!(unpark("http://example.org").await, 0);
    assert_eq!(unpark("http://example.com").await, 1);
    assert_eq!(unpark("http://example.com").await, 0, "it is due already");
    let again = claim_due(&store).await.pop().unwrap();
    assert!(again.parked_since.is_some(), "it keeps when it was parked");
    assert_eq!(again.attempts, 0);
}

#[tokio::test]
async fn an_origin_is_over_limit_once_its_backlog_reaches_the_limit() {
    let (store, _folder) = new_store().await;
    for backlog in 0..3 {
        let over_limit = store.origins_over_limit(2).await.unwrap();
        assert_eq!(
            over_limit.len(),
            usize::from(backlog >= 2),
            "{over_limit:?}"
        );
        let job = claimed(&store).await;
        let report = report::expected(&job.spec);
        let later = Timestamp::now() + Duration::from_secs(50);
        store.park(job.claim, &report, later).await.unwrap();
    }
    let over_limit = store.origins_over_limit(3).await.unwrap();
    assert_eq!(over_limit, ["http://example.com"]);
}

#[tokio::test]
async fn the_record_of_a_request_does_not_grow_with_its_redeliveries() {
    const KEPT: u32 = 1000;
    let (store, folder) = new_store().await;
    let id = finished(&store, failed("It answered 500.")).await;
    // As if it had had KEPT attempts already.
    let table = crate::store::direct(&folder);
    let kept_attempts = format!(
        "WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < {KEPT})
         INSERT INTO attempts (request_id, number, started_at, duration_ms, class)
         SELECT '{id}', i, '', 0, 'timeout' FROM n;
         INSERT INTO events (request_id, number, at, event, claim)
         SELECT request_id, number, '', 'attempt_failed', number FROM attempts WHERE number > 1;
         UPDATE requests SET attempts = {KEPT}, claim = {KEPT} WHERE id = '{id}';"
    );
    table.execute_batch(&kept_attempts).unwrap();
    for number in KEPT + 1..=KEPT + 2 {
        redeliver(&store, id).await.unwrap();
        let job = claim_due(&store).await.pop().unwrap();
        finish(&store, &job, timeout(number), failed("It timed out.")).await;
    }
    let row = row(&store, id).await;
    let kept: Vec<_> = row.attempts.iter().map(|it| it.number).collect();
    assert_eq!(kept, (3..=KEPT + 2).collect::<Vec<_>>());
    assert_eq!(row.events.len(), KEPT as usize);
}

#[tokio::test]
async fn a_cursor_never_reveals_another_tenants_request_id() {
    let (store, folder) = new_store().await;
    for _ in 0..2 {
        finished(&store, Outcome::Completed).await;
    }
    let table = crate::store::direct(&folder);
    // More rows than one page scans.
    let others = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000)
        INSERT INTO requests (id, mode, status, input_payload, callback_url, created_at, completed_at,
            result_payload, created_by)
        SELECT printf('%08x-%04x-7000-8000-%012x', i / 3, i, i), 'async', 'COMPLETED', '{}', 'http://a/', '', '',
            '{}', 'one' FROM n;";
    table.execute_batch(others).unwrap();
    let all = "SELECT count(*) FROM requests WHERE id = ?1";
    let (mut after, mut pages) = (None, 0);
    let other = Scope::Of("other".parse().unwrap());
    loop {
        let page = RedeliveryPage {
            status: Status::Completed,
            since: None,
            after,
            limit: 10,
        };
        let found = store.redeliverable(other.clone(), page).await.unwrap();
        assert_eq!(found.requests, []);
        pages += 1;
        let Some(next) = found.next else { break };
        let known: u32 = table
            .query_row(all, [next.to_string()], |row| row.get(0))
            .unwrap();
        assert_eq!(known, 0, "{next}");
        after = Some(next);
    }
    assert_eq!(pages, 2);
}
