//! Sending the callback of a job whose work failed again.

use storm_shared::{
    models::{AttemptClass, FailureReason, Status},
    services::store::{
        BulkAction, NewJob, Outcome, RedeliveryPage, Scope, Selection, SelectionPage, Settlement,
        Unredeliverable, Work,
    },
};

use super::{claim_work, failed_work, job_of, store_job, told_of_failed_work, work_failed, worked};
use crate::{
    database::TestDatabase,
    jobs::{attempted, claim_due, failed, redeliver, row, timeout},
};

on_every_engine! {
    the_callback_of_a_job_whose_work_failed_can_be_sent_again,
    a_redelivery_that_fails_leaves_the_reason_of_the_work,
    an_erased_failure_of_the_work_is_not_redelivered,
    many_callbacks_of_failed_work_are_sent_again_at_once,
}

async fn the_callback_of_a_job_whose_work_failed_can_be_sent_again(database: TestDatabase) {
    let store = database.open().await;
    let id = told_of_failed_work(&store).await;
    assert_eq!(redeliver(&store, id).await, Ok(()));
    assert_eq!(row(&store, id).await.failure, Some(work_failed()));
    let job = claim_due(&store).await.pop().unwrap();
    assert_eq!(job.claim.work, Work::Redelivery);
    assert_eq!(job.worked, Some(Err(work_failed())));
    assert_eq!((job.attempts, job.attempts_before), (2, 2));
    let told = Settlement::Finish {
        attempt: Some(attempted(3, AttemptClass::Success)),
        outcome: Outcome::Failed(work_failed()),
    };
    store.settle(job.claim, None, told).await.unwrap();
    let row = row(&store, id).await;
    assert_eq!(
        (row.status, row.failure),
        (Status::Failed, Some(work_failed()))
    );
    assert_eq!((row.attempts.len(), row.redelivery), (3, None));

    // Without a callback there is nobody to tell.
    let silent = NewJob {
        callback: None,
        ..job_of("pdf", "{}")
    };
    let id = store_job(&store, silent).await;
    let job = claim_work(&store, id).await;
    let end = Settlement::Finish {
        attempt: Some(worked(1, AttemptClass::Status)),
        outcome: Outcome::Failed(work_failed()),
    };
    store.settle(job.claim, None, end).await.unwrap();
    assert_eq!(redeliver(&store, id).await, Err(Unredeliverable::Nothing));
}

async fn a_redelivery_that_fails_leaves_the_reason_of_the_work(database: TestDatabase) {
    let store = database.open().await;
    let id = told_of_failed_work(&store).await;
    redeliver(&store, id).await.unwrap();
    let job = claim_due(&store).await.pop().unwrap();
    let end = Settlement::Finish {
        attempt: Some(timeout(3)),
        outcome: failed("It timed out."),
    };
    store.settle(job.claim, None, end).await.unwrap();
    let row = row(&store, id).await;
    assert_eq!(
        (row.status, row.failure),
        (Status::Failed, Some(work_failed()))
    );
}

async fn an_erased_failure_of_the_work_is_not_redelivered(database: TestDatabase) {
    let store = database.open().await;
    let id = told_of_failed_work(&store).await;
    store.erase(Scope::All, id).await.unwrap().unwrap();
    assert_eq!(redeliver(&store, id).await, Err(Unredeliverable::Erased));
    let failure = row(&store, id).await.failure.unwrap();
    assert_eq!(failure.reason, FailureReason::WorkFailed);
    assert!(!failure.detail.contains("422"), "{failure:?}");
}

async fn many_callbacks_of_failed_work_are_sent_again_at_once(database: TestDatabase) {
    let store = database.open().await;
    let failed = told_of_failed_work(&store).await;
    let under_way = failed_work(&store).await.claim.id;
    let page = RedeliveryPage {
        status: Status::Failed,
        since: None,
        after: None,
        limit: 9,
    };
    let found = store.redeliverable(Scope::All, page).await.unwrap();
    let ids: Vec<_> = found.requests.into_iter().map(|(id, _)| id).collect();
    assert_eq!(ids, [failed]);
    let selected = async |action| {
        let page = SelectionPage {
            action,
            selection: Selection {
                reason: Some(FailureReason::WorkFailed),
                ..Selection::default()
            },
            after: None,
            limit: 9,
        };
        store.select(page).await.unwrap().requests.len()
    };
    assert_eq!(selected(BulkAction::Redeliver).await, 1);
    // One whose client is still to be told has not failed yet.
    assert_eq!(selected(BulkAction::Cancel).await, 0);
    let begun = store.redeliver_all(Scope::All, vec![failed, under_way]);
    assert_eq!(begun.await.unwrap(), 1);
    assert_eq!(row(&store, failed).await.redelivery, Some(Status::Pending));
}
