//! Retention: which requests a sweep deletes, and what belongs to them.

use std::time::Duration;

use jiff::Timestamp;
use storm_shared::{
    config::StoreSettings,
    models::{IdempotencyKey, RequestId, Status},
    services::{
        report,
        store::{Acceptance, NewJob, Outcome, Scope, Settlement, Store, Unredeliverable},
    },
};

use crate::{
    database::TestDatabase,
    jobs::{
        accept, claim_due, claimed, expire_lease, fail_attempt, failed, finished, redeliver, row,
        spec, success,
    },
};

on_every_engine! {
    only_what_has_ended_for_long_enough_is_deleted,
    attempts_and_events_go_with_their_request,
    a_redelivery_keeps_its_request_and_its_end_begins_the_time_anew,
    a_request_is_kept_anew_after_its_redelivery_was_cancelled,
    what_ended_without_a_date_is_kept_for_the_whole_time,
    a_large_table_goes_in_batches_and_a_young_one_is_told,
    a_key_keeps_its_request_until_its_window_is_over,
    old_requests_behind_a_young_batch_are_reached,
    what_is_around_requests_that_stay_is_deleted,
    the_wall_clock_decides_nothing,
    sweeps_at_the_same_time_delete_each_request_once,
    a_redelivery_that_begins_during_a_sweep_has_its_request_or_finds_none,
}

const NOW: Duration = Duration::ZERO;

const LATER: Duration = Duration::from_hours(1);

/// A whole pass. Returns how many requests it has deleted.
async fn pass(store: &Store, keep: Duration) -> usize {
    let (mut deleted, mut after) = (0, None);
    loop {
        let swept = store.sweep(keep, after).await.unwrap();
        deleted += swept.deleted;
        after = swept.next;
        if after.is_none() {
            return deleted;
        }
    }
}

async fn exists(store: &Store, id: RequestId) -> bool {
    store.find(id).await.unwrap().is_some()
}

async fn only_what_has_ended_for_long_enough_is_deleted(database: TestDatabase) {
    let store = database.open().await;
    let sync = RequestId::generate();
    let (spec, now) = (spec(), Timestamp::now());
    let made = report::expected(&spec);
    let recorded = store.record_sync(sync, now, &spec, None, Ok(&made));
    recorded.await.unwrap();
    let completed = finished(&store, Outcome::Completed).await;
    let failed = finished(&store, failed("It answered 500.")).await;
    let cancelled = accept(&store).await;
    store.cancel(Scope::All, cancelled).await.unwrap().unwrap();
    let (waits, runs) = (accept(&store).await, claimed(&store).await.claim.id);
    let parked = claimed(&store).await;
    let park = Settlement::Park { wait: LATER };
    store.settle(parked.claim, None, park).await.unwrap();

    assert_eq!(pass(&store, LATER).await, 0);
    assert_eq!(pass(&store, NOW).await, 4);
    for id in [sync, completed, failed, cancelled] {
        assert!(!exists(&store, id).await);
    }
    for id in [waits, runs, parked.claim.id] {
        assert!(exists(&store, id).await);
    }
    assert_eq!(pass(&store, NOW).await, 0);
}

async fn attempts_and_events_go_with_their_request(database: TestDatabase) {
    let store = database.open().await;
    for is_last in [false, true] {
        let job = claimed(&store).await;
        store.record_resend(job.claim, 1).await.unwrap();
        fail_attempt(&store, &job).await;
        let again = claim_due(&store).await.pop().unwrap();
        expire_lease(&store, again.claim.owner).await;
        let last = claim_due(&store).await.pop().unwrap();
        let mut attempt = success();
        attempt.number = 2;
        let end = Settlement::Finish {
            attempt: Some(attempt),
            outcome: Outcome::Completed,
        };
        if is_last {
            // This one stays, with everything that belongs to it.
            assert_eq!(pass(&store, NOW).await, 1);
            let kept = row(&store, last.claim.id).await;
            assert_eq!((kept.attempts.len(), kept.events.len()), (1, 3));
            assert_eq!(database.leftovers().await, 0);
        } else {
            store.settle(last.claim, None, end).await.unwrap();
            assert_eq!(row(&store, last.claim.id).await.attempts.len(), 2);
        }
    }
}

async fn a_redelivery_keeps_its_request_and_its_end_begins_the_time_anew(database: TestDatabase) {
    let store = database.open().await;
    let id = finished(&store, failed("It answered 500.")).await;
    database.end_earlier(id, 2 * LATER).await;
    redeliver(&store, id).await.unwrap();
    assert_eq!(pass(&store, NOW).await, 0);
    let job = claim_due(&store).await.pop().unwrap();
    assert_eq!(pass(&store, LATER).await, 0);
    let mut attempt = success();
    attempt.number = 2;
    let end = Settlement::Finish {
        attempt: Some(attempt),
        outcome: Outcome::Completed,
    };
    store.settle(job.claim, None, end).await.unwrap();
    assert_eq!(row(&store, id).await.status, Status::Completed);
    assert_eq!(pass(&store, LATER).await, 0, "it ended just now");
    assert_eq!(pass(&store, NOW).await, 1);
}

