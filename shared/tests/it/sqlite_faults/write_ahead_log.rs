//! The write-ahead log: when it is truncated, and when it is deleted.

use std::time::Duration;

use futures_util::future::join_all;

use super::new_store;
use crate::jobs::{accept, accept_in_tasks, due_jobs, next_millisecond};

#[tokio::test(start_paused = true)]
async fn after_a_load_the_wal_is_truncated() {
    let (store, folder) = new_store().await;
    let accepting = (0..5000).map(|_| accept(&store));
    join_all(accepting).await;
    let log = folder.path().join("storm.db-wal");
    let size = || std::fs::metadata(&log).unwrap().len();
    assert!(size() > 1 << 20, "{}", size());
    while size() > 0 {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    next_millisecond().await;
    assert_eq!(due_jobs(&store, 10_000).await.due.len(), 5000);
}

#[tokio::test]
async fn closing_the_store_checkpoints_and_deletes_the_wal() {
    let (store, folder) = new_store().await;
    let writes = accept_in_tasks(&store, 500).await;
    store.close().await;
    join_all(writes).await;
    let log = folder.path().join("storm.db-wal");
    assert!(!log.exists());
}
