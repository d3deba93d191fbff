//! Looking for work: which jobs are due, scheduled or parked.

use std::time::Duration;

use storm_shared::{
    models::{CallbackUrl, Origin, RequestId, Status},
    services::{
        report,
        store::{NewJob, Settlement},
    },
};

use crate::{
    database::TestDatabase,
    jobs::{
        accept, claim_due, claim_one, claimed, due_ids, due_jobs, next_millisecond, retry, row,
        spec, timeout,
    },
};

on_every_engine! {
    due_jobs_are_read_oldest_first_and_only_after_the_notification_grace,
    a_job_whose_due_time_was_edited_is_due,
    only_async_rows_are_due_and_claimable,
    a_parked_job_is_due_at_once_when_its_receiver_recovers,
    an_origin_is_over_limit_once_its_backlog_reaches_the_limit,
}

async fn due_jobs_are_read_oldest_first_and_only_after_the_notification_grace(
    database: TestDatabase,
) {
    let store = database.open().await;
    let mut accepted = Vec::new();
    for _ in 0..5 {
        accepted.push(accept(&store).await);
    }
    claim_one(&store, accepted[0]).await.unwrap();
    next_millisecond().await;
    assert_eq!(due_ids(&store, 3).await, accepted[1..4]);
    // The table leaves a new job to its notification, which claims it whenever it comes.
    let notified = RequestId::generate();
    let job = NewJob {
        notification_grace: Duration::from_hours(1),
        ..NewJob::new(notified, spec(), None)
    };
    store.accept(job).await.unwrap();
    let backlog = due_jobs(&store, 9).await;
    assert_eq!(backlog.due.len(), 4);
    assert_eq!(backlog.next_due, None);
    assert!(claim_one(&store, notified).await.is_some());
}

async fn a_job_whose_due_time_was_edited_is_due(database: TestDatabase) {
    let store = database.open().await;
    let new = accept(&store).await;
    let waits = claimed(&store).await;
    let retry = retry(timeout(1), Duration::from_hours(24));
    store.settle(waits.claim, None, retry).await.unwrap();
    assert_eq!(due_ids(&store, 9).await, [new]);
    for breakage in database.invalid_due_times() {
        for id in [waits.claim.id, new] {
            database.edit(id, breakage).await;
        }
        assert_eq!(due_ids(&store, 9).await.len(), 2, "{breakage}");
    }
    assert_eq!(claim_due(&store).await.len(), 2);
}

async fn only_async_rows_are_due_and_claimable(database: TestDatabase) {
    let store = database.open().await;
    let id = accept(&store).await;
    database.edit(id, "mode = 'sync'").await;
    next_millisecond().await;
    assert_eq!(due_jobs(&store, 9).await.due, []);
    assert!(claim_one(&store, id).await.is_none());
}

async fn a_parked_job_is_due_at_once_when_its_receiver_recovers(database: TestDatabase) {
    let store = database.open().await;
    let job = claimed(&store).await;
    let report = report::expected(&job.spec);
    let wait = Duration::from_secs(50);
    let park = Settlement::Park { wait };
    store.settle(job.claim, Some(&report), park).await.unwrap();
    let parked = row(&store, job.claim.id).await;
    assert_eq!((parked.status, parked.parks), (Status::Pending, 1));
    assert!(parked.attempts.is_empty() && parked.events.is_empty());
    assert!(parked.parked_since.is_some() && parked.result_payload.is_some());
    assert_eq!(due_jobs(&store, 9).await.due, []);

    let unpark = async |origin: &str| {
        let url = CallbackUrl::parse(origin).unwrap();
        store.unpark(url.origin().clone(), 9).await.unwrap()
    };
    assert_eq!(unpark("http://example.org").await, 0);
    assert_eq!(unpark("http://example.com").await, 1);
    assert_eq!(unpark("http://example.com").await, 0, "it is due already");
    let again = claim_due(&store).await.pop().unwrap();
    assert!(
        again.parked_for > Duration::ZERO,
        "it keeps when it was parked"
    );
    assert_eq!(again.attempts, 0);
}

async fn an_origin_is_over_limit_once_its_backlog_reaches_the_limit(database: TestDatabase) {
    let store = database.open().await;
    for backlog in 0..3 {
        let over_limit = store.origins_over_limit(2).await.unwrap();
        assert_eq!(
            over_limit.len(),
            usize::from(backlog >= 2),
            "{over_limit:?}"
        );
        let job = claimed(&store).await;
        let report = report::expected(&job.spec);
        let wait = Duration::from_secs(50);
        let park = Settlement::Park { wait };
        store.settle(job.claim, Some(&report), park).await.unwrap();
    }
    let over_limit = store.origins_over_limit(3).await.unwrap();
    let over_limit: Vec<_> = over_limit.iter().map(Origin::as_str).collect();
    assert_eq!(over_limit, ["http://example.com"]);
}
