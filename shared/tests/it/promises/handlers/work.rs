//! What came of the work of a handler: stored once, before the callback.

use std::time::Duration;

use storm_shared::{
    models::{AttemptClass, Failure, FailureReason, RequestId, Stage, Status},
    services::store::{ListPage, Outcome, RequestFilter, Scope, Settlement, Store, Worked},
};

use super::{
    RESULT, accept_of, claim_work, failed_work, job_of, result, store_job, work_failed, work_of,
    worked,
};
use crate::{
    database::TestDatabase,
    jobs::{
        MAX_CLAIMS, attempted, claim, claim_due, delivered, expire_lease, failed, is_claim_lost,
        new_worker, redeliver, retry, row, timeout, writes_nothing,
    },
};

on_every_engine! {
    a_payload_and_a_result_come_back_byte_for_byte,
    attempts_are_numbered_on_from_the_work_to_the_callback,
    a_crash_between_the_work_and_the_callback_repeats_no_work,
    what_came_of_the_work_is_never_replaced,
    a_stored_failure_of_the_work_shows_once_the_request_has_failed,
    what_came_of_the_work_is_stored_under_a_held_claim_only_and_can_be_repeated,
    a_failure_callback_that_kills_its_workers_leaves_the_reason_of_the_work,
}

async fn a_payload_and_a_result_come_back_byte_for_byte(database: TestDatabase) {
    let store = database.open().await;
    let long = format!("[{:?},\n\t1.0]", "é".repeat(10_000));
    for text in [
        r#"{ "b":1,"a" : [1.0, 1e400, -0, 12345678901234567890.10],  "b":2}"#,
        r#"{"u":"\u0000","s":"\ud800 \uDFFF","e":"\/","":null}"#,
        "\"\u{e9}\u{1f600}\"",
        "null",
        &long,
    ] {
        let id = store_job(&store, job_of("pdf", text)).await;
        assert_eq!(row(&store, id).await.input_payload.get(), text);
        let job = claim_work(&store, id).await;
        assert_eq!(job.input, text);
        let stored = store.store_worked(job.claim, Ok(result(text)), None);
        stored.await.unwrap();
        let give_back = Settlement::GiveBack;
        store.settle(job.claim, None, give_back).await.unwrap();
        let job = claim_due(&store).await.pop().unwrap();
        assert_eq!(
            (&job.input[..], &job.worked),
            (text.as_bytes(), &Some(Ok(result(text))))
        );
        store.settle(job.claim, None, delivered()).await.unwrap();
        let row = row(&store, id).await;
        assert_eq!(row.result_payload.unwrap().get(), text);
        assert_eq!(
            (row.input_payload.get(), row.handler.as_str()),
            (text, "pdf")
        );
    }
}

async fn attempts_are_numbered_on_from_the_work_to_the_callback(database: TestDatabase) {
    let store = database.open().await;
    let id = accept_of(&store, "pdf").await;
    let job = claim_work(&store, id).await;
    let again = retry(worked(1, AttemptClass::Timeout), Duration::ZERO);
    store.settle(job.claim, None, again).await.unwrap();
    let job = claim_work(&store, id).await;
    assert_eq!((job.attempts, job.attempts_before), (1, 0));
    let attempt = Some(worked(2, AttemptClass::Success));
    let stored = store.store_worked(job.claim, Ok(result(RESULT)), attempt);
    stored.await.unwrap();
    let again = retry(timeout(3), Duration::ZERO);
    store.settle(job.claim, None, again).await.unwrap();
    let job = claim_due(&store).await.pop().unwrap();
    assert_eq!((job.attempts, job.attempts_before), (3, 2));
    let end = Settlement::Finish {
        attempt: Some(attempted(4, AttemptClass::Success)),
        outcome: Outcome::Completed,
    };
    store.settle(job.claim, None, end).await.unwrap();
    let attempts = row(&store, id).await.attempts;
    let told: Vec<_> = attempts.iter().map(|it| (it.number, it.stage)).collect();
    let stages = [Stage::Work, Stage::Work, Stage::Callback, Stage::Callback];
    assert_eq!(
        told,
        [1, 2, 3, 4].into_iter().zip(stages).collect::<Vec<_>>()
    );
}

async fn a_crash_between_the_work_and_the_callback_repeats_no_work(database: TestDatabase) {
    let store = database.open().await;
    for outcome in [Ok(result(RESULT)), Err(work_failed())] {
        let id = accept_of(&store, "pdf").await;
        let job = claim_work(&store, id).await;
        let attempt = Some(worked(1, AttemptClass::Success));
        let stored = store.store_worked(job.claim, outcome.clone(), attempt);
        stored.await.unwrap();
        expire_lease(&store, job.claim.owner).await;
        assert_eq!(work_of(&store, "pdf").await, []);
        // Whatever its next worker serves.
        let suspect = store.suspects(&[], 9).await.unwrap();
        let owner = new_worker(&store).await;
        let job = claim(&store, owner, suspect).await.pop().unwrap();
        assert_eq!((job.attempts, job.attempts_before), (1, 1));
        assert_eq!((job.claim.id, job.worked), (id, Some(outcome)));
        store
            .settle(job.claim, None, failed_or_done(&store, id).await)
            .await
            .unwrap();
    }
}

