//! A backup that is made under load, and a stack that starts on it.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use rusqlite::Connection;
use storm_shared::{
    config::Settings,
    models::{RequestId, Status},
    services::store::{Scope, Store},
};
use tokio_util::sync::CancellationToken;

use crate::{
    receiver::Receiver,
    rows::{self, Rows as _},
    table::Table,
};

fn path(table: &Table) -> PathBuf {
    table.folder.path().join("storm.db")
}

/// The settings of a store in the folder of `table`.
fn settings(table: &Table) -> Settings {
    let url = format!("sqlite:{}", path(table).display());
    Settings::with([("DB_URL", url.as_str())]).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_made_under_load_has_every_accepted_job_and_its_unfinished_jobs_are_finished() {
    let live = Table::on_sqlite().await;
    let receiver = Receiver::answering(|_, _| 200).await;
    let url = receiver.url();
    let worker = live.worker(&[]);
    // Some end before the backup, some run while it is made, and one runs far longer.
    let long = live.accept(100_000, Some(url.clone())).await;
    let accepted: Arc<Mutex<Vec<RequestId>>> = Arc::default();
    let over = Arc::new(AtomicBool::new(false));
    let load = tokio::spawn({
        let (store, accepted, over) = (live.store.clone(), accepted.clone(), over.clone());
        async move {
            while !over.load(Ordering::Relaxed) {
                let id = rows::accept(&store, 20, Some(url.clone())).await;
                accepted.lock().unwrap().push(id);
            }
        }
    });
    let first = live.accept(1, Some(receiver.url())).await;
    live.ended(first).await;
    live.row_when(long, |row| row.status == Status::Processing)
        .await;

    let before = accepted.lock().unwrap().clone();
    let copied = Table::on_sqlite().await;
    copied.store.close().await;
    let copy = path(&copied);
    let made = Store::backup(
        &settings(&live).store,
        &copy,
        true,
        CancellationToken::new(),
    )
    .await;
    assert!(made.unwrap().bytes > 0);
    let during = accepted.lock().unwrap().len() - before.len();
    over.store(true, Ordering::Relaxed);
    load.await.unwrap();
    // The original must not deliver the same jobs beside the copy.
    worker.signal("KILL");
    worker.ended().await;
    assert!(
        !before.is_empty(),
        "there was load before the backup, and {during} jobs during it"
    );

    let copied = Table {
        store: Store::open(&settings(&copied).store).await.unwrap(),
        ..copied
    };
    let database = Connection::open(path(&copied)).unwrap();
    let sound: String = database
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .unwrap();
    assert_eq!(sound, "ok");
    assert_eq!(copied.find(first).await.status, Status::Completed);
    let unfinished: i64 = database
        .query_row(
            "SELECT count(*) FROM requests WHERE status IN ('PENDING', 'PROCESSING')",
            [],
            |row| row.get(0),
        )
        .unwrap();
    assert!(unfinished > 0);
    // It would run for a quarter of an hour.
    let cancelled = copied.store.cancel(Scope::All, long).await;
    cancelled.unwrap().unwrap();
    let _worker = copied.worker(&[]);
    for id in before {
        assert_eq!(copied.ended(id).await.status, Status::Completed);
    }
    let mut query = database.prepare("SELECT id FROM requests").unwrap();
    let all: Vec<String> = query
        .query_map([], |row| row.get(0))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    for id in all {
        copied.ended(id.parse().unwrap()).await;
    }
}
