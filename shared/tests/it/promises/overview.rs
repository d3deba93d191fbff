//! What the live page shows: what workers say of themselves, and the longest backlogs.

use std::time::Duration;

use storm_shared::{
    durations::DurationRecorder,
    models::{BreakerState, ReceiverReport, WorkerReport},
    services::store::{Ended, Overview, OwnerId, Store, StoreError, WorkerSeen},
};

use crate::{
    database::TestDatabase,
    jobs::{claimed, expire_lease, new_worker, retry, timeout},
};

on_every_engine! {
    a_worker_is_seen_with_its_last_report_until_its_lease_ends,
    a_worker_that_says_nothing_or_something_unknown_is_seen_without_a_report,
    a_report_renews_the_lease_that_it_comes_with_and_no_other,
    backlogs_are_counted_by_destination,
}

fn report(completed: u64) -> WorkerReport {
    let times = DurationRecorder::default();
    times.record(Duration::from_millis(completed));
    let mut report = WorkerReport {
        completed,
        failed: 1,
        slots: 512,
        slots_used: 3,
        lease_ms: Some(15_000),
        time_to_callback: times.counts(),
        ..WorkerReport::new(1000 * completed)
    };
    report.set_receivers(vec![ReceiverReport {
        tenant: Some("one".to_owned()),
        origin: "https://\"quoted\\.example".to_owned(),
        breaker: BreakerState::HalfOpen,
        jobs: 2,
    }]);
    report
}

async fn renew(store: &Store, owner: OwnerId, report: &WorkerReport) {
    let ended = Ended::default();
    store.renew_and_report(owner, ended, report).await.unwrap();
}

async fn seen(store: &Store, owner: OwnerId) -> Option<WorkerSeen> {
    let workers = store.overview().await.unwrap().workers;
    let owner = owner.to_string();
    workers.into_iter().find(|worker| worker.owner == owner)
}

async fn a_worker_is_seen_with_its_last_report_until_its_lease_ends(database: TestDatabase) {
    let store = database.open().await;
    assert_eq!(store.overview().await.unwrap(), Overview::default());
    let worker = new_worker(&store).await;
    for completed in [1, 2] {
        renew(&store, worker, &report(completed)).await;
        let seen = seen(&store, worker).await.unwrap();
        assert_eq!(seen.report, Some(report(completed)));
        assert!(seen.heartbeat_age_ms.is_some());
    }
    // A heartbeat without a report keeps the last one.
    store.renew(worker, Ended::default()).await.unwrap();
    let kept = seen(&store, worker).await.unwrap();
    assert_eq!(kept.report, Some(report(2)));

    expire_lease(&store, worker).await;
    assert_eq!(seen(&store, worker).await, None);
}

async fn a_worker_that_says_nothing_or_something_unknown_is_seen_without_a_report(
    database: TestDatabase,
) {
    let store = database.open().await;
    let worker = new_worker(&store).await;
    assert_eq!(seen(&store, worker).await.unwrap().report, None);
    let text = report(1).to_text().unwrap();
    for (stored, is_known) in [
        (text.clone(), true),
        (text.replace("\"version\":1", "\"version\":2"), false),
        ("[]".to_owned(), false),
        ("null".to_owned(), false),
        (format!("[\"{}\"]", "x".repeat(1 << 20)), false),
    ] {
        database.set_report(worker, &stored).await;
        let seen = seen(&store, worker).await.unwrap();
        assert_eq!(seen.report.is_some(), is_known, "{stored:.80}");
    }
    // The next one is a report again.
    renew(&store, worker, &report(2)).await;
    assert_eq!(seen(&store, worker).await.unwrap().report, Some(report(2)));
}

async fn a_report_renews_the_lease_that_it_comes_with_and_no_other(database: TestDatabase) {
    let store = database.open().await;
    let (worker, other) = (new_worker(&store).await, new_worker(&store).await);
    let beats = async |owner| {
        let others = store.renew(other, Ended::default()).await.unwrap().others;
        others.iter().find(|it| it.owner == owner).unwrap().beat
    };
    let before = beats(worker).await;
    renew(&store, worker, &report(1)).await;
    assert_eq!(beats(worker).await, before + 1);
    assert_eq!(seen(&store, other).await.unwrap().report, None);

    let unknown = OwnerId::generate();
    let report = report(1);
    let refused = store.renew_and_report(unknown, Ended::default(), &report);
    assert!(matches!(refused.await, Err(StoreError::LeaseLost)));
    assert_eq!(seen(&store, unknown).await, None);
}

async fn backlogs_are_counted_by_destination(database: TestDatabase) {
    let store = database.open().await;
    let hour = Duration::from_hours(1);
    for _ in 0..2 {
        let job = claimed(&store).await;
        let put_off = retry(timeout(1), hour);
        store.settle(job.claim, None, put_off).await.unwrap();
    }
    let overview = store.overview().await.unwrap();
    let [destination] = overview.destinations.as_slice() else {
        panic!("{overview:?}");
    };
    assert_eq!(
        (destination.tenant.as_ref(), destination.backlog),
        (None, 2)
    );
    assert_eq!(destination.origin, "http://example.com");
}
