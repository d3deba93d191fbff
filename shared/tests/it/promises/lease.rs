//! Leases: heartbeat, lease expiry, reclaim, and release.

use storm_shared::{
    models::{EventKind, Status},
    services::store::{Candidate, Ended, OwnerId, StoreError},
};

use crate::{
    database::TestDatabase,
    jobs::{
        MAX_CLAIMS, accept, claim_due, claim_new, delivered, due_jobs, event_kinds, expire_lease,
        fail_attempt, heartbeat_of, is_claim_lost, new_worker, result_of, row, status,
        stored_result,
    },
};

on_every_engine! {
    only_a_worker_with_a_lease_can_claim,
    lease_expiry_reclaims_the_jobs_and_fences_off_the_worker,
    a_stored_report_and_the_attempts_survive_a_worker_crash,
    a_renewed_lease_does_not_expire_and_an_expired_one_expires_once,
    a_draining_worker_releases_only_its_own_jobs_without_counting_a_lost_claim,
    jobs_of_an_unregistered_owner_are_reclaimed_after_a_lease,
    a_claim_during_an_expiry_is_reclaimed_or_refused,
}

async fn only_a_worker_with_a_lease_can_claim(database: TestDatabase) {
    let store = database.open().await;
    let id = accept(&store).await;
    let unregistered = OwnerId::generate();
    let refused = store
        .claim(unregistered, vec![Candidate::notified(id)], usize::MAX)
        .await;
    assert!(matches!(refused, Err(StoreError::LeaseLost)), "{refused:?}");
    assert!(matches!(
        store.renew(unregistered, Ended::default()).await,
        Err(StoreError::LeaseLost)
    ));
    assert_eq!(status(&store, id).await, Status::Pending);
}

async fn lease_expiry_reclaims_the_jobs_and_fences_off_the_worker(database: TestDatabase) {
    let store = database.open().await;
    let ids = [accept(&store).await, accept(&store).await];
    let dead = new_worker(&store).await;
    let jobs = claim_new(&store, dead, &ids).await;
    let expired = expire_lease(&store, dead).await;
    assert_eq!((expired.reclaimed, expired.poisoned), (2, 0));

    let again = claim_due(&store).await;
    assert_eq!(again.len(), 2);
    assert!(again.iter().all(|job| job.claim.number == 2));
    for job in &jobs {
        let report = result_of(job);
        let stored = store
            .store_worked(job.claim, Ok(report.clone()), None)
            .await;
        assert!(is_claim_lost(&stored), "{stored:?}");
        let ended = store
            .settle(job.claim, Some(report.clone()), delivered())
            .await;
        assert!(is_claim_lost(&ended), "{ended:?}");
        let row = row(&store, job.claim.id).await;
        assert_eq!((row.status, row.lost_claims), (Status::Processing, 1));
        assert_eq!(
            event_kinds(&store, job.claim.id).await,
            [EventKind::ClaimLost]
        );
    }
    let woken = store.claim(dead, vec![], usize::MAX).await;
    assert!(matches!(woken, Err(StoreError::LeaseLost)), "{woken:?}");
}

async fn a_stored_report_and_the_attempts_survive_a_worker_crash(database: TestDatabase) {
    let store = database.open().await;
    let id = accept(&store).await;
    let first = new_worker(&store).await;
    let job = claim_new(&store, first, &[id]).await.pop().unwrap();
    let report = fail_attempt(&store, &job).await;
    let second = claim_due(&store).await.pop().unwrap();
    expire_lease(&store, second.claim.owner).await;
    let third = claim_due(&store).await.pop().unwrap();
    assert_eq!((stored_result(&third), third.attempts), (Some(report), 1));
    assert_eq!(third.claim.number, 3);
    assert_eq!(
        event_kinds(&store, id).await,
        [EventKind::AttemptFailed, EventKind::ClaimLost]
    );
}

