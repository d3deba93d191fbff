//! Redelivery: a new series of attempts for a finished request.

use std::time::Duration;

use jiff::Timestamp;
use storm_shared::{
    models::{AttemptClass, RequestId, Status},
    services::{
        report,
        store::{Outcome, Redeliverable, RedeliveryPage, Scope, Settlement, Unredeliverable},
    },
};

use crate::{
    database::TestDatabase,
    jobs::{
        accept, attempted, claim_due, claimed, expire_lease, failed, finish, finished, redeliver,
        retry, row, spec, timeout,
    },
};

on_every_engine! {
    a_redelivered_failed_request_gets_a_new_series_and_completes,
    a_failed_redelivery_leaves_a_completed_request_unchanged,
    a_failed_redelivery_of_a_failed_request_replaces_its_failure,
    a_redelivery_survives_release_and_lease_expiry_and_keeps_its_series,
    only_a_finished_request_with_a_result_and_a_callback_is_redeliverable,
    keyset_pages_return_every_request_once_in_order,
    a_cursor_never_reveals_another_tenants_request_id,
}

async fn a_redelivered_failed_request_gets_a_new_series_and_completes(database: TestDatabase) {
    let store = database.open().await;
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

async fn a_failed_redelivery_leaves_a_completed_request_unchanged(database: TestDatabase) {
    let store = database.open().await;
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

async fn a_failed_redelivery_of_a_failed_request_replaces_its_failure(database: TestDatabase) {
    let store = database.open().await;
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

async fn a_redelivery_survives_release_and_lease_expiry_and_keeps_its_series(
    database: TestDatabase,
) {
    let store = database.open().await;
    let id = finished(&store, Outcome::Completed).await;
    redeliver(&store, id).await.unwrap();
    let job = claim_due(&store).await.pop().unwrap();
    let report = report::expected(&job.spec);
    let failed = retry(timeout(2), Duration::ZERO);
    let settled = store.settle(job.claim, Some(&report), failed);
    settled.await.unwrap();
    assert_eq!(row(&store, id).await.status, Status::Completed);

    let second = claim_due(&store).await.pop().unwrap();
    assert_eq!((second.attempts, second.attempts_before), (2, 1));
    assert_eq!(store.deregister(second.claim.owner).await.unwrap(), 1);
    let third = claim_due(&store).await.pop().unwrap();
    let expired = expire_lease(&store, third.claim.owner).await;
    assert_eq!((expired.reclaimed, expired.poisoned), (1, 0));
    let waits = row(&store, id).await;
    assert_eq!(
        (waits.status, waits.redelivery),
        (Status::Completed, Some(Status::Pending))
    );
    assert_eq!(claim_due(&store).await.len(), 1);
}

async fn only_a_finished_request_with_a_result_and_a_callback_is_redeliverable(
    database: TestDatabase,
) {
    let store = database.open().await;
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
    let without_result = Settlement::Finish {
        attempt: None,
        outcome: failed("It broke."),
    };
    let settled = store.settle(held.claim, None, without_result);
    settled.await.unwrap();
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

async fn keyset_pages_return_every_request_once_in_order(database: TestDatabase) {
    let store = database.open().await;
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
                .all(|(_, origin)| origin.as_str() == "http://example.com")
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

async fn a_cursor_never_reveals_another_tenants_request_id(database: TestDatabase) {
    let store = database.open().await;
    for _ in 0..2 {
        finished(&store, Outcome::Completed).await;
    }
    // More rows than one page scans.
    database.add_completed("one", 3000).await;
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
        assert!(!database.contains(next).await, "{next}");
        after = Some(next);
    }
    assert_eq!(pages, 2);
}
