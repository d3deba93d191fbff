//! Cancelling, and what the worker of the job learns of it.

use std::time::Duration;

use serde_json::{Value, json};
use storm_shared::{
    models::{AttemptClass, FailureReason, RequestId, Status},
    services::store::{
        Cancelled, CancelledClaim, CancelledWork, Ended, NewJob, Outcome, RedeliveryPage, Scope,
        Settlement, Store, Uncancellable,
    },
};

use crate::{
    database::TestDatabase,
    jobs::{
        accept, attempted, claim_due, claim_one, claimed, delivered, due_jobs, expire_lease,
        failed, finish, finished, is_claim_lost, redeliver, result_of, retry, row, spec, timeout,
        writes_nothing,
    },
};

on_every_engine! {
    a_waiting_job_ends_and_is_never_claimed,
    a_running_job_ends_and_its_worker_writes_nothing_more,
    the_heartbeat_of_the_worker_names_a_cancelled_claim_for_a_while,
    the_next_worker_under_the_same_lease_row_hears_nothing_of_it,
    a_job_between_two_attempts_or_parked_leaves_the_backlog,
    a_suspected_poison_job_can_be_cancelled,
    a_redelivery_whose_worker_was_lost_can_be_cancelled,
    a_cancelled_job_is_redelivered_only_by_its_own_id,
    a_repeat_gives_the_same_answer_and_changes_nothing,
    what_is_over_or_of_another_tenant_can_not_be_cancelled,
    a_cancelled_redelivery_leaves_the_outcome_and_counts_on,
}

async fn cancel_of(
    store: &Store,
    id: RequestId,
) -> Result<(CancelledWork, Status, bool), Uncancellable> {
    let cancelled = store.cancel(Scope::All, id).await.unwrap();
    cancelled.map(|it| (it.what, it.status, it.may_arrive))
}

/// The request as its client sees it, to be compared.
async fn shown(store: &Store, id: RequestId) -> Value {
    serde_json::to_value(row(store, id).await).unwrap()
}

const WAITED: Result<(CancelledWork, Status, bool), Uncancellable> =
    Ok((CancelledWork::Job, Status::Failed, false));

const RAN: Result<(CancelledWork, Status, bool), Uncancellable> =
    Ok((CancelledWork::Job, Status::Failed, true));

async fn a_waiting_job_ends_and_is_never_claimed(database: TestDatabase) {
    let store = database.open().await;
    let id = accept(&store).await;
    assert_eq!(cancel_of(&store, id).await, WAITED);
    let row = row(&store, id).await;
    assert_eq!(row.status, Status::Failed);
    assert_eq!(row.failure.unwrap().reason, FailureReason::Cancelled);
    assert!(row.completed_at.unwrap() >= row.created_at);
    assert_eq!(row.claims, 1, "a new claim number");
    assert_eq!(due_jobs(&store, 9).await.due, []);
    assert!(claim_one(&store, id).await.is_none(), "a late notification");
}

async fn a_running_job_ends_and_its_worker_writes_nothing_more(database: TestDatabase) {
    let store = database.open().await;
    let job = claimed(&store).await;
    assert_eq!(cancel_of(&store, job.claim.id).await, RAN);
    let before = shown(&store, job.claim.id).await;
    assert_eq!(
        (&before["status"], &before["claims"]),
        (&json!("FAILED"), &json!(2))
    );
    let report = result_of(&job);
    writes_nothing(&store, job.claim, &report).await;
    assert_eq!(expire_lease(&store, job.claim.owner).await.reclaimed, 0);
    assert_eq!(shown(&store, job.claim.id).await, before);
}

