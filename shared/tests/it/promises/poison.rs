//! Poison jobs: lost claims are counted, up to the job's quarantine and its end.

use std::time::Duration;

use storm_shared::{
    models::{EventKind, FailureReason, RequestId, Status},
    services::store::{Job, Outcome, Paused, Settlement, Store, quarantine_threshold},
};

use crate::{
    database::TestDatabase,
    jobs::{
        MAX_CLAIMS, accept, claim, claim_due, claim_new, delivered, due_jobs, event_kinds,
        expire_lease, fail_attempt, finished, heartbeat_of, new_worker, redeliver, row,
    },
};

on_every_engine! {
    a_job_whose_workers_crash_again_and_again_fails_as_poison,
    a_job_held_among_others_never_fails_as_poison,
    an_attempt_with_a_known_outcome_resets_the_lost_claims,
    a_job_given_back_keeps_its_lost_claims,
    a_suspect_that_is_parked_stays_one_and_is_left_until_it_is_due,
    parking_delays_the_end_of_a_poison_job_and_does_not_prevent_it,
    a_suspect_is_left_while_its_receiver_is_paused,
    a_poison_redelivery_ends_and_leaves_a_completed_request_unchanged,
}

async fn a_job_whose_workers_crash_again_and_again_fails_as_poison(database: TestDatabase) {
    let store = database.open().await;
    let id = accept(&store).await;
    let first = new_worker(&store).await;
    claim_new(&store, first, &[id]).await;
    let mut expired = expire_lease(&store, first).await;
    for lost in 1..MAX_CLAIMS {
        assert_eq!((expired.reclaimed, expired.poisoned), (1, 0));
        let job = claim_due(&store).await.pop().unwrap();
        assert_eq!(job.claim.number, i64::from(lost) + 1);
        expired = expire_lease(&store, job.claim.owner).await;
    }
    assert_eq!((expired.reclaimed, expired.poisoned), (0, 1));
    let row = row(&store, id).await;
    assert_eq!((row.status, row.lost_claims), (Status::Failed, MAX_CLAIMS));
    assert_eq!(row.failure.unwrap().reason, FailureReason::Poison);
    assert_eq!(row.events.len(), MAX_CLAIMS as usize);
    assert!(row.attempts.is_empty());
}

async fn a_job_held_among_others_never_fails_as_poison(database: TestDatabase) {
    let store = database.open().await;
    let ids = [accept(&store).await, accept(&store).await];
    let first = new_worker(&store).await;
    claim_new(&store, first, &ids).await;
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
    let suspects = store.suspects(&[], 9).await.unwrap();
    let last = quarantine_threshold(MAX_CLAIMS);
    assert_eq!(last, 3);
    assert!(suspects.len() == 2 && suspects.iter().all(|it| it.lost_claims == last));

    // It runs alone from here on: the last two losses must happen in quarantine.
    let owner = new_worker(&store).await;
    let other = claim(&store, owner, suspects[..1].to_vec()).await;
    let expired = expire_lease(&store, other[0].claim.owner).await;
    assert_eq!((expired.reclaimed, expired.poisoned), (1, 0));
    let suspects = store.suspects(&[], 9).await.unwrap();
    assert_eq!(
        (suspects[0].lost_claims, suspects[1].lost_claims),
        (last, last + 1),
        "fewest lost claims first"
    );
}

/// A job whose first claim was lost, under its second.
async fn claimed_after_a_loss(store: &Store) -> Job {
    let id = accept(store).await;
    let dead = new_worker(store).await;
    claim_new(store, dead, &[id]).await;
    expire_lease(store, dead).await;
    claim_due(store).await.pop().unwrap()
}

async fn an_attempt_with_a_known_outcome_resets_the_lost_claims(database: TestDatabase) {
    let store = database.open().await;
    let job = claimed_after_a_loss(&store).await;
    fail_attempt(&store, &job).await;
    assert_eq!(store.suspects(&[], 9).await.unwrap(), []);
    let due = due_jobs(&store, 9).await.due;
    assert_eq!((due.len(), due[0].lost_claims), (1, 0));
}

