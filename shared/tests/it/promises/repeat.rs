//! Every write is safe to repeat: its caller may not have learned whether it was committed.

use std::time::Duration;

use jiff::Timestamp;
use storm_shared::{
    models::{CallbackUrl, EventKind, Failure, FailureReason, RequestId, Status},
    services::{
        report,
        store::{
            Candidate, Ended, NewJob, Outcome, OwnerId, Settlement, Store, StoreError,
            Unredeliverable, Work,
        },
    },
};

use crate::{
    database::TestDatabase,
    jobs::{
        MAX_CLAIMS, accept, claim, claim_due, claim_new, claim_one, claimed, delivered, due_ids,
        event_kinds, fail_attempt, failed, finished, heartbeat_of, is_claim_lost, new_worker,
        redeliver, result_of, row, spec, status, stored_result,
    },
};

on_every_engine! {
    an_accept_that_is_repeated_succeeds_and_another_job_under_its_id_does_not,
    an_accept_that_is_repeated_changes_nothing_in_whatever_state_its_job_is,
    a_sync_record_that_is_repeated_succeeds_and_changes_nothing,
    a_claim_that_is_repeated_returns_what_it_has_won_before,
    a_repeated_claim_keeps_to_its_room,
    a_repeated_claim_takes_nothing_that_has_moved_on,
    a_park_and_a_release_that_are_repeated_are_lost_claims_and_change_nothing,
    a_stored_result_and_a_resend_that_are_repeated_are_stored_once,
    lease_writes_that_are_repeated_do_no_harm,
    a_redelivery_that_is_repeated_is_under_way,
}

fn job(id: RequestId) -> NewJob {
    let callback = CallbackUrl::parse("http://example.com/hook").unwrap();
    NewJob {
        created_by: Some("tenant".parse().unwrap()),
        ..NewJob::new(id, spec(), Some(callback))
    }
}

async fn an_accept_that_is_repeated_succeeds_and_another_job_under_its_id_does_not(
    database: TestDatabase,
) {
    let store = database.open().await;
    let first = job(RequestId::generate());
    for _ in 0..3 {
        store.accept(first.clone()).await.unwrap();
    }
    let polled = NewJob::new(RequestId::generate(), spec(), None);
    for _ in 0..3 {
        store.accept(polled.clone()).await.unwrap();
    }
    assert_eq!(database.count().await, 2);

    for other in [
        NewJob {
            callback: None,
            ..first.clone()
        },
        NewJob {
            created_by: None,
            ..first.clone()
        },
        NewJob {
            created_at: first.created_at + Duration::from_millis(1),
            ..first.clone()
        },
    ] {
        let refused = store.accept(other).await;
        assert!(
            matches!(refused, Err(StoreError::Failed { .. })),
            "{refused:?}"
        );
    }
    let spec = spec();
    let report = report::expected(&spec);
    let sync = store.record_sync(first.id, first.created_at, &spec, None, Ok(&report));
    assert!(sync.await.is_err(), "a sync request is another one");
    assert_eq!(status(&store, first.id).await, Status::Pending);
}

async fn an_accept_that_is_repeated_changes_nothing_in_whatever_state_its_job_is(
    database: TestDatabase,
) {
    let store = database.open().await;
    let job = job(RequestId::generate());
    let accept_again = async |store: &Store| {
        let before = database.tables().await;
        store.accept(job.clone()).await.unwrap();
        assert_eq!(database.tables().await, before);
    };
    store.accept(job.clone()).await.unwrap();
    accept_again(&store).await;
    let claimed = claim_one(&store, job.id).await.unwrap();
    accept_again(&store).await;
    fail_attempt(&store, &claimed).await;
    accept_again(&store).await;
    let claimed = claim_due(&store).await.pop().unwrap();
    store
        .settle(claimed.claim, None, delivered())
        .await
        .unwrap();
    accept_again(&store).await;
}