async fn the_heartbeat_of_the_worker_names_a_cancelled_claim_for_a_while(database: TestDatabase) {
    let store = database.open().await;
    let (job, other) = (claimed(&store).await, claimed(&store).await);
    assert_eq!(cancel_of(&store, job.claim.id).await, RAN);
    let expected = [CancelledClaim {
        id: job.claim.id,
        number: 1,
    }];
    // An answer can be lost: the next heartbeats name it, too.
    let mut heartbeats = 0;
    while !store
        .renew(job.claim.owner, Ended::default())
        .await
        .unwrap()
        .cancelled
        .is_empty()
    {
        heartbeats += 1;
        assert!(heartbeats < 100, "it is forgotten at last");
    }
    assert!(heartbeats > 1, "{heartbeats}");
    assert_eq!(
        store
            .renew(other.claim.owner, Ended::default())
            .await
            .unwrap()
            .cancelled,
        []
    );
    assert_eq!(cancel_of(&store, other.claim.id).await, RAN);
    let named = store
        .renew(other.claim.owner, Ended::default())
        .await
        .unwrap()
        .cancelled;
    assert_eq!(named[0].id, other.claim.id);
    assert_ne!(named, expected);
}

async fn the_next_worker_under_the_same_lease_row_hears_nothing_of_it(database: TestDatabase) {
    let store = database.open().await;
    let (left, died) = (claimed(&store).await, claimed(&store).await);
    for job in [&left, &died] {
        assert_eq!(cancel_of(&store, job.claim.id).await, RAN);
    }
    store.deregister(left.claim.owner).await.unwrap();
    expire_lease(&store, died.claim.owner).await;
    for job in [left, died] {
        store.register(job.claim.owner, &[]).await.unwrap();
        assert_eq!(
            store
                .renew(job.claim.owner, Ended::default())
                .await
                .unwrap()
                .cancelled,
            []
        );
    }
}

async fn a_job_between_two_attempts_or_parked_leaves_the_backlog(database: TestDatabase) {
    let store = database.open().await;
    let wait = Duration::from_hours(1);
    for settlement in [retry(timeout(1), wait), Settlement::Park { wait }] {
        let job = claimed(&store).await;
        let settled = store.settle(job.claim, None, settlement);
        settled.await.unwrap();
        assert_eq!(store.destinations_over_limit(1).await.unwrap().len(), 1);
        assert_eq!(cancel_of(&store, job.claim.id).await, WAITED);
        let row = row(&store, job.claim.id).await;
        assert_eq!((row.next_attempt_at, row.parked_since), (None, None));
        assert_eq!(store.destinations_over_limit(1).await.unwrap(), []);
        assert_eq!(due_jobs(&store, 9).await.next_due, None);
    }
}

async fn a_suspected_poison_job_can_be_cancelled(database: TestDatabase) {
    let store = database.open().await;
    let job = claimed(&store).await;
    expire_lease(&store, job.claim.owner).await;
    assert_eq!(store.suspects(&[], 9).await.unwrap().len(), 1);
    // The worker that has lost it may still be about to call.
    assert_eq!(cancel_of(&store, job.claim.id).await, RAN);
    assert_eq!(store.suspects(&[], 9).await.unwrap(), []);
}

async fn a_redelivery_whose_worker_was_lost_can_be_cancelled(database: TestDatabase) {
    let store = database.open().await;
    let id = finished(&store, Outcome::Completed).await;
    redeliver(&store, id).await.unwrap();
    let job = claim_due(&store).await.pop().unwrap();
    expire_lease(&store, job.claim.owner).await;
    // The worker that has lost it may still be about to call.
    let may_arrive = (CancelledWork::Redelivery, Status::Completed, true);
    assert_eq!(cancel_of(&store, id).await, Ok(may_arrive));
    assert_eq!(store.suspects(&[], 9).await.unwrap(), []);
}

async fn a_cancelled_job_is_redelivered_only_by_its_own_id(database: TestDatabase) {
    let store = database.open().await;
    let job = claimed(&store).await;
    let (id, report) = (job.claim.id, result_of(&job));
    let wait = Duration::from_hours(1);
    let parked = store.settle(job.claim, Some(report.clone()), Settlement::Park { wait });
    parked.await.unwrap();
    assert_eq!(cancel_of(&store, id).await, WAITED);
    let page = RedeliveryPage {
        status: Status::Failed,
        since: None,
        after: None,
        limit: 10,
    };
    let found = store.redeliverable(Scope::All, page).await.unwrap();
    assert_eq!(found.requests, []);
    assert_eq!(store.redeliver_all(Scope::All, vec![id]).await.unwrap(), 0);
    redeliver(&store, id).await.unwrap();
    assert_eq!(claim_due(&store).await.len(), 1);
}