async fn a_job_given_back_keeps_its_lost_claims(database: TestDatabase) {
    let store = database.open().await;
    let job = claimed_after_a_loss(&store).await;
    let id = job.claim.id;
    let given_back = Settlement::GiveBack;
    store.settle(job.claim, None, given_back).await.unwrap();
    let suspects = store.suspects(&[], 9).await.unwrap();
    let suspects: Vec<_> = suspects.iter().map(|it| (it.id, it.lost_claims)).collect();
    assert_eq!(suspects, [(id, 1)]);
    let kinds = [EventKind::ClaimLost, EventKind::GivenBack];
    assert_eq!(event_kinds(&store, id).await, kinds);
}

async fn suspects(store: &Store) -> Vec<(RequestId, u32)> {
    let suspects = store.suspects(&[], 9).await.unwrap();
    let suspects = suspects.into_iter();
    suspects.map(|it| (it.id, it.lost_claims)).collect()
}

async fn a_suspect_that_is_parked_stays_one_and_is_left_until_it_is_due(database: TestDatabase) {
    let store = database.open().await;
    let wait = Duration::from_hours(1);
    for park in [Settlement::Park { wait }, Settlement::ParkPaused { wait }] {
        let job = claimed_after_a_loss(&store).await;
        let id = job.claim.id;
        store.settle(job.claim, None, park).await.unwrap();
        assert_eq!(row(&store, id).await.lost_claims, 1);
        assert_eq!(suspects(&store).await, []);
        database.make_due(id).await;
        assert_eq!(suspects(&store).await, [(id, 1)]);
        assert_eq!(due_jobs(&store, 9).await.due, []);
        let again = claim_due(&store).await.pop().unwrap();
        store.settle(again.claim, None, delivered()).await.unwrap();
    }
}

async fn parking_delays_the_end_of_a_poison_job_and_does_not_prevent_it(database: TestDatabase) {
    let store = database.open().await;
    let id = accept(&store).await;
    let wait = Duration::ZERO;
    for _ in 0..MAX_CLAIMS {
        assert_eq!(row(&store, id).await.status, Status::Pending);
        let parked = claim_due(&store).await.pop().unwrap();
        let park = Settlement::Park { wait };
        store.settle(parked.claim, None, park).await.unwrap();
        let crashes = claim_due(&store).await.pop().unwrap();
        expire_lease(&store, crashes.claim.owner).await;
    }
    let failure = row(&store, id).await.failure.unwrap();
    assert_eq!(failure.reason, FailureReason::Poison);
}

async fn a_suspect_is_left_while_its_receiver_is_paused(database: TestDatabase) {
    let store = database.open().await;
    let job = claimed_after_a_loss(&store).await;
    let given_back = Settlement::GiveBack;
    store.settle(job.claim, None, given_back).await.unwrap();
    let redelivered = finished(&store, Outcome::Completed).await;
    redeliver(&store, redelivered).await.unwrap();
    let lost = due_jobs(&store, 9).await.due;
    let owner = new_worker(&store).await;
    claim(&store, owner, lost).await;
    expire_lease(&store, owner).await;
    assert_eq!(suspects(&store).await.len(), 2);

    let callback = job.callback.unwrap();
    let receiver = || Paused::Origin(callback.origin().clone());
    let operator = || "ops".parse().unwrap();
    store.pause(receiver(), operator()).await.unwrap().unwrap();
    assert_eq!(suspects(&store).await, []);
    store.resume(receiver(), operator()).await.unwrap();
    assert_eq!(suspects(&store).await.len(), 2);
}

async fn a_poison_redelivery_ends_and_leaves_a_completed_request_unchanged(database: TestDatabase) {
    let store = database.open().await;
    let id = finished(&store, Outcome::Completed).await;
    redeliver(&store, id).await.unwrap();
    let mut poisoned = 0;
    for _ in 0..2 {
        let job = claim_due(&store).await.pop().unwrap();
        let seen = heartbeat_of(&store, job.claim.owner).await;
        poisoned += store.expire(seen, 2).await.unwrap().unwrap().poisoned;
    }
    assert_eq!(poisoned, 1);
    let after = row(&store, id).await;
    assert_eq!((after.status, after.redelivery), (Status::Completed, None));
    assert!(after.failure.is_none());
}
