//! What workers say of the circuit breakers of their handlers, and what is shown of it.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use storm_shared::{
    models::WaitReason,
    services::store::{Breakers, Ended, OpenBreaker, OwnerId, Store, StoreError},
};

use super::{accept_of, claim_work, handler};
use crate::{
    database::TestDatabase,
    jobs::{expire_lease, new_worker, row},
};

on_every_engine! {
    the_breakers_of_a_handler_are_counted_in_the_workers_that_serve_it,
    a_job_says_that_its_handlers_breaker_is_open_and_until_when,
    a_worker_without_a_heartbeat_for_a_minute_serves_nothing,
    a_worker_that_does_not_say_leaves_the_breaker_unknown,
    a_suspect_of_a_handler_whose_breaker_is_open_is_overdue_after_a_time,
}

/// Longer than any test takes.
const AN_HOUR: Duration = Duration::from_hours(1);

const OPEN: OpenBreaker = OpenBreaker::Open { probe_in: AN_HOUR };

/// A worker that serves `pdf` and `mail`.
async fn serving(store: &Store) -> OwnerId {
    let worker = new_worker(store).await;
    let served = [handler("mail"), handler("pdf")];
    store.register(worker, &served).await.unwrap();
    worker
}

async fn report(store: &Store, worker: OwnerId, breakers: &[(&str, OpenBreaker)]) {
    let breakers = breakers
        .iter()
        .map(|(name, breaker)| (handler(name), *breaker));
    let reported = store.report_breakers(worker, breakers.collect());
    reported.await.unwrap();
}

async fn of(store: &Store, name: &str) -> (u32, Breakers) {
    let load = store.handlers_load().await.unwrap();
    let load = load.get(&handler(name)).copied().unwrap_or_default();
    (load.workers, load.breakers)
}

/// The workers, and in how many of them it is open, half-open and unknown.
async fn counts(store: &Store, name: &str) -> [u32; 4] {
    let (workers, breakers) = of(store, name).await;
    [workers, breakers.open, breakers.half_open, breakers.unknown]
}

async fn the_breakers_of_a_handler_are_counted_in_the_workers_that_serve_it(
    database: TestDatabase,
) {
    let store = database.open().await;
    let (one, other) = (serving(&store).await, serving(&store).await);
    assert_eq!(counts(&store, "pdf").await, [2, 0, 0, 0]);
    report(&store, one, &[("pdf", OPEN)]).await;
    report(&store, other, &[("pdf", OpenBreaker::HalfOpen)]).await;
    assert_eq!(counts(&store, "pdf").await, [2, 1, 1, 0]);
    assert_eq!(counts(&store, "mail").await, [2, 0, 0, 0]);
    let until = of(&store, "pdf").await.1.until.unwrap();
    let wait = until.duration_since(Timestamp::now()).as_secs();
    assert!((1800..=3600).contains(&wait), "{wait} s");
    // A heartbeat, and a registration that changes what it serves, say nothing of them.
    store.register(one, &[handler("pdf")]).await.unwrap();
    store.renew(one, Ended::default()).await.unwrap();
    assert_eq!(counts(&store, "pdf").await, [2, 1, 1, 0]);
    assert_eq!(counts(&store, "mail").await, [1, 0, 0, 0]);
    // A report replaces the one before. What the worker does not serve does not count.
    report(&store, one, &[("mail", OPEN)]).await;
    assert_eq!(counts(&store, "pdf").await, [2, 0, 1, 0]);
    assert_eq!(counts(&store, "mail").await, [1, 0, 0, 0]);
    // It goes with its worker.
    expire_lease(&store, other).await;
    assert_eq!(counts(&store, "pdf").await, [1, 0, 0, 0]);
    let gone = store.report_breakers(other, vec![(handler("pdf"), OPEN)]);
    assert!(matches!(gone.await, Err(StoreError::LeaseLost)));
    assert_eq!(counts(&store, "pdf").await, [1, 0, 0, 0]);
}

