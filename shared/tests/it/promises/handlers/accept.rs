//! Accepting jobs of handlers, and what else is done to a request.

use std::time::Duration;

use storm_shared::{
    models::{FailureReason, IdempotencyKey, Status},
    services::store::{Acceptance, NewJob, Scope},
};

use super::{accept_of, claim_work, handler, job_of, result, store_job, work_failed, work_of};
use crate::{
    database::TestDatabase,
    jobs::{accept, new_worker, row, status, writes_nothing},
};

on_every_engine! {
    a_submission_to_a_handler_is_replayed_for_the_same_bytes_only,
    a_job_of_a_handler_is_cancelled_erased_listed_and_deleted_like_a_report,
}

// The first release that knew the other engine knew handlers.
on_engine! { release_before, Sqlite,
    no_job_of_a_handler_is_stored_while_a_worker_of_the_release_before_runs,
}

async fn a_submission_to_a_handler_is_replayed_for_the_same_bytes_only(database: TestDatabase) {
    let store = database.open().await;
    let keyed = |job: NewJob| NewJob {
        idempotency_key: Some(IdempotencyKey::try_from("a".as_bytes()).unwrap()),
        ..job
    };
    let first = keyed(job_of("pdf", r#"{"a":1}"#));
    store_job(&store, first.clone()).await;
    let same = keyed(job_of("pdf", r#"{"a":1}"#));
    for answer in [
        store.accepted_before(&same).await.unwrap().unwrap(),
        store.accept(same).await.unwrap(),
    ] {
        assert!(
            matches!(answer, Acceptance::Replayed { id, .. } if id == first.id),
            "{answer:?}"
        );
    }
    for other in [
        job_of("mail", r#"{"a":1}"#),
        job_of("pdf", r#"{"a": 1}"#),
        job_of("pdf", r#"{"a":1.0}"#),
    ] {
        let refused = store.accept(keyed(other)).await.unwrap();
        assert_eq!(refused, Acceptance::Conflicting);
    }
    assert_eq!(database.count().await, 1);
}

async fn no_job_of_a_handler_is_stored_while_a_worker_of_the_release_before_runs(
    database: TestDatabase,
) {
    let store = database.open().await;
    let worker = new_worker(&store).await;
    database.register_as_release_before("old").await.unwrap();
    let job = NewJob {
        idempotency_key: Some(IdempotencyKey::try_from("a".as_bytes()).unwrap()),
        ..job_of("pdf", "{}")
    };
    let refused = store.accept(job.clone()).await.unwrap();
    assert_eq!(refused, Acceptance::OldWorkers);
    assert_eq!(database.count().await, 0);
    assert_eq!(database.keyed().await, []);
    // Reports are stored meanwhile, and the previous release can still start.
    accept(&store).await;
    database.forget_workers().await;
    database.register_as_release_before("old").await.unwrap();
    database.forget_workers().await;

    store.register(worker, &[handler("pdf")]).await.unwrap();
    store_job(&store, job).await;
    database
        .register_as_release_before("old")
        .await
        .unwrap_err();
    let worker = new_worker(&store).await;
    store.register(worker, &[handler("pdf")]).await.unwrap();
    assert_eq!(work_of(&store, "pdf").await.len(), 1);
}

async fn a_job_of_a_handler_is_cancelled_erased_listed_and_deleted_like_a_report(
    database: TestDatabase,
) {
    let store = database.open().await;
    let secret = "a-secret-of-the-client";
    let id = store_job(&store, job_of("pdf", &format!("\"{secret}\""))).await;
    store.cancel(Scope::All, id).await.unwrap().unwrap();
    assert_eq!(status(&store, id).await, Status::Failed);
    assert_eq!(work_of(&store, "pdf").await, []);
    assert_ne!(database.places_of(secret).await, [""; 0]);
    store.erase(Scope::All, id).await.unwrap().unwrap();
    assert_eq!(database.places_of(secret).await, [""; 0]);
    assert_eq!(row(&store, id).await.handler, "pdf");

    // One whose client is being told that its work failed can be cancelled as well.
    let told = accept_of(&store, "pdf").await;
    let job = claim_work(&store, told).await;
    let stored = store.store_worked(job.claim, Err(work_failed()), None);
    stored.await.unwrap();
    store
        .cancel(Scope::All, job.claim.id)
        .await
        .unwrap()
        .unwrap();
    let reason = row(&store, job.claim.id).await.failure.unwrap().reason;
    assert_eq!(reason, FailureReason::Cancelled);
    writes_nothing(&store, job.claim, &result("7")).await;

    let left = accept_of(&store, "pdf").await;
    let swept = store.sweep(Duration::ZERO, None).await.unwrap();
    assert_eq!(swept.deleted, 2);
    assert_eq!(work_of(&store, "pdf").await, [left]);
}
