//! The wall clock dates requests, whatever it says.

use std::time::Duration;

use jiff::Timestamp;
use storm_shared::{
    models::{CallbackUrl, Failure, FailureReason, RequestId, Status},
    services::store::{NewJob, Outcome, RedeliveryPage, Scope, Store},
};

use crate::{
    database::TestDatabase,
    jobs::{claim_one, expire_lease, failed, finish, new_worker, row, spec, success, timeout},
};

on_every_engine! {
    created_at_is_the_wall_clock_and_not_the_time_in_the_id,
    a_request_never_ends_before_it_was_created,
    since_goes_by_created_at,
}

/// Accepts a job while the wall clock says `created_at`. Ids never go back: its own has the time
/// `id_at`.
async fn accepted_at(store: &Store, created_at: Timestamp, id_at: Timestamp) -> RequestId {
    let id = RequestId::floor(id_at);
    let callback = CallbackUrl::parse("http://example.com/").unwrap();
    let job = NewJob {
        created_at,
        ..NewJob::new(id, spec(), Some(callback))
    };
    store.accept(job).await.unwrap();
    id
}

fn shown(at: Timestamp) -> String {
    format!("{at:.3}")
}

async fn created_at_is_the_wall_clock_and_not_the_time_in_the_id(database: TestDatabase) {
    let store = database.open().await;
    let now = Timestamp::now();
    let id = accepted_at(&store, now, now + Duration::from_hours(72)).await;
    assert_eq!(row(&store, id).await.created_at, shown(now));
    let sync = RequestId::generate();
    let failure = Failure::new(FailureReason::SyncTimeout, "Not done within 5s.");
    let earlier = now - Duration::from_secs(5);
    store
        .record_sync(sync, earlier, &spec(), None, Err(&failure))
        .await
        .unwrap();
    let sync = row(&store, sync).await;
    assert_eq!(sync.created_at, shown(earlier));
    assert!(sync.completed_at.unwrap() >= shown(now));
}

async fn a_request_never_ends_before_it_was_created(database: TestDatabase) {
    let store = database.open().await;
    let now = Timestamp::now();
    let ahead = now + Duration::from_hours(72);
    let next = async |number| {
        let id = accepted_at(&store, ahead, now + Duration::from_millis(number)).await;
        claim_one(&store, id).await.unwrap()
    };
    let completed = next(0).await;
    finish(&store, &completed, success(), Outcome::Completed).await;
    let undelivered = next(1).await;
    finish(&store, &undelivered, timeout(1), failed("It is late.")).await;
    let poison = next(2).await;
    let mut owner = poison.claim.owner;
    while row(&store, poison.claim.id).await.status != Status::Failed {
        expire_lease(&store, owner).await;
        owner = new_worker(&store).await;
        let suspects = store.suspects(&[], 1).await.unwrap();
        store.claim(owner, suspects, usize::MAX).await.unwrap();
    }
    let sync = RequestId::generate();
    let failure = Failure::new(FailureReason::SyncTimeout, "Not done within 5s.");
    store
        .record_sync(sync, ahead, &spec(), None, Err(&failure))
        .await
        .unwrap();
    for id in [
        completed.claim.id,
        undelivered.claim.id,
        poison.claim.id,
        sync,
    ] {
        let row = row(&store, id).await;
        assert_eq!(row.created_at, shown(ahead));
        assert_eq!(row.completed_at, Some(shown(ahead)));
    }
}

async fn since_goes_by_created_at(database: TestDatabase) {
    let store = database.open().await;
    let now = Timestamp::now();
    let ahead = now + Duration::from_hours(72);
    // The clock was three days ahead when the first one came, and has been set right since.
    let mut ids = Vec::new();
    for created_at in [ahead, now - Duration::from_mins(1), now] {
        let id_at = ahead + Duration::from_millis(ids.len() as u64);
        let id = accepted_at(&store, created_at, id_at).await;
        let job = claim_one(&store, id).await.unwrap();
        finish(&store, &job, success(), Outcome::Completed).await;
        ids.push(id);
    }
    let page = RedeliveryPage {
        status: Status::Completed,
        since: Some(now),
        after: None,
        limit: 9,
    };
    let found = store.redeliverable(Scope::All, page.clone()).await.unwrap();
    let found: Vec<_> = found.requests.into_iter().map(|(id, _)| id).collect();
    assert_eq!(found, [ids[0], ids[2]]);
    let ever = RedeliveryPage {
        since: Some(Timestamp::MIN),
        ..page
    };
    let found = store.redeliverable(Scope::All, ever).await.unwrap();
    assert_eq!(found.requests.len(), 3);
}
