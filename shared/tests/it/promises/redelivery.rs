//! Redelivery: a new series of attempts for a finished request.

use std::time::Duration;

use jiff::Timestamp;
use storm_shared::{
    models::{AttemptClass, FailureReason, RequestId, Status},
    services::store::{
        Claim, Outcome, Redeliverable, RedeliveryPage, Scope, Settlement, Store, StoreError,
        Unredeliverable, Work,
    },
};

use crate::{
    database::TestDatabase,
    jobs::{
        MAX_CLAIMS, accept, attempted, claim_due, claimed, expire_lease, failed, finish, finished,
        redeliver, result_of, retry, row, stored_result, timeout,
    },
};

on_every_engine! {
    a_redelivered_failed_request_gets_a_new_series_and_completes,
    a_failed_redelivery_leaves_a_completed_request_unchanged,
    a_failed_redelivery_of_a_failed_request_replaces_its_failure,
    a_redelivery_survives_release_and_lease_expiry_and_keeps_its_series,
    claims_count_on_and_one_of_the_job_writes_nothing_to_its_redelivery,
    the_end_of_a_redelivery_can_be_repeated,
    a_redelivery_that_kills_its_workers_ends_as_poison_and_changes_no_completed_request,
    a_worker_that_holds_a_job_and_a_redelivery_holds_neither_alone,
    only_a_finished_request_with_a_result_and_a_callback_is_redeliverable,
    keyset_pages_return_every_request_once_in_order,
    a_page_of_one_tenant_reads_no_row_of_another,
    pages_of_all_tenants_are_in_the_order_of_ids,
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
    assert_eq!(stored_result(&job), Some(result_of(&job)));
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
    let report = result_of(&job);
    let failed = retry(timeout(2), Duration::ZERO);
    let settled = store.settle(job.claim, Some(report.clone()), failed);
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

async fn claims_count_on_and_one_of_the_job_writes_nothing_to_its_redelivery(
    database: TestDatabase,
) {
    let store = database.open().await;
    let first = claimed(&store).await;
    finish(&store, &first, timeout(1), failed("It timed out.")).await;
    let id = first.claim.id;
    redeliver(&store, id).await.unwrap();
    let again = claim_due(&store).await.pop().unwrap();
    let (job, redelivery) = (first.claim, again.claim);
    assert_eq!((job.work, redelivery.work), (Work::Job, Work::Redelivery));
    assert_eq!((job.number, redelivery.number), (1, 2));
    assert_eq!(row(&store, id).await.claims, 2);

    // Also one that has the redelivery's number, and the other way round.
    let wait = Duration::ZERO;
    for claim in [
        job,
        Claim {
            work: Work::Job,
            ..redelivery
        },
        Claim {
            work: Work::Redelivery,
            ..job
        },
    ] {
        for settlement in [
            retry(timeout(2), wait),
            Settlement::Park { wait },
            Settlement::GiveBack,
        ] {
            let settled = store.settle(claim, None, settlement).await;
            assert!(matches!(settled, Err(StoreError::ClaimLost)), "{claim:?}");
        }
    }
    assert_eq!(row(&store, id).await.redelivery, Some(Status::Processing));
    let parked = store.settle(redelivery, None, Settlement::Park { wait });
    parked.await.unwrap();
    let third = claim_due(&store).await.pop().unwrap();
    let success = attempted(2, AttemptClass::Success);
    finish(&store, &third, success, Outcome::Completed).await;
    let ended = row(&store, id).await;
    assert_eq!((ended.claims, ended.parks), (3, 1));
}

async fn the_end_of_a_redelivery_can_be_repeated(database: TestDatabase) {
    let store = database.open().await;
    let outcomes = [Outcome::Completed, failed("It answered 500.")];
    for (before, now) in outcomes
        .iter()
        .flat_map(|it| outcomes.iter().map(move |now| (it, now)))
    {
        for attempt in [None, Some(timeout(2))] {
            let id = finished(&store, before.clone()).await;
            redeliver(&store, id).await.unwrap();
            let job = claim_due(&store).await.pop().unwrap();
            let end = Settlement::Finish {
                attempt,
                outcome: now.clone(),
            };
            store.settle(job.claim, None, end.clone()).await.unwrap();
            let ended = row(&store, id).await;
            store.settle(job.claim, None, end.clone()).await.unwrap();
            assert_eq!(row(&store, id).await.attempts.len(), ended.attempts.len());
            // Nor while the next one waits.
            redeliver(&store, id).await.unwrap();
            store.settle(job.claim, None, end).await.unwrap();
            let waits = row(&store, id).await;
            assert_eq!(
                (waits.status, waits.redelivery),
                (ended.status, Some(Status::Pending))
            );
            let next = claim_due(&store).await.pop().unwrap();
            let success = attempted(job.attempts + 2, AttemptClass::Success);
            finish(&store, &next, success, Outcome::Completed).await;
        }
    }
}

async fn a_redelivery_that_kills_its_workers_ends_as_poison_and_changes_no_completed_request(
    database: TestDatabase,
) {
    let store = database.open().await;
    for outcome in [Outcome::Completed, failed("It answered 500.")] {
        let id = finished(&store, outcome.clone()).await;
        let before = row(&store, id).await;
        redeliver(&store, id).await.unwrap();
        let mut held = None;
        for lost in 1..=MAX_CLAIMS {
            let job = claim_due(&store).await.pop().unwrap();
            held = Some(job.claim);
            let expired = expire_lease(&store, job.claim.owner).await;
            assert_eq!(expired.poisoned, usize::from(lost == MAX_CLAIMS));
        }
        let after = row(&store, id).await;
        assert_eq!((after.status, after.redelivery), (before.status, None));
        assert_eq!(
            (after.completed_at, after.claims),
            (before.completed_at, 1 + MAX_CLAIMS)
        );
        let reason = after.failure.map(|failure| failure.reason);
        let poison = (outcome != Outcome::Completed).then_some(FailureReason::Poison);
        assert_eq!(reason, poison);
        // The worker that it killed has not ended it.
        let end = Settlement::Finish {
            attempt: None,
            outcome: Outcome::Completed,
        };
        let late = store.settle(held.unwrap(), None, end).await;
        assert!(matches!(late, Err(StoreError::ClaimLost)));
        assert!(claim_due(&store).await.is_empty());
    }
}

async fn a_worker_that_holds_a_job_and_a_redelivery_holds_neither_alone(database: TestDatabase) {
    let store = database.open().await;
    let again = finished(&store, Outcome::Completed).await;
    redeliver(&store, again).await.unwrap();
    accept(&store).await;
    // More often than makes one of them poison.
    for _ in 0..MAX_CLAIMS + 2 {
        let jobs = claim_due(&store).await;
        assert_eq!(jobs.len(), 2);
        let expired = expire_lease(&store, jobs[0].claim.owner).await;
        assert_eq!((expired.reclaimed, expired.poisoned), (2, 0));
    }
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

/// The ids on each page of the completed requests within `scope`.
async fn completed_pages(store: &Store, scope: Scope, limit: usize) -> Vec<Vec<RequestId>> {
    let (mut after, mut pages) = (None, Vec::new());
    loop {
        let page = RedeliveryPage {
            status: Status::Completed,
            since: None,
            after,
            limit,
        };
        let found = store.redeliverable(scope.clone(), page).await.unwrap();
        pages.push(found.requests.into_iter().map(|(id, _)| id).collect());
        after = found.next;
        if after.is_none() {
            return pages;
        }
    }
}

async fn a_page_of_one_tenant_reads_no_row_of_another(database: TestDatabase) {
    let store = database.open().await;
    let mut own = Vec::new();
    for client in ["one", "two", "one"] {
        let id = finished(&store, Outcome::Completed).await;
        database.edit(id, &format!("created_by = '{client}'")).await;
        if client == "one" {
            own.push(id);
        }
    }
    // More rows than one page scans, and greater ids.
    database.add_completed("two", 3000).await;
    let pages = |client: &str, limit| {
        let scope = Scope::Of(client.parse().unwrap());
        completed_pages(&store, scope, limit)
    };
    assert_eq!(pages("one", 1).await, [[own[0]], [own[1]]]);
    assert_eq!(pages("one", 9).await, [&own[..]]);
    assert_eq!(pages("nobody", 9).await, [[]]);
}

async fn pages_of_all_tenants_are_in_the_order_of_ids(database: TestDatabase) {
    let store = database.open().await;
    let mut all = Vec::new();
    for client in 0..60 {
        let id = finished(&store, Outcome::Completed).await;
        if client % 3 > 0 {
            let client = format!("created_by = 'client-{}'", client % 3);
            database.edit(id, &client).await;
        }
        all.push(id);
    }
    for limit in [1, 7, 59, 60, 100] {
        let pages = completed_pages(&store, Scope::All, limit).await;
        assert!(pages.iter().all(|page| page.len() <= limit));
        let found = pages.concat();
        assert_eq!(found, all, "{limit}");
    }
}
