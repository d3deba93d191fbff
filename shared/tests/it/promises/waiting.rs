//! Why an unfinished request is not done: `waiting_for`.

use std::time::Duration;

use jiff::Timestamp;
use storm_shared::{
    models::{AttemptClass, RequestId, Status, WaitReason, WaitingFor},
    services::{
        report,
        store::{Ended, Job, NewJob, Outcome, OwnerId, Settlement, Store},
    },
};

use crate::{
    database::TestDatabase,
    jobs::{
        accept, attempted, claim_due, claimed, expire_lease, failed, finish, finished, new_worker,
        redeliver, result_of, retry, row, spec, timeout,
    },
};

on_every_engine! {
    a_request_that_is_over_waits_for_nothing,
    a_new_job_waits_for_capacity,
    a_claimed_job_is_running,
    a_failed_attempt_waits_for_its_retry,
    a_parked_job_waits_for_its_receiver_until_it_is_tried_again,
    a_job_that_is_due_again_waits_for_capacity,
    a_suspect_waits_in_quarantine,
    a_job_whose_worker_is_silent_waits_for_the_lease,
    a_job_whose_worker_is_unknown_waits_for_the_lease,
    a_redelivery_waits_like_a_job,
}

/// Longer than any test takes.
const AN_HOUR: Duration = Duration::from_hours(1);

/// Heartbeats that no test lives to see grow old.
const FRESH: &str = "9999-01-01T00:00:00.000Z";

async fn waiting(store: &Store, id: RequestId) -> WaitingFor {
    row(store, id).await.waiting_for.unwrap()
}

/// The reason, of a request that has no time until which it waits.
async fn reason(store: &Store, id: RequestId) -> WaitReason {
    let waiting = waiting(store, id).await;
    assert_eq!(waiting.until, None, "{waiting:?}");
    waiting.reason
}

async fn settle(store: &Store, job: &Job, settlement: Settlement) {
    let report = result_of(job);
    store
        .settle(job.claim, Some(report.clone()), settlement)
        .await
        .unwrap();
}

/// Asserts that it waits until the time of the next attempt, which is to come.
async fn waits_for_the_next_attempt(store: &Store, id: RequestId) {
    let row = row(store, id).await;
    let until = row.waiting_for.unwrap().until;
    assert_eq!(until, row.next_attempt_at);
    let until: Timestamp = until.unwrap().parse().unwrap();
    assert!(until > Timestamp::now(), "{until}");
}

async fn a_request_that_is_over_waits_for_nothing(database: TestDatabase) {
    let store = database.open().await;
    let ended = [
        finished(&store, Outcome::Completed).await,
        finished(&store, failed("It answered 500.")).await,
    ];
    let sync = RequestId::generate();
    let done = report::expected(&spec());
    store
        .record_sync(sync, Timestamp::now(), &spec(), None, Ok(&done))
        .await
        .unwrap();
    for id in [ended[0], ended[1], sync] {
        assert_eq!(row(&store, id).await.waiting_for, None);
    }
}

async fn a_new_job_waits_for_capacity(database: TestDatabase) {
    let store = database.open().await;
    let id = accept(&store).await;
    assert_eq!(reason(&store, id).await, WaitReason::Capacity);
    // Also as long as it is left to its notification.
    let notified = NewJob {
        notification_grace: AN_HOUR,
        ..NewJob::new(RequestId::generate(), spec(), None)
    };
    let id = notified.id;
    store.accept(notified).await.unwrap();
    assert_eq!(reason(&store, id).await, WaitReason::Capacity);
}

async fn a_claimed_job_is_running(database: TestDatabase) {
    let store = database.open().await;
    let job = claimed(&store).await;
    database.set_heartbeat(job.claim.owner, FRESH).await;
    assert_eq!(reason(&store, job.claim.id).await, WaitReason::Running);
    let detail = waiting(&store, job.claim.id).await.detail;
    let named = format!("Worker {} works on the job under claim 1.", job.claim.owner);
    assert_eq!(detail, named);
}

async fn a_failed_attempt_waits_for_its_retry(database: TestDatabase) {
    let store = database.open().await;
    let job = claimed(&store).await;
    let mut attempt = timeout(1);
    attempt.error = Some("no answer within 10s".to_owned());
    settle(&store, &job, retry(attempt, AN_HOUR)).await;
    let waiting = waiting(&store, job.claim.id).await;
    assert_eq!(waiting.reason, WaitReason::Retry);
    let detail = "Attempt 1 failed (no answer within 10s): the next one is scheduled.";
    assert_eq!(waiting.detail, detail);
    waits_for_the_next_attempt(&store, job.claim.id).await;
}

async fn a_parked_job_waits_for_its_receiver_until_it_is_tried_again(database: TestDatabase) {
    let store = database.open().await;
    let job = claimed(&store).await;
    settle(&store, &job, Settlement::Park { wait: AN_HOUR }).await;
    let id = job.claim.id;
    assert_eq!(waiting(&store, id).await.reason, WaitReason::Receiver);
    waits_for_the_next_attempt(&store, id).await;
}

