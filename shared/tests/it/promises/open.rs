//! Opening a store, and whether it can be used.

use std::time::Duration;

use futures_util::future::join_all;
use storm_shared::services::store::Store;
use tokio::time::{sleep, timeout};

use crate::database::TestDatabase;

const PATIENCE: Duration = Duration::from_mins(2);

/// Between two looks at the same thing.
const PAUSE: Duration = Duration::from_millis(20);

on_every_engine! {
    stores_opened_concurrently_agree_on_one_database,
    a_database_that_can_not_be_written_fails_the_health_check,
}

async fn stores_opened_concurrently_agree_on_one_database(database: TestDatabase) {
    let opened = (0..6).map(|_| {
        let settings = database.settings();
        tokio::spawn(async move { Store::open(&settings).await.unwrap() })
    });
    let stores: Vec<_> = join_all(opened)
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    assert!(stores.windows(2).all(|pair| pair[0].id() == pair[1].id()));
}

async fn a_database_that_can_not_be_written_fails_the_health_check(database: TestDatabase) {
    let store = database.open().await;
    store.check().await.unwrap();
    let lock = database.hold_lock().await;
    // The result of the check's write can be a second old.
    let is_healthy = async |wanted| {
        while store.check().await.is_ok() != wanted {
            sleep(PAUSE).await;
        }
    };
    timeout(PATIENCE, is_healthy(false)).await.unwrap();
    lock.release().await;
    timeout(PATIENCE, is_healthy(true)).await.unwrap();
}
