//! Leases: heartbeat, lease expiry, reclaim, and poison jobs.

use std::time::Duration;

use storm_shared::{
    models::{EventKind, FailureReason, RequestId, Status},
    services::{
        report,
        store::{
            Candidate, Expired, Heartbeat, Job, Outcome, OwnerId, Store, StoreError,
            quarantine_threshold,
        },
    },
};

use crate::store::{
    accept, claim_due, direct, due_jobs, event_kinds, fail_attempt, new_store, new_worker, status,
    success,
};

const MAX_CLAIMS: u32 = 5;

async fn claim(store: &Store, owner: OwnerId, ids: &[RequestId]) -> Vec<Job> {
    let notified = ids.iter().copied().map(Candidate::notified).collect();
    store.claim(owner, notified).await.unwrap()
}

/// The heartbeat of `owner` as another worker reads it.
async fn heartbeat_of(store: &Store, owner: OwnerId) -> Heartbeat {
    let observer = new_worker(store).await;
    let others = store.renew(observer).await.unwrap();
    store.deregister(observer).await.unwrap();
    let owner = owner.to_string();
    others.into_iter().find(|it| it.owner == owner).unwrap()
}

/// Expires the lease of `owner`, as after its death.
async fn expire_lease(store: &Store, owner: OwnerId) -> Expired {
    let seen = heartbeat_of(store, owner).await;
    store.expire(seen, MAX_CLAIMS).await.unwrap().unwrap()
}

#[tokio::test]
async fn only_a_worker_with_a_lease_can_claim() {
    let (store, _folder) = new_store().await;
    let id = accept(&store).await;
    let unregistered = OwnerId::generate();
    let refused = store
        .claim(unregistered, vec![Candidate::notified(id)])
        .await;
    assert!(matches!(refused, Err(StoreError::LeaseLost)), "{refused:?}");
    assert!(matches!(
        store.renew(unregistered).await,
        Err(StoreError::LeaseLost)
    ));
    assert_eq!(status(&store, id).await, Status::Pending);
}

#[tokio::test]
async fn lease_expiry_reclaims_the_jobs_and_fences_off_the_worker() {
    let (store, _folder) = new_store().await;
    let ids = [accept(&store).await, accept(&store).await];
    let dead = new_worker(&store).await;
    let jobs = claim(&store, dead, &ids).await;
    let expired = expire_lease(&store, dead).await;
    assert_eq!((expired.reclaimed, expired.poisoned), (2, 0));

    let again = claim_due(&store).await;
    assert_eq!(again.len(), 2);
    assert!(again.iter().all(|job| job.claim.number == 2));
    for job in &jobs {
        let report = report::expected(&job.spec);
        let stored = store.store_result(job.claim, &report).await;
        assert!(matches!(stored, Err(StoreError::ClaimLost)), "{stored:?}");
        let ended = store
            .finalise(
                job.claim,
                Some(&report),
                Some(success()),
                Outcome::Completed,
            )
            .await;
        assert!(matches!(ended, Err(StoreError::ClaimLost)), "{ended:?}");
        let row = store.find(job.claim.id).await.unwrap().unwrap();
        assert_eq!((row.status, row.lost_claims), (Status::Processing, 1));
        assert_eq!(
            event_kinds(&store, job.claim.id).await,
            [EventKind::ClaimLost]
        );
    }
    let woken = store.claim(dead, vec![]).await;
    assert!(matches!(woken, Err(StoreError::LeaseLost)), "{woken:?}");
}

#[tokio::test]
async fn a_stored_report_and_the_attempts_survive_a_worker_crash() {
    let (store, _folder) = new_store().await;
    let id = accept(&store).await;
    let first = new_worker(&store).await;
    let job = claim(&store, first, &[id]).await.pop().unwrap();
    let report = fail_attempt(&store, &job).await;
    let second = claim_due(&store).await.pop().unwrap();
    expire_lease(&store, second.claim.owner).await;
    let third = claim_due(&store).await.pop().unwrap();
    assert_eq!((third.report, third.attempts), (Some(report), 1));
    assert_eq!(third.claim.number, 3);
    assert_eq!(
        event_kinds(&store, id).await,
        [EventKind::AttemptFailed, EventKind::ClaimLost]
    );
}