async fn a_repeat_gives_the_same_answer_and_changes_nothing(database: TestDatabase) {
    let store = database.open().await;
    let (waits, runs) = (accept(&store).await, claimed(&store).await.claim.id);
    for (id, answer) in [(waits, WAITED), (runs, RAN)] {
        let first = store.cancel(Scope::All, id).await.unwrap().unwrap();
        assert!(first.is_new);
        let before = shown(&store, id).await;
        assert_eq!(cancel_of(&store, id).await, answer);
        let repeat = store.cancel(Scope::All, id).await.unwrap().unwrap();
        let expected = Cancelled {
            is_new: false,
            ..first
        };
        assert_eq!(repeat, expected);
        assert_eq!(shown(&store, id).await, before);
    }
}

async fn what_is_over_or_of_another_tenant_can_not_be_cancelled(database: TestDatabase) {
    let store = database.open().await;
    for (outcome, status) in [
        (Outcome::Completed, Status::Completed),
        (failed("It answered 500."), Status::Failed),
    ] {
        let id = finished(&store, outcome).await;
        let before = shown(&store, id).await;
        let refused = store.cancel(Scope::All, id).await.unwrap();
        assert_eq!(refused, Err(Uncancellable::Over(status)));
        assert_eq!(shown(&store, id).await, before);
    }
    let unknown = store.cancel(Scope::All, RequestId::generate()).await;
    assert_eq!(unknown.unwrap(), Err(Uncancellable::Unknown));

    let id = RequestId::generate();
    let job = NewJob {
        created_by: Some("theirs".parse().unwrap()),
        ..NewJob::new(id, spec(), None)
    };
    store.accept(job).await.unwrap();
    let of = |name: &str| Scope::Of(name.parse().unwrap());
    let refused = store.cancel(of("mine"), id).await.unwrap();
    assert_eq!(refused, Err(Uncancellable::Unknown));
    assert_eq!(row(&store, id).await.status, Status::Pending);
    store.cancel(of("theirs"), id).await.unwrap().unwrap();
    assert_eq!(row(&store, id).await.status, Status::Failed);
}

async fn a_cancelled_redelivery_leaves_the_outcome_and_counts_on(database: TestDatabase) {
    let store = database.open().await;
    for (outcome, status) in [
        (Outcome::Completed, Status::Completed),
        (failed("It answered 500."), Status::Failed),
    ] {
        let id = finished(&store, outcome).await;
        let before = row(&store, id).await;
        for is_running in [false, true] {
            redeliver(&store, id).await.unwrap();
            let running = if is_running {
                claim_due(&store).await.pop()
            } else {
                None
            };
            let cancelled = cancel_of(&store, id).await;
            assert_eq!(
                cancelled,
                Ok((CancelledWork::Redelivery, status, is_running))
            );
            if let Some(job) = running {
                let settled = store.settle(job.claim, None, delivered()).await;
                assert!(is_claim_lost(&settled), "{settled:?}");
                let named = store
                    .renew(job.claim.owner, Ended::default())
                    .await
                    .unwrap()
                    .cancelled;
                assert_eq!(named[0].number, job.claim.number);
            }
            let after = row(&store, id).await;
            assert!(after.claims > before.claims);
            assert_eq!((after.status, after.redelivery), (status, None));
            assert_eq!(after.failure, before.failure);
            assert_eq!(after.completed_at, before.completed_at);
            let again = store.cancel(Scope::All, id).await.unwrap();
            assert_eq!(again, Err(Uncancellable::Over(status)));
        }
        // The next one is not held up, and no earlier claim writes to it.
        redeliver(&store, id).await.unwrap();
        let job = claim_due(&store).await.pop().unwrap();
        assert_eq!(job.attempts, 1);
        let last = attempted(2, AttemptClass::Success);
        finish(&store, &job, last, Outcome::Completed).await;
        assert_eq!(row(&store, id).await.status, Status::Completed);
        assert!(claim_one(&store, id).await.is_none());
    }
}
