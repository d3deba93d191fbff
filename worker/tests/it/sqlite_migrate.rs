//! A worker whose store is moved to another database while it works.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use storm_shared::{
    config::Settings,
    models::{EventKind, RequestId, Status},
    services::store::Store,
};
use tempfile::TempDir;
use tokio::{sync::watch, time::sleep};

use crate::{
    postgres_database::PostgresDatabase, process::WorkerProcess, receiver::Receiver, rows::accept,
};

async fn until_it_says(worker: &WorkerProcess, path: &str, wanted: &str) {
    loop {
        let answer = worker.get(path).await.unwrap();
        if answer.contains(wanted) {
            return;
        }
        sleep(Duration::from_millis(5)).await;
    }
}

async fn ended(store: &Store, id: RequestId) -> storm_shared::models::Request {
    loop {
        let row = store.find(id).await.unwrap().unwrap();
        if row.status == Status::Completed {
            return row;
        }
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_worker_whose_store_was_moved_ends_nothing_and_claims_nothing_and_another_one_goes_on() {
    // Whoever holds a callback is never answered, until the first worker has ended.
    static HOLDS: AtomicBool = AtomicBool::new(true);
    let (release, released) = watch::channel(());
    let mut receiver = Receiver::answering_when(move |_, _| {
        let mut released = released.clone();
        async move {
            if HOLDS.load(Ordering::SeqCst) {
                let _ = released.changed().await;
            }
            200
        }
    })
    .await;
    let (folder, database) = (TempDir::new().unwrap(), PostgresDatabase::fresh().await);
    let file = format!("sqlite:{}", folder.path().join("storm.db").display());
    let at = |url: &str| Settings::with([("DB_URL", url)]).unwrap().store;
    let (from, to) = (at(&file), at(&database.url()));
    let old = Store::open(&from).await.unwrap();
    let slow = [("CALLBACK_TIMEOUT", "10m"), ("WORKER_LEASE", "1s")];
    let worker = WorkerProcess::start(folder.path(), &slow);
    let held = accept(&old, 10, Some(receiver.url())).await;
    let first = receiver.next().await;

    Store::migrate(&from, &to, |_| {}).await.unwrap();
    until_it_says(&worker, "/readyz", "HTTP/1.1 503").await;
    until_it_says(&worker, "/healthz", "migrated to another database").await;
    // Its job was taken from it.
    until_it_says(&worker, "/metrics", "storm_worker_jobs 0").await;

    HOLDS.store(false, Ordering::SeqCst);
    let new = Store::open(&to).await.unwrap();
    let later = accept(&new, 10, Some(receiver.url())).await;
    let url = database.url();
    let target = [("DB_URL", url.as_str()), slow[0], slow[1]];
    let second = WorkerProcess::start(folder.path(), &target);
    let row = ended(&new, held).await;
    ended(&new, later).await;
    // At least once: the same bytes, and the reason why.
    let bodies = [receiver.next().await, receiver.next().await];
    assert!(bodies.contains(&first));
    assert_eq!((row.claims, row.attempts.len()), (2, 1));
    let events: Vec<_> = row.events.iter().map(|event| event.event).collect();
    assert_eq!(events, [EventKind::ClaimLost]);

    // The answer to the first worker changes nothing in either.
    drop(release);
    let before = old.find(held).await.unwrap().unwrap();
    assert_eq!(before.status, Status::Pending);
    for worker in [worker, second] {
        worker.signal("TERM");
        assert!(worker.ended().await.success());
    }
    assert_eq!(
        old.find(held).await.unwrap().unwrap().status,
        Status::Pending
    );
    assert_eq!(new.find(held).await.unwrap().unwrap().claims, 2);
}