async fn a_sync_record_that_is_repeated_succeeds_and_changes_nothing(database: TestDatabase) {
    let store = database.open().await;
    let spec = spec();
    let report = report::expected(&spec);
    let failure = Failure::new(FailureReason::SyncTimeout, "Not done within 5s.");
    for ended in [Ok(&report), Err(&failure)] {
        let (id, at) = (RequestId::generate(), Timestamp::now());
        let record = || store.record_sync(id, at, &spec, None, ended);
        record().await.unwrap();
        let before = database.tables().await;
        record().await.unwrap();
        assert_eq!(database.tables().await, before);
    }
    assert_eq!(database.count().await, 2);
}

async fn a_claim_that_is_repeated_returns_what_it_has_won_before(database: TestDatabase) {
    let store = database.open().await;
    let ids = [accept(&store).await, accept(&store).await];
    let retried = claimed(&store).await;
    let report = fail_attempt(&store, &retried).await;
    let ended = finished(&store, Outcome::Completed).await;
    redeliver(&store, ended).await.unwrap();
    let candidates: Vec<_> = ids
        .map(Candidate::notified)
        .into_iter()
        .chain(
            [(retried.claim.id, Work::Job), (ended, Work::Redelivery)].map(|(id, work)| {
                Candidate {
                    id,
                    work,
                    claims: 1,
                    lost_claims: 0,
                }
            }),
        )
        .collect();
    let owner = new_worker(&store).await;
    let first = claim(&store, owner, candidates.clone()).await;
    assert_eq!(first.len(), 4);
    let rows = database.tables().await;
    assert!(claim(&store, owner, candidates.clone()).await.is_empty());
    for _ in 0..2 {
        let again = store.claim_again(owner, candidates.clone(), usize::MAX);
        let again: Vec<_> = again
            .await
            .unwrap()
            .jobs
            .into_iter()
            .map(Result::unwrap)
            .collect();
        let claims = |jobs: &[_]| -> Vec<_> {
            let mut claims: Vec<_> = jobs
                .iter()
                .map(|job: &storm_shared::services::store::Job| (job.claim.id, job.claim.number))
                .collect();
            claims.sort_unstable();
            claims
        };
        assert_eq!(claims(&again), claims(&first));
        let retried = again
            .iter()
            .find(|job| job.claim.id == retried.claim.id)
            .unwrap();
        assert_eq!(stored_result(retried), Some(report.clone()));
        assert_eq!(database.tables().await, rows, "nothing changes");
    }

    // If the first try was not committed, the repeat is the claim.
    let late = accept(&store).await;
    let won = store.claim_again(owner, vec![Candidate::notified(late)], usize::MAX);
    assert_eq!(won.await.unwrap().jobs.len(), 1);
}

async fn a_repeated_claim_keeps_to_its_room(database: TestDatabase) {
    let store = database.open().await;
    let mut candidates = Vec::new();
    for _ in 0..4 {
        candidates.push(Candidate::notified(accept(&store).await));
    }
    let owner = new_worker(&store).await;
    let one = store.claim_again(owner, candidates.clone(), 1).await;
    let one = one.unwrap(); // the first call was not committed
    assert_eq!((one.jobs.len(), &one.left[..]), (1, &candidates[1..]));
    let room = 2 * one.jobs[0].as_ref().unwrap().bytes;
    for _ in 0..2 {
        // It fills the room up, and then finds what it has won.
        let again = store.claim_again(owner, candidates.clone(), room).await;
        let again = again.unwrap();
        let ids = again.jobs.into_iter().map(|job| job.unwrap().claim.id);
        let expected = candidates[..2].iter().map(|candidate| candidate.id);
        assert!(ids.eq(expected));
        assert_eq!(again.left, candidates[2..]);
    }
}

async fn a_repeated_claim_takes_nothing_that_has_moved_on(database: TestDatabase) {
    let store = database.open().await;
    let (lost, ended, released, invalid) = (
        accept(&store).await,
        accept(&store).await,
        accept(&store).await,
        accept(&store).await,
    );
    let owner = new_worker(&store).await;
    let other = new_worker(&store).await;
    claim_new(&store, other, &[lost]).await;
    let jobs = claim_new(&store, owner, &[ended, released]).await;
    store
        .settle(jobs[0].claim, None, delivered())
        .await
        .unwrap();
    let released_claim = jobs[1].claim;
    let give_back = Settlement::GiveBack;
    store.settle(released_claim, None, give_back).await.unwrap();
    let broken = database.invalid_jobs()[0];
    database.edit(invalid, broken).await;
    let candidates: Vec<_> = [lost, ended, released, invalid]
        .map(Candidate::notified)
        .to_vec();
    let claims_again = || store.claim_again(owner, candidates.clone(), usize::MAX);
    for _ in 0..2 {
        // Of all four only the invalid one, as by the first call.
        let won = claims_again().await.unwrap().jobs;
        assert_eq!(won.len(), 1);
        assert_eq!(won[0].as_ref().unwrap_err().claim.id, invalid);
    }
    store.deregister(owner).await.unwrap();
    let refused = claims_again().await;
    assert!(matches!(refused, Err(StoreError::LeaseLost)), "{refused:?}");
}