async fn a_job_says_that_its_handlers_breaker_is_open_and_until_when(database: TestDatabase) {
    let store = database.open().await;
    let id = accept_of(&store, "pdf").await;
    let (one, other) = (serving(&store).await, serving(&store).await);
    let waiting = async || row(&store, id).await.waiting_for.unwrap();
    report(&store, one, &[("pdf", OPEN)]).await;
    let some = waiting().await;
    assert_eq!(some.reason, WaitReason::Capacity, "another one may take it");
    assert!(some.detail.contains("In 1 of 2 workers"), "{some:?}");
    report(&store, other, &[("pdf", OPEN)]).await;
    let all = waiting().await;
    assert_eq!(all.reason, WaitReason::Handler);
    assert!(all.detail.contains("circuit breaker"), "{all:?}");
    let until: Timestamp = all.until.unwrap().parse().unwrap();
    assert!(until > Timestamp::now(), "{until}");
    // Due, but not begun: there is no time in the past.
    let due = OpenBreaker::Open {
        probe_in: Duration::ZERO,
    };
    report(&store, one, &[("pdf", OpenBreaker::HalfOpen)]).await;
    report(&store, other, &[("pdf", OpenBreaker::HalfOpen)]).await;
    let probed = waiting().await;
    assert_eq!((probed.reason, probed.until), (WaitReason::Handler, None));
    let before = Timestamp::now() - SignedDuration::from_secs(1);
    report(&store, one, &[("pdf", due)]).await;
    let until: Timestamp = waiting().await.until.unwrap().parse().unwrap();
    assert!(until > before, "{until} is before {before}");
    report(&store, one, &[]).await;
    assert_eq!(waiting().await.reason, WaitReason::Capacity);
}

async fn a_worker_without_a_heartbeat_for_a_minute_serves_nothing(database: TestDatabase) {
    let store = database.open().await;
    let (one, last) = (serving(&store).await, serving(&store).await);
    report(&store, last, &[("pdf", OPEN)]).await;
    let id = accept_of(&store, "pdf").await;
    // All were killed, and nobody is there to expire their leases.
    database
        .set_heartbeat(one, "2020-01-01T00:00:00.000Z")
        .await;
    assert_eq!(counts(&store, "pdf").await, [1, 1, 0, 0]);
    database
        .set_heartbeat(last, "2020-01-01T00:00:00.000Z")
        .await;
    assert_eq!(counts(&store, "pdf").await, [0, 0, 0, 0]);
    let waiting_for = row(&store, id).await.waiting_for.unwrap();
    assert_eq!(waiting_for.reason, WaitReason::Handler);
    let says = waiting_for.detail;
    assert!(says.starts_with("No running worker serves"), "{says}");
    // One was only suspended.
    store.renew(last, Ended::default()).await.unwrap();
    assert_eq!(counts(&store, "pdf").await, [1, 1, 0, 0]);
}

async fn a_worker_that_does_not_say_leaves_the_breaker_unknown(database: TestDatabase) {
    let store = database.open().await;
    let id = accept_of(&store, "pdf").await;
    let (one, other) = (serving(&store).await, serving(&store).await);
    database.forget_breakers(one).await;
    assert_eq!(counts(&store, "pdf").await, [2, 0, 0, 1]);
    report(&store, other, &[("pdf", OPEN)]).await;
    assert_eq!(counts(&store, "pdf").await, [2, 1, 0, 1]);
    let waiting = row(&store, id).await.waiting_for.unwrap();
    assert_eq!(waiting.reason, WaitReason::Capacity);
    assert!(
        waiting.detail.contains("If the handler fails"),
        "{waiting:?}"
    );
}

async fn a_suspect_of_a_handler_whose_breaker_is_open_is_overdue_after_a_time(
    database: TestDatabase,
) {
    let store = database.open().await;
    let id = accept_of(&store, "pdf").await;
    let job = claim_work(&store, id).await;
    expire_lease(&store, job.claim.owner).await;
    let overdue = async |name: &str| {
        let served = [handler(name)];
        let found = store.overdue_suspects(&served, AN_HOUR, 9).await.unwrap();
        found.len()
    };
    assert_eq!(overdue("pdf").await, 0);
    database
        .make_due_earlier(id, AN_HOUR + Duration::from_secs(1))
        .await;
    assert_eq!((overdue("pdf").await, overdue("mail").await), (1, 0));
}