#[tokio::test]
async fn a_renewed_lease_does_not_expire_and_an_expired_one_expires_once() {
    let (store, _folder) = new_store().await;
    let id = accept(&store).await;
    let worker = new_worker(&store).await;
    claim(&store, worker, &[id]).await;
    let seen = heartbeat_of(&store, worker).await;
    store.renew(worker).await.unwrap();
    assert_eq!(store.expire(seen.clone(), MAX_CLAIMS).await.unwrap(), None);
    assert_eq!(status(&store, id).await, Status::Processing);
    // Of two observers that expire it at once, exactly one reclaims the jobs.
    let seen = heartbeat_of(&store, worker).await;
    let (one, other) = tokio::join!(
        store.expire(seen.clone(), MAX_CLAIMS),
        store.expire(seen.clone(), MAX_CLAIMS)
    );
    assert!(one.unwrap().is_some() != other.unwrap().is_some());
}

#[tokio::test]
async fn a_draining_worker_releases_only_its_own_jobs_without_counting_a_lost_claim() {
    let (store, _folder) = new_store().await;
    let ids = [
        accept(&store).await,
        accept(&store).await,
        accept(&store).await,
    ];
    let (leaves, stays) = (new_worker(&store).await, new_worker(&store).await);
    let left = claim(&store, leaves, &ids[..2]).await;
    claim(&store, stays, &ids[2..]).await;
    store
        .finalise(left[0].claim, None, Some(success()), Outcome::Completed)
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
    let others = store.renew(stays).await.unwrap();
    assert_eq!(others, [], "the worker is no longer registered");
}

#[tokio::test]
async fn releases_and_lease_expiries_keep_the_last_thousand_events_of_a_job() {
    const KEPT: usize = 1000;
    let (store, folder) = new_store().await;
    let [id, other] = [accept(&store).await, accept(&store).await];
    // As if it had been released so often already.
    direct(&folder)
        .execute_batch(&format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {KEPT})
             INSERT INTO events (request_id, number, at, event, claim)
             SELECT '{id}', i, '2026-01-01T00:00:00.000Z', 'given_back', i FROM n;
             UPDATE requests SET claim = {KEPT}, next_attempt_at = created_at WHERE id = '{id}';"
        ))
        .unwrap();
    for release in 1..=4 {
        let owner = new_worker(&store).await;
        let mut due = due_jobs(&store, 9).await.due;
        due.extend(store.suspects(9).await.unwrap());
        assert_eq!(store.claim(owner, due).await.unwrap().len(), 2);
        if release % 2 == 0 {
            expire_lease(&store, owner).await;
        } else {
            store.deregister(owner).await.unwrap();
        }
        let row = store.find(id).await.unwrap().unwrap();
        assert_eq!(row.events.len(), KEPT);
        let newest = i64::try_from(KEPT).unwrap() + release;
        assert_eq!(row.events.last().unwrap().claim, newest);
    }
    assert_eq!(
        event_kinds(&store, other).await.len(),
        4,
        "all of a job with few"
    );
}

#[tokio::test]
async fn a_job_whose_workers_crash_again_and_again_fails_as_poison() {
    let (store, _folder) = new_store().await;
    let id = accept(&store).await;
    let first = new_worker(&store).await;
    claim(&store, first, &[id]).await;
    let mut expired = expire_lease(&store, first).await;
    for lost in 1..MAX_CLAIMS {
        assert_eq!((expired.reclaimed, expired.poisoned), (1, 0));
        let job = claim_due(&store).await.pop().unwrap();
        assert_eq!(job.claim.number, i64::from(lost) + 1);
        expired = expire_lease(&store, job.claim.owner).await;
    }
    assert_eq!((expired.reclaimed, expired.poisoned), (0, 1));
    let row = store.find(id).await.unwrap().unwrap();
    assert_eq!((row.status, row.lost_claims), (Status::Failed, MAX_CLAIMS));
    assert_eq!(row.failure.unwrap().reason, FailureReason::Poison);
    assert_eq!(row.events.len(), MAX_CLAIMS as usize);
    assert!(row.attempts.is_empty());
}