async fn a_request_is_kept_anew_after_its_redelivery_was_cancelled(database: TestDatabase) {
    let store = database.open().await;
    let id = finished(&store, failed("It answered 500.")).await;
    database.end_earlier(id, 2 * LATER).await;
    redeliver(&store, id).await.unwrap();
    store.cancel(Scope::All, id).await.unwrap().unwrap();
    assert_eq!(row(&store, id).await.status, Status::Failed);
    assert_eq!(pass(&store, LATER).await, 0, "it was in progress until now");
    assert_eq!(pass(&store, NOW).await, 1);
}

async fn what_ended_without_a_date_is_kept_for_the_whole_time(database: TestDatabase) {
    let store = database.open().await;
    database.add_completed("acme", 1200).await;
    assert_eq!(pass(&store, LATER).await, 0);
    assert_eq!(pass(&store, LATER).await, 0);
    assert_eq!(pass(&store, NOW).await, 1200);
}

async fn a_large_table_goes_in_batches_and_a_young_one_is_told(database: TestDatabase) {
    let store = database.open().await;
    database.add_completed("acme", 3000).await;
    assert_eq!(pass(&store, LATER).await, 0, "now they are dated");
    let swept = store.sweep(LATER, None).await.unwrap();
    assert!(swept.is_young && swept.deleted == 0, "{swept:?}");
    let swept = store.sweep(NOW, None).await.unwrap();
    assert!(!swept.is_young, "{swept:?}");
    assert!(swept.deleted > 0 && swept.deleted < 3000, "{swept:?}");
    let rest = pass(&store, NOW).await;
    assert_eq!(swept.deleted + rest, 3000);
}

async fn a_key_keeps_its_request_until_its_window_is_over(database: TestDatabase) {
    let settings = |window| StoreSettings {
        idempotency_window: window,
        ..database.settings()
    };
    for (window, is_over) in [(LATER, false), (NOW, true)] {
        let store = Store::open(&settings(window)).await.unwrap();
        let (id, key) = (RequestId::generate(), format!("key-{is_over}"));
        let job = NewJob {
            idempotency_key: Some(IdempotencyKey::try_from(key.as_bytes()).unwrap()),
            ..NewJob::new(id, spec(), None)
        };
        assert_eq!(store.accept(job).await.unwrap(), Acceptance::Stored);
        store.cancel(Scope::All, id).await.unwrap().unwrap();
        assert_eq!(pass(&store, NOW).await, usize::from(is_over));
        assert_eq!(exists(&store, id).await, !is_over);
    }
    assert_eq!(database.leftovers().await, 0);
}

async fn old_requests_behind_a_young_batch_are_reached(database: TestDatabase) {
    let store = database.open().await;
    database.add_completed("acme", 600).await;
    assert_eq!(pass(&store, LATER).await, 0, "now they are dated");
    let behind = finished(&store, Outcome::Completed).await;
    database.end_earlier(behind, 2 * LATER).await;
    assert!(store.sweep(LATER, None).await.unwrap().is_young);
    assert_eq!(pass(&store, LATER).await, 1);
    assert!(!exists(&store, behind).await);
}

async fn what_is_around_requests_that_stay_is_deleted(database: TestDatabase) {
    let store = database.open().await;
    let mut ids = Vec::new();
    for _ in 0..6 {
        ids.push(finished(&store, failed("It answered 500.")).await);
    }
    let stays = [0, 2, 3, 5].map(|at| ids[at]);
    for id in stays {
        redeliver(&store, id).await.unwrap();
    }
    assert_eq!(pass(&store, NOW).await, 2);
    for id in ids {
        assert_eq!(exists(&store, id).await, stays.contains(&id));
    }
    assert_eq!(pass(&store, NOW).await, 0);
}

async fn the_wall_clock_decides_nothing(database: TestDatabase) {
    let store = database.open().await;
    let id = finished(&store, Outcome::Completed).await;
    let long_ago = "created_at = '2001-01-01T00:00:00.000Z', completed_at = created_at";
    database.edit(id, long_ago).await;
    assert_eq!(pass(&store, LATER).await, 0);
    assert!(exists(&store, id).await);
}

async fn sweeps_at_the_same_time_delete_each_request_once(database: TestDatabase) {
    let stores = [database.open().await, database.open().await];
    database.add_completed("acme", 3000).await;
    assert_eq!(pass(&stores[0], LATER).await, 0, "now they are dated");
    let passes = [0, 1, 0, 1].map(|at| {
        let store = stores[at].clone();
        tokio::spawn(async move { pass(&store, NOW).await })
    });
    let mut deleted = 0;
    for pass in passes {
        deleted += pass.await.unwrap();
    }
    // One may leave what another has in hand.
    deleted += pass(&stores[0], NOW).await;
    assert_eq!((deleted, database.count().await), (3000, 0));
}

async fn a_redelivery_that_begins_during_a_sweep_has_its_request_or_finds_none(
    database: TestDatabase,
) {
    let (one, other) = (database.open().await, database.open().await);
    for _ in 0..20 {
        let id = finished(&one, failed("It answered 500.")).await;
        let (begun, deleted) = tokio::join!(redeliver(&one, id), pass(&other, NOW));
        match begun {
            Ok(()) => assert!(deleted == 0 && exists(&one, id).await),
            Err(Unredeliverable::Unknown) => assert_eq!(deleted, 1),
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(database.leftovers().await, 0);
}