async fn a_renewed_lease_does_not_expire_and_an_expired_one_expires_once(database: TestDatabase) {
    let store = database.open().await;
    let id = accept(&store).await;
    let worker = new_worker(&store).await;
    claim_new(&store, worker, &[id]).await;
    let seen = heartbeat_of(&store, worker).await;
    store.renew(worker, Ended::default()).await.unwrap();
    assert_eq!(store.expire(seen, MAX_CLAIMS).await.unwrap(), None);
    assert_eq!(status(&store, id).await, Status::Processing);
    // Of two observers that expire it at once, exactly one reclaims the jobs.
    let seen = heartbeat_of(&store, worker).await;
    let (one, other) = tokio::join!(
        store.expire(seen, MAX_CLAIMS),
        store.expire(seen, MAX_CLAIMS)
    );
    assert!(one.unwrap().is_some() != other.unwrap().is_some());
}

async fn a_draining_worker_releases_only_its_own_jobs_without_counting_a_lost_claim(
    database: TestDatabase,
) {
    let store = database.open().await;
    let ids = [
        accept(&store).await,
        accept(&store).await,
        accept(&store).await,
    ];
    let (leaves, stays) = (new_worker(&store).await, new_worker(&store).await);
    let left = claim_new(&store, leaves, &ids[..2]).await;
    claim_new(&store, stays, &ids[2..]).await;
    store
        .settle(left[0].claim, None, delivered())
        .await
        .unwrap();
    assert_eq!(store.deregister(leaves).await.unwrap(), 1);
    let mut statuses = Vec::new();
    for id in ids {
        statuses.push(status(&store, id).await);
    }
    assert_eq!(
        statuses,
        [Status::Completed, Status::Pending, Status::Processing]
    );
    // Due at once, regardless of the notification grace.
    let due = due_jobs(&store, 9).await.due;
    assert_eq!(due.len(), 1);
    assert_eq!((due[0].id, due[0].lost_claims), (ids[1], 0));
    assert_eq!(event_kinds(&store, ids[1]).await, [EventKind::GivenBack]);
    let others = store.renew(stays, Ended::default()).await.unwrap().others;
    assert_eq!(others, [], "the worker is no longer registered");
}

async fn jobs_of_an_unregistered_owner_are_reclaimed_after_a_lease(database: TestDatabase) {
    let store = database.open().await;
    let (ids, gone) = (
        [accept(&store).await, accept(&store).await],
        new_worker(&store).await,
    );
    claim_new(&store, gone, &ids).await;
    database.forget_workers().await;
    database.edit(ids[1], "owner = NULL").await;
    let observer = new_worker(&store).await;
    let others = store
        .renew(observer, Ended::default())
        .await
        .unwrap()
        .others;
    assert_eq!(others.len(), 2, "{others:?}");
    assert!(others.iter().any(|it| it.owner == OwnerId::NOBODY));
    for other in others {
        let expired = store.expire(other, MAX_CLAIMS).await.unwrap().unwrap();
        assert_eq!(expired.reclaimed, 1);
    }
    assert_eq!(claim_due(&store).await.len(), 2);
}

async fn a_claim_during_an_expiry_is_reclaimed_or_refused(database: TestDatabase) {
    let (one, other) = (database.open().await, database.open().await);
    for _ in 0..30 {
        let id = accept(&one).await;
        let worker = new_worker(&one).await;
        let seen = heartbeat_of(&one, worker).await;
        let candidates = vec![Candidate::notified(id)];
        let (claimed, expired) = tokio::join!(
            one.claim(worker, candidates, usize::MAX),
            other.expire(seen, MAX_CLAIMS)
        );
        let won = match claimed {
            Ok(claimed) => claimed.jobs.len(),
            Err(StoreError::LeaseLost) => 0,
            Err(error) => panic!("{error}"),
        };
        assert_eq!(expired.unwrap().unwrap().reclaimed, won);
        assert_eq!(status(&one, id).await, Status::Pending);
    }
}
