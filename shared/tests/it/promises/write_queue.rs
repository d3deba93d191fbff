//! The write queue: group commit, load shedding, and the drain at the end.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt;
use prometheus_client::registry::Registry;
use storm_shared::{
    config::StoreSettings,
    memory::MemoryBudget,
    models::{IdempotencyKey, ReportName, ReportSpec, RequestId},
    services::{
        scrape,
        store::{Acceptance, Held, NewJob, Paused, Store, StoreError, StoreMetrics},
    },
};
use tokio::task::JoinSet;

use crate::{
    database::TestDatabase,
    jobs::{accept_in_tasks, spec, try_accept},
};

on_every_engine! {
    a_failed_write_does_not_fail_its_group_commit,
    a_full_write_queue_rejects_at_once,
    an_operators_write_waits_for_room_in_a_full_queue,
    queued_writes_are_committed_when_the_store_closes,
    writes_queued_behind_a_lock_fail_with_the_first_one,
    a_job_counts_as_memory_until_it_is_committed_even_if_its_caller_is_gone,
    who_is_told_of_a_stored_job_is_told_even_if_its_caller_is_gone,
    commits_and_queues_are_measured,
}

async fn a_failed_write_does_not_fail_its_group_commit(database: TestDatabase) {
    // Four slots. That all four writes below are queued shows that the writer holds the first one,
    // which waits for the lock; so the four share the next transaction.
    let four = StoreSettings {
        write_queue: 4,
        ..database.settings()
    };
    let store = Arc::new(Store::open(&four).await.unwrap());
    // By its name each is another job, also under the same id.
    let accepting = |(name, id): (&str, _)| {
        let store = Arc::clone(&store);
        let report_name = ReportName::try_from(name.to_owned()).unwrap();
        let spec = ReportSpec {
            report_name,
            ..spec()
        };
        tokio::spawn(async move { store.accept(NewJob::new(id, spec, None)).await })
    };
    let lock = database.hold_lock().await;
    let first = accepting(("first", RequestId::generate()));
    for _ in 0..10 {
        tokio::task::yield_now().await; // single-threaded: the task queues it, the writer takes it
    }
    let twice = RequestId::generate();
    let writes = [
        ("a", twice),
        ("b", RequestId::generate()),
        ("c", twice),
        ("d", RequestId::generate()),
    ]
    .map(accepting);
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    lock.release().await;
    first.await.unwrap().unwrap();
    let mut failed = Vec::new();
    for write in writes {
        failed.extend(write.await.unwrap().err());
    }
    assert!(
        matches!(failed[..], [StoreError::Failed { .. }]),
        "{failed:?}"
    );
    assert_eq!(database.count().await, 4);
}

async fn a_full_write_queue_rejects_at_once(database: TestDatabase) {
    let few = StoreSettings {
        write_queue: 1,
        ..database.settings()
    };
    let store = Store::open(&few).await.unwrap();
    let lock = database.hold_lock().await;
    // The writer holds at most one write and the queue one: of three, one is rejected.
    let mut writes = JoinSet::new();
    for _ in 0..3 {
        let store = store.clone();
        writes.spawn(async move { try_accept(&store).await });
    }
    let first = writes.join_next().await.unwrap().unwrap();
    assert!(matches!(first, Err(StoreError::QueueFull)), "{first:?}");
    lock.release().await;
    assert!(writes.join_all().await.iter().any(Result::is_ok));
}

async fn an_operators_write_waits_for_room_in_a_full_queue(database: TestDatabase) {
    let everything = || Paused::Everything;
    for (patience, is_written) in [(Duration::from_hours(1), true), (Duration::ZERO, false)] {
        let few = StoreSettings {
            write_queue: 1,
            operator_patience: patience,
            ..database.settings()
        };
        let store = Store::open(&few).await.unwrap();
        let lock = database.hold_lock().await;
        // Full, and still full after whoever commits has had the time to take some, and waits for
        // the lock.
        let mut refused = 0;
        while refused < 2 {
            let is_full = matches!(
                try_accept(&store).now_or_never(),
                Some(Err(StoreError::QueueFull))
            );
            refused = if is_full { refused + 1 } else { 0 };
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
        }
        let mut pause = Box::pin(store.pause(everything(), "ops".parse().unwrap()));
        if is_written {
            assert!((&mut pause).now_or_never().is_none(), "it waits");
            lock.release().await;
            assert_eq!(pause.await.unwrap(), Ok(true));
        } else {
            let refused = pause.await;
            assert!(matches!(refused, Err(StoreError::QueueFull)), "{refused:?}");
            lock.release().await;
        }
        store.close().await;
    }
}

async fn queued_writes_are_committed_when_the_store_closes(database: TestDatabase) {
    let store = database.open().await;
    let writes = accept_in_tasks(&store, 500).await;
    store.close().await;
    let mut accepted = 0;
    for write in writes {
        match write.await.unwrap() {
            Ok(_) => accepted += 1,
            Err(error) => assert!(matches!(error, StoreError::Closed), "{error}"),
        }
    }
    assert_eq!(database.count().await, accepted);
}

