//! Looking for work: which jobs are due, scheduled or parked.

use std::time::Duration;

use jiff::Timestamp;
use storm_shared::{
    models::{CallbackUrl, Origin, RequestId, Status},
    services::{
        report,
        store::{DueQuery, NewJob, Settlement},
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
    jobs_scheduled_before_the_clock_was_set_back_are_due_at_once,
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
    let within_grace = DueQuery {
        notification_grace: Duration::from_mins(1),
        longest_wait: Duration::ZERO,
        limit: 3,
    };
    assert_eq!(store.due_jobs(within_grace).await.unwrap().due, []);
}

async fn jobs_scheduled_before_the_clock_was_set_back_are_due_at_once(database: TestDatabase) {
    let store = database.open().await;
    let tomorrow = Timestamp::now() + Duration::from_hours(24);
    // As written before the clock was set back by a day.
    let new = RequestId::floor(tomorrow);
    store.accept(NewJob::new(new, spec(), None)).await.unwrap();
    let waits = accept(&store).await;
    let job = claim_one(&store, waits).await.unwrap();
    store
        .settle(
            job.claim,
            Some(&report::expected(&job.spec)),
            retry(timeout(1), tomorrow),
        )
        .await
        .unwrap();
    assert_eq!(due_ids(&store, 9).await, [waits, new]);
    for breakage in database.invalid_due_times() {
        for id in [waits, new] {
            database.edit(id, breakage).await;
        }
        let due = due_ids(&store, 9).await;
        assert_eq!(due.len(), 2, "an invalid time is due, too: {breakage}");
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
    let later = Timestamp::now() + Duration::from_secs(50);
    let park = Settlement::Park { due: later };
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
    assert!(again.parked_since.is_some(), "it keeps when it was parked");
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
        let later = Timestamp::now() + Duration::from_secs(50);
        let park = Settlement::Park { due: later };
        store.settle(job.claim, Some(&report), park).await.unwrap();
    }
    let over_limit = store.origins_over_limit(3).await.unwrap();
    let over_limit: Vec<_> = over_limit.iter().map(Origin::as_str).collect();
    assert_eq!(over_limit, ["http://example.com"]);
}