#[tokio::test]
async fn a_job_held_among_others_never_fails_as_poison() {
    let (store, _folder) = new_store().await;
    let ids = [accept(&store).await, accept(&store).await];
    let first = new_worker(&store).await;
    claim(&store, first, &ids).await;
    expire_lease(&store, first).await;
    for _ in 0..3 * MAX_CLAIMS {
        let jobs = claim_due(&store).await;
        assert_eq!(jobs.len(), 2);
        let expired = expire_lease(&store, jobs[0].claim.owner).await;
        assert_eq!((expired.reclaimed, expired.poisoned), (2, 0));
    }
    assert_eq!(
        due_jobs(&store, 9).await.due,
        [],
        "suspects are read separately"
    );
    let suspects = store.suspects(9).await.unwrap();
    let last = i64::from(quarantine_threshold(MAX_CLAIMS));
    assert_eq!(last, 3);
    assert!(suspects.len() == 2 && suspects.iter().all(|it| it.lost_claims == last));

    // It runs alone from here on: the last two losses must happen in quarantine.
    let other = store.claim(new_worker(&store).await, suspects[..1].to_vec());
    let other = other.await.unwrap();
    let expired = expire_lease(&store, other[0].claim.owner).await;
    assert_eq!((expired.reclaimed, expired.poisoned), (1, 0));
    let suspects = store.suspects(9).await.unwrap();
    assert_eq!(
        (suspects[0].lost_claims, suspects[1].lost_claims),
        (last, last + 1),
        "fewest lost claims first"
    );
}

#[tokio::test]
async fn an_attempt_with_a_known_outcome_resets_the_lost_claims() {
    let (store, _folder) = new_store().await;
    let id = accept(&store).await;
    let dead = new_worker(&store).await;
    claim(&store, dead, &[id]).await;
    expire_lease(&store, dead).await;
    let job = claim_due(&store).await.pop().unwrap();
    fail_attempt(&store, &job).await;
    assert_eq!(store.suspects(9).await.unwrap(), []);
    let due = due_jobs(&store, 9).await.due;
    assert_eq!((due.len(), due[0].lost_claims), (1, 0));
}

#[tokio::test]
async fn jobs_of_an_unregistered_owner_are_reclaimed_after_a_lease() {
    let (store, folder) = new_store().await;
    let (ids, gone) = (
        [accept(&store).await, accept(&store).await],
        new_worker(&store).await,
    );
    claim(&store, gone, &ids).await;
    let db = crate::store::direct(&folder);
    db.execute("DELETE FROM workers", []).unwrap();
    let nobodys = "UPDATE requests SET owner = NULL WHERE id = ?1";
    db.execute(nobodys, [ids[1].to_string()]).unwrap();
    let observer = new_worker(&store).await;
    let others = store.renew(observer).await.unwrap();
    assert_eq!(others.len(), 2, "{others:?}");
    for other in others {
        let expired = store.expire(other, MAX_CLAIMS).await.unwrap().unwrap();
        assert_eq!(expired.reclaimed, 1);
    }
    assert_eq!(claim_due(&store).await.len(), 2);
}

#[tokio::test]
async fn a_database_of_the_first_schema_version_is_migrated_with_its_jobs() {
    let folder = tempfile::TempDir::new().unwrap();
    let db = crate::store::direct(&folder);
    db.execute_batch(include_str!("../../migrations/0001_requests.sql"))
        .unwrap();
    db.execute_batch(
        "PRAGMA application_id = 0x53745271; PRAGMA user_version = 1;
         INSERT INTO requests (id, mode, status, input_payload, created_at, claim, owner)
         VALUES ('019dbbf8-6a35-7f02-a9f4-5e1f9c1b7c53', 'async', 'PROCESSING',
                 '{\"report_name\":\"Q1\",\"records\":1}', '2026-11-23T12:00:00.000Z', 1,
                 '6f1b1c52-0f5d-4f7e-9a53-3c7f5ad1f7b2')",
    )
    .unwrap();
    let store = Store::open(&crate::store::settings(folder.path()))
        .await
        .unwrap();
    let observer = new_worker(&store).await;
    let other = store.renew(observer).await.unwrap().pop().unwrap();
    store.expire(other, MAX_CLAIMS).await.unwrap().unwrap();
    assert_eq!(claim_due(&store).await.len(), 1);
    tokio::time::timeout(Duration::from_mins(1), store.close())
        .await
        .unwrap();
}
