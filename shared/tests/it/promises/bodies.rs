//! Large bodies: they are read back as they were stored, wherever the engine keeps them.

use std::time::Duration;

use jiff::Timestamp;
use storm_shared::{
    models::{AttemptClass, RequestId},
    services::{
        report::Report,
        store::{Job, Outcome, Scope, Settlement, Store, Work, WorkResult},
    },
};

use crate::{
    database::TestDatabase,
    jobs::{
        attempted, claim_due, claimed, delivered, due_jobs, new_worker, redeliver, row, spec,
        stored_result, timeout,
    },
};

on_every_engine! {
    a_large_result_is_found_claimed_and_redelivered_as_it_was_stored,
    a_large_result_of_a_sync_request_is_found,
    a_large_body_goes_with_its_request,
    an_erased_request_has_no_large_body,
    a_claim_takes_one_large_job_more_than_fit,
}

/// A report of about a million bytes.
fn large_report() -> Report {
    Report {
        report_id: uuid::Uuid::nil(),
        checksum: "c".repeat(1_000_000),
    }
}

fn large() -> WorkResult {
    WorkResult::of(&large_report())
}

async fn found_result(store: &Store, id: RequestId) -> WorkResult {
    let result = row(store, id).await.result_payload.unwrap();
    WorkResult::from_json(result)
}

/// A job with a large result whose first attempt has failed; it is due now.
async fn due_with_result(store: &Store) -> Job {
    let job = claimed(store).await;
    store
        .store_worked(job.claim, Ok(large()), None)
        .await
        .unwrap();
    let retry = Settlement::Retry {
        attempt: timeout(1),
        wait: Duration::ZERO,
    };
    store.settle(job.claim, Some(large()), retry).await.unwrap();
    job
}

async fn a_large_result_is_found_claimed_and_redelivered_as_it_was_stored(database: TestDatabase) {
    let store = database.open().await;
    let id = due_with_result(&store).await.claim.id;
    assert_eq!(found_result(&store, id).await, large());
    let job = claim_due(&store).await.pop().unwrap();
    assert_eq!(stored_result(&job), Some(large()));
    let end = Settlement::Finish {
        attempt: Some(attempted(2, AttemptClass::Success)),
        outcome: Outcome::Completed,
    };
    store.settle(job.claim, Some(large()), end).await.unwrap();
    assert_eq!(found_result(&store, id).await, large());
    redeliver(&store, id).await.unwrap();
    let again = claim_due(&store).await.pop().unwrap();
    assert_eq!((again.claim.id, again.claim.work), (id, Work::Redelivery));
    assert_eq!(stored_result(&again), Some(large()));
    // It is stored once.
    assert_eq!(database.large_bodies().await, 1);
}

async fn a_large_result_of_a_sync_request_is_found(database: TestDatabase) {
    let store = database.open().await;
    let (id, at) = (RequestId::generate(), Timestamp::now());
    let (spec, report) = (spec(), large_report());
    for _ in 0..2 {
        let recorded = store.record_sync(id, at, &spec, None, Ok(&report));
        recorded.await.unwrap();
    }
    assert_eq!(found_result(&store, id).await, large());
    assert_eq!(database.large_bodies().await, 1);
}

async fn a_large_body_goes_with_its_request(database: TestDatabase) {
    let store = database.open().await;
    let unfinished = due_with_result(&store).await.claim.id;
    let job = claimed(&store).await;
    store
        .settle(job.claim, Some(large()), delivered())
        .await
        .unwrap();
    assert_eq!(database.large_bodies().await, 2);
    let swept = store.sweep(Duration::ZERO, None).await.unwrap();
    assert_eq!(swept.deleted, 1);
    assert_eq!(database.large_bodies().await, 1);
    assert_eq!(found_result(&store, unfinished).await, large());
}

async fn an_erased_request_has_no_large_body(database: TestDatabase) {
    let store = database.open().await;
    let job = claimed(&store).await;
    let settled = store.settle(job.claim, Some(large()), delivered());
    settled.await.unwrap();
    let erased = store.erase(Scope::All, job.claim.id).await.unwrap();
    erased.unwrap();
    assert_eq!(database.large_bodies().await, 0);
    let row = row(&store, job.claim.id).await;
    assert!(row.result_payload.is_none());
    assert_eq!(row.input_payload.get(), r#"{"erased":true}"#);
}

async fn a_claim_takes_one_large_job_more_than_fit(database: TestDatabase) {
    let store = database.open().await;
    for _ in 0..3 {
        due_with_result(&store).await;
    }
    let due = due_jobs(&store, 9).await.due;
    let owner = new_worker(&store).await;
    let claimed = store.claim(owner, due.clone(), 1_100_000).await.unwrap();
    assert_eq!(claimed.jobs.len(), 2);
    assert_eq!(claimed.left, due[2..]);
    for job in claimed.jobs {
        assert!(job.unwrap().bytes > 1_000_000);
    }
}