async fn writes_queued_behind_a_lock_fail_with_the_first_one(database: TestDatabase) {
    let store = database.open().await;
    let lock = database.hold_lock().await;
    // Several transactions' worth: if each waited separately, the last would find the lock free.
    let mut writes = JoinSet::new();
    for _ in 0..4000 {
        let store = store.clone();
        writes.spawn(async move { try_accept(&store).await });
    }
    let first = writes.join_next().await.unwrap().unwrap();
    assert!(first.is_err(), "{first:?}");
    lock.release().await;
    let mut refused = 0;
    while let Some(write) = writes.join_next().await {
        refused += usize::from(write.unwrap().is_err());
    }
    assert!(refused > 2 * 1024, "only {refused} failed together");
}

async fn a_job_counts_as_memory_until_it_is_committed_even_if_its_caller_is_gone(
    database: TestDatabase,
) {
    let store = database.open().await;
    let budget = MemoryBudget::new(1000);
    let lock = database.hold_lock().await;
    let held = Arc::new(());
    let job = NewJob {
        memory: budget.reserve_up_to(100).map(Arc::new),
        held: Some(Arc::clone(&held) as Held),
        ..NewJob::new(RequestId::generate(), spec(), None)
    };
    let mut accepting = Box::pin(store.accept(job));
    // The first poll queues the write.
    assert!(accepting.as_mut().now_or_never().is_none());
    drop(accepting);
    assert_eq!(budget.reserved(), 100);
    assert!(Arc::strong_count(&held) > 1);
    lock.release().await;
    store.close().await;
    assert_eq!((database.count().await, budget.reserved()), (1, 0));
    assert_eq!(Arc::strong_count(&held), 1);
}

async fn who_is_told_of_a_stored_job_is_told_even_if_its_caller_is_gone(database: TestDatabase) {
    let store = database.open().await;
    let told = Arc::new(AtomicUsize::new(0));
    let telling = |key: &str| {
        let told = Arc::clone(&told);
        NewJob {
            idempotency_key: Some(IdempotencyKey::try_from(key.as_bytes()).unwrap()),
            on_stored: Some(Arc::new(move || {
                told.fetch_add(1, Ordering::Relaxed);
            })),
            ..NewJob::new(RequestId::generate(), spec(), None)
        }
    };
    let lock = database.hold_lock().await;
    let mut accepting = Box::pin(store.accept(telling("a")));
    // The first poll queues the write.
    assert!(accepting.as_mut().now_or_never().is_none());
    drop(accepting);
    assert_eq!(told.load(Ordering::Relaxed), 0);
    lock.release().await;
    let second = telling("b");
    store.accept(second.clone()).await.unwrap();
    while told.load(Ordering::Relaxed) < 2 {
        tokio::task::yield_now().await;
    }
    // Nobody is told of a replay. Of a repeat somebody may be told twice.
    let replayed = store.accept(telling("a")).await.unwrap();
    assert!(matches!(replayed, Acceptance::Replayed { .. }));
    assert_eq!(told.load(Ordering::Relaxed), 2);
    assert_eq!(store.accept(second).await.unwrap(), Acceptance::Stored);
    assert_eq!(told.load(Ordering::Relaxed), 3);
}

async fn commits_and_queues_are_measured(database: TestDatabase) {
    let metrics = StoreMetrics::default();
    let mut registry = Registry::default();
    registry.register_collector(Box::new(metrics.clone()));
    assert_eq!(scrape::render(&registry), "", "no store is open");
    let four = StoreSettings {
        write_queue: 4,
        ..database.settings()
    };
    let store = Store::open(&four).await.unwrap();
    metrics.watch(&store);
    let value = |name: &str| -> String {
        let text = scrape::render(&registry);
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let value = line.unwrap_or_else(|| panic!("no {name} in\n{text}"));
        value.trim().to_owned()
    };
    assert_ne!(value("database_bytes "), "0");
    assert_eq!(value("write_queue_capacity "), "4");
    assert_eq!(value("write_queue_depth "), "0");
    let lock = database.hold_lock().await;
    let writes = accept_in_tasks(&store, 4).await;
    for _ in 0..10 {
        tokio::task::yield_now().await; // the writer may take them all, and waits for the lock
    }
    lock.release().await;
    for write in writes {
        write.await.unwrap().unwrap();
    }
    assert_eq!(value("group_commit_writes_sum "), "4.0");
    let commits = value("group_commit_writes_count ");
    assert!((1..=4).contains(&commits.parse().unwrap()), "{commits}");
    assert_eq!(value("commit_seconds_count "), commits);
    assert_ne!(value("commit_seconds_sum "), "0.0");
    assert_eq!(value("write_queue_depth "), "0");
    assert_eq!(value("failed_commits_total{trouble=\"locked\"} "), "0");

    let lock = database.hold_lock().await;
    try_accept(&store).await.unwrap_err();
    lock.release().await;
    assert_eq!(value("failed_commits_total{trouble=\"locked\"} "), "1");
    assert_eq!(
        value("commit_seconds_count "),
        commits,
        "committed ones only"
    );
}