async fn a_job_that_is_due_again_waits_for_capacity(database: TestDatabase) {
    let store = database.open().await;
    let wait = Duration::ZERO;
    for settlement in [
        retry(timeout(1), wait),
        Settlement::Park { wait },
        Settlement::GiveBack,
    ] {
        let job = claimed(&store).await;
        settle(&store, &job, settlement).await;
        let id = job.claim.id;
        assert_eq!(reason(&store, id).await, WaitReason::Capacity);
    }
    // What an edit by hand can leave.
    for edit in database.invalid_due_times() {
        let job = claimed(&store).await;
        settle(&store, &job, Settlement::GiveBack).await;
        database.edit(job.claim.id, edit).await;
        assert_eq!(reason(&store, job.claim.id).await, WaitReason::Capacity);
    }
}

async fn a_suspect_waits_in_quarantine(database: TestDatabase) {
    let store = database.open().await;
    let job = claimed(&store).await;
    let id = job.claim.id;
    expire_lease(&store, job.claim.owner).await;
    assert_eq!(reason(&store, id).await, WaitReason::Quarantine);
    let job = claim_due(&store).await.pop().unwrap();
    database.set_heartbeat(job.claim.owner, FRESH).await;
    assert_eq!(reason(&store, id).await, WaitReason::Running);
    // An attempt with a known outcome clears it.
    settle(&store, &job, retry(timeout(1), Duration::ZERO)).await;
    assert_eq!(reason(&store, id).await, WaitReason::Capacity);
}

async fn a_job_whose_worker_is_silent_waits_for_the_lease(database: TestDatabase) {
    let store = database.open().await;
    let job = claimed(&store).await;
    database
        .set_heartbeat(job.claim.owner, "2026-01-01T00:00:00.000Z")
        .await;
    let id = job.claim.id;
    assert_eq!(reason(&store, id).await, WaitReason::Lease);
    let detail = waiting(&store, id).await.detail;
    assert!(detail.contains("2026-01-01T00:00:00.000Z"), "{detail}");
    // It was only frozen. The test may be, too: then it sends one more.
    while reason(&store, id).await != WaitReason::Running {
        store
            .renew(job.claim.owner, Ended::default())
            .await
            .unwrap();
    }
    let odd = database.odd_heartbeat();
    database.set_heartbeat(job.claim.owner, odd).await;
    assert_eq!(reason(&store, id).await, WaitReason::Running);
}

async fn a_job_whose_worker_is_unknown_waits_for_the_lease(database: TestDatabase) {
    let store = database.open().await;
    let job = claimed(&store).await;
    let id = job.claim.id;
    database.forget_workers().await;
    assert_eq!(reason(&store, id).await, WaitReason::Lease);
    // The next worker that registers takes note of it, and expires it in the end.
    let observer = new_worker(&store).await;
    let nobody = store
        .renew(observer, Ended::default())
        .await
        .unwrap()
        .others;
    assert_eq!(nobody[0].owner, job.claim.owner);
    expire_lease(&store, job.claim.owner).await;
    assert_eq!(reason(&store, id).await, WaitReason::Quarantine);
    database
        .edit(id, "owner = NULL, status = 'PROCESSING'")
        .await;
    assert_eq!(reason(&store, id).await, WaitReason::Lease);
    assert_ne!(job.claim.owner, OwnerId::NOBODY);
}

async fn a_redelivery_waits_like_a_job(database: TestDatabase) {
    let store = database.open().await;
    for outcome in [failed("It answered 500."), Outcome::Completed] {
        let id = finished(&store, outcome.clone()).await;
        redeliver(&store, id).await.unwrap();
        assert_eq!(reason(&store, id).await, WaitReason::Capacity);
        let again = claim_due(&store).await.pop().unwrap();
        database.set_heartbeat(again.claim.owner, FRESH).await;
        assert_eq!(reason(&store, id).await, WaitReason::Running);
        let detail = waiting(&store, id).await.detail;
        let named = format!("Worker {} works on the redelivery", again.claim.owner);
        assert!(detail.starts_with(&named), "{detail}");

        settle(&store, &again, retry(timeout(2), Duration::ZERO)).await;
        let again = claim_due(&store).await.pop().unwrap();
        settle(&store, &again, Settlement::Park { wait: AN_HOUR }).await;
        assert_eq!(waiting(&store, id).await.reason, WaitReason::Receiver);
        waits_for_the_next_attempt(&store, id).await;
        database.make_redelivery_due(id).await;

        let again = claim_due(&store).await.pop().unwrap();
        let last = attempted(3, AttemptClass::Success);
        finish(&store, &again, last, Outcome::Completed).await;
        let over = row(&store, id).await;
        assert_eq!((over.status, over.waiting_for), (Status::Completed, None));
    }
}