async fn a_park_and_a_release_that_are_repeated_are_lost_claims_and_change_nothing(
    database: TestDatabase,
) {
    let store = database.open().await;
    let wait = Duration::ZERO;
    for settlement in [Settlement::Park { wait }, Settlement::GiveBack] {
        let job = claimed(&store).await;
        let settle = || store.settle(job.claim, None, settlement.clone());
        settle().await.unwrap();
        let settled = database.tables().await;
        assert!(is_claim_lost(&settle().await));
        assert_eq!(database.tables().await, settled);
    }
}

async fn a_stored_result_and_a_resend_that_are_repeated_are_stored_once(database: TestDatabase) {
    let store = database.open().await;
    let job = claimed(&store).await;
    let report = result_of(&job);
    for _ in 0..2 {
        store
            .store_worked(job.claim, Ok(report.clone()), None)
            .await
            .unwrap();
    }
    for _ in 0..2 {
        store.record_resend(job.claim, 1).await.unwrap();
    }
    let resent = [EventKind::Resent; 2];
    assert_eq!(event_kinds(&store, job.claim.id).await, resent[..1]);
    for _ in 0..2 {
        store.record_resend(job.claim, 2).await.unwrap();
    }
    assert_eq!(event_kinds(&store, job.claim.id).await, resent);

    // The next claim counts anew.
    fail_attempt(&store, &job).await;
    let next = claim_due(&store).await.pop().unwrap();
    for _ in 0..2 {
        store.record_resend(next.claim, 1).await.unwrap();
    }
    let events = event_kinds(&store, job.claim.id).await;
    let resends = events.iter().filter(|kind| **kind == EventKind::Resent);
    assert_eq!(resends.count(), 3);
}

async fn lease_writes_that_are_repeated_do_no_harm(database: TestDatabase) {
    let store = database.open().await;
    let owner = OwnerId::generate();
    for _ in 0..2 {
        store.register(owner, &[]).await.unwrap();
        store.renew(owner, Ended::default()).await.unwrap();
    }
    let jobs = [accept(&store).await, accept(&store).await];
    assert_eq!(claim_new(&store, owner, &jobs).await.len(), 2);
    let seen = heartbeat_of(&store, owner).await;
    let expire = || store.expire(seen, MAX_CLAIMS);
    assert_eq!(expire().await.unwrap().unwrap().reclaimed, 2);
    let expired = database.tables().await;
    assert_eq!(expire().await.unwrap(), None);
    assert_eq!(database.tables().await, expired);

    let owner = new_worker(&store).await;
    let suspects = store.suspects(&[], 9).await.unwrap();
    assert_eq!(claim(&store, owner, suspects).await.len(), 2);
    assert_eq!(store.deregister(owner).await.unwrap(), 2);
    let released = database.tables().await;
    assert_eq!(store.deregister(owner).await.unwrap(), 0);
    assert_eq!(database.tables().await, released);
}

async fn a_redelivery_that_is_repeated_is_under_way(database: TestDatabase) {
    let store = database.open().await;
    let id = finished(&store, failed("It answered 500.")).await;
    redeliver(&store, id).await.unwrap();
    let under_way = Err(Unredeliverable::UnderWay);
    assert_eq!(redeliver(&store, id).await, under_way);
    assert_eq!(due_ids(&store, 9).await, [id]);
    let attempts = row(&store, id).await.attempts.len();
    let job = claim_due(&store).await.pop().unwrap();
    assert_eq!((job.attempts_before as usize, attempts), (1, 1));
}