/// The end of a job whose callback was attempt 2.
async fn failed_or_done(store: &Store, id: RequestId) -> Settlement {
    let has_result = row(store, id).await.result_payload.is_some();
    Settlement::Finish {
        attempt: Some(attempted(2, AttemptClass::Success)),
        outcome: if has_result {
            Outcome::Completed
        } else {
            Outcome::Failed(work_failed())
        },
    }
}

async fn what_came_of_the_work_is_never_replaced(database: TestDatabase) {
    let store = database.open().await;
    let large = format!("\"{}\"", "x".repeat(10_000));
    let outcomes: [Worked; 4] = [
        Ok(result(RESULT)),
        Ok(result(&large)),
        Err(work_failed()),
        Err(Failure::new(FailureReason::WorkTimedOut, "It took 30 s.")),
    ];
    for first in &outcomes {
        for second in &outcomes {
            let id = accept_of(&store, "pdf").await;
            let job = claim_work(&store, id).await;
            for worked in [first, second] {
                let stored = store.store_worked(job.claim, worked.clone(), None);
                stored.await.unwrap();
            }
            // A settlement that brings a result stores none beside it.
            let late = second.clone().ok();
            let give_back = Settlement::GiveBack;
            store.settle(job.claim, late, give_back).await.unwrap();
            let job = claim_due(&store).await.pop().unwrap();
            assert_eq!(job.worked.as_ref(), Some(first), "and not {second:?}");
            store.cancel(Scope::All, id).await.unwrap().unwrap();
        }
    }
}

async fn a_stored_failure_of_the_work_shows_once_the_request_has_failed(database: TestDatabase) {
    let store = database.open().await;
    let job = failed_work(&store).await;
    let id = job.claim.id;
    let shown = async || {
        let page = ListPage {
            filter: RequestFilter::default(),
            before: None,
            limit: 9,
        };
        let listed = store.list(Scope::All, page).await.unwrap();
        let row = row(&store, id).await;
        assert_eq!(listed.requests[0].failure, row.failure);
        assert_eq!(listed.requests[0].handler, "pdf");
        (row.status, row.failure)
    };
    assert_eq!(shown().await, (Status::Processing, None));
    let again = retry(timeout(2), Duration::ZERO);
    store.settle(job.claim, None, again).await.unwrap();
    assert_eq!(shown().await, (Status::Pending, None));
    let job = claim_due(&store).await.pop().unwrap();
    assert_eq!(job.worked, Some(Err(work_failed())));
    // Although its client could not be told: why the work failed stays the reason.
    let end = Settlement::Finish {
        attempt: Some(timeout(3)),
        outcome: failed("It timed out."),
    };
    store.settle(job.claim, None, end).await.unwrap();
    assert_eq!(shown().await, (Status::Failed, Some(work_failed())));
}

async fn what_came_of_the_work_is_stored_under_a_held_claim_only_and_can_be_repeated(
    database: TestDatabase,
) {
    let store = database.open().await;
    for outcome in [Ok(result(RESULT)), Err(work_failed())] {
        let id = accept_of(&store, "pdf").await;
        let job = claim_work(&store, id).await;
        // Number 2: the writes after it are of attempt 1.
        let attempt = worked(2, AttemptClass::Success);
        let write = || store.store_worked(job.claim, outcome.clone(), Some(attempt.clone()));
        write().await.unwrap();
        let once = (database.tables().await.rows, row(&store, id).await.attempts);
        for _ in 0..2 {
            write().await.unwrap();
            let again = (database.tables().await.rows, row(&store, id).await.attempts);
            assert_eq!(again, once);
        }
        expire_lease(&store, job.claim.owner).await;
        assert!(is_claim_lost(&write().await));
        writes_nothing(&store, job.claim, &result("7")).await;
        let job = claim_due(&store).await.pop().unwrap();
        assert_eq!(job.worked.as_ref(), Some(&outcome));
        store.cancel(Scope::All, id).await.unwrap().unwrap();
    }
}

async fn a_failure_callback_that_kills_its_workers_leaves_the_reason_of_the_work(
    database: TestDatabase,
) {
    let store = database.open().await;
    let mut job = failed_work(&store).await;
    let id = job.claim.id;
    for _ in 1..MAX_CLAIMS {
        assert_eq!(expire_lease(&store, job.claim.owner).await.reclaimed, 1);
        job = claim_due(&store).await.pop().unwrap();
    }
    assert_eq!(expire_lease(&store, job.claim.owner).await.poisoned, 1);
    let row = row(&store, id).await;
    assert_eq!(
        (row.status, row.failure),
        (Status::Failed, Some(work_failed()))
    );
    assert_eq!(redeliver(&store, id).await, Ok(()));
}
