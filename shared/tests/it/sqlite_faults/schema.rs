//! The schema: what it refuses, what it lets an edit by hand store, and older versions of it.

use std::time::Duration;

use storm_shared::services::store::{Ended, OwnerId, Store};
use tempfile::TempDir;

use super::{direct, new_store, settings};
use crate::jobs::{MAX_CLAIMS, accept, claim_due, claim_new, new_worker};

#[tokio::test]
async fn a_row_with_an_invalid_id_is_rejected_by_the_table() {
    let (store, folder) = new_store().await;
    let id = accept(&store).await.to_string();
    for bad in [
        id.to_uppercase().as_str(),
        "1",
        "--------------7---------------------",
        "",
    ] {
        let renamed = direct(&folder).execute("UPDATE requests SET id = ?1", [bad]);
        assert!(renamed.is_err(), "{bad}");
    }
}

/// Replaces the owner of a worker's one job, and of its registration, by an invalid one.
fn rename_worker(folder: &TempDir, worker: OwnerId, owner: &str) {
    let db = direct(folder);
    for edit in [
        "UPDATE workers SET owner = ?2 WHERE owner = ?1",
        "UPDATE requests SET owner = ?2 WHERE owner = ?1",
    ] {
        assert_eq!(db.execute(edit, [&worker.to_string(), owner]), Ok(1));
    }
}

/// Reclaims one job from nobody, the only other worker.
async fn reclaim_from_nobody(store: &Store, observer: OwnerId) {
    let others = store
        .renew(observer, Ended::default())
        .await
        .unwrap()
        .others;
    let [nobody] = others[..] else {
        panic!("{others:?}")
    };
    assert_eq!(nobody.owner, OwnerId::NOBODY);
    let expired = store.expire(nobody, MAX_CLAIMS).await.unwrap().unwrap();
    assert_eq!(expired.reclaimed, 1);
}

#[tokio::test]
async fn a_renewal_finds_jobs_whose_registered_owner_is_no_uuid() {
    for owner in [
        "",
        "me",
        "6f1b1c52-0f5d-4f7e-9a53-3c7f5ad1f7bg",
        "6F1B1C52-0F5D-4F7E-9A53-3C7F5AD1F7B2",
    ] {
        let (store, folder) = new_store().await;
        let (id, gone) = (accept(&store).await, new_worker(&store).await);
        claim_new(&store, gone, &[id]).await;
        let observer = new_worker(&store).await;
        rename_worker(&folder, gone, owner);
        assert_eq!(
            store
                .renew(observer, Ended::default())
                .await
                .unwrap()
                .others,
            [],
            "{owner}"
        );
        reclaim_from_nobody(&store, observer).await;
        assert_eq!(claim_due(&store).await[0].claim.id, id, "{owner}");
    }
}

#[tokio::test]
async fn a_new_worker_finds_jobs_whose_owner_is_no_uuid() {
    for owner in ["", "me", "6F1B1C52-0F5D-4F7E-9A53-3C7F5AD1F7B2"] {
        let (store, folder) = new_store().await;
        let (id, gone) = (accept(&store).await, new_worker(&store).await);
        claim_new(&store, gone, &[id]).await;
        rename_worker(&folder, gone, owner);
        let observer = new_worker(&store).await;
        reclaim_from_nobody(&store, observer).await;
        assert_eq!(claim_due(&store).await[0].claim.id, id, "{owner}");
    }
}

#[tokio::test]
async fn a_database_of_the_first_schema_version_is_migrated_with_its_jobs() {
    let folder = TempDir::new().unwrap();
    let db = direct(&folder);
    db.execute_batch(include_str!("../../../migrations/sqlite/0001_requests.sql"))
        .unwrap();
    db.execute_batch(
        "PRAGMA application_id = 0x53745271; PRAGMA user_version = 1;
         INSERT INTO requests (id, mode, status, input_payload, created_at, claim, owner)
         VALUES ('019dbbf8-6a35-7f02-a9f4-5e1f9c1b7c53', 'async', 'PROCESSING',
                 '{\"report_name\":\"Q1\",\"records\":1}', '2026-11-23T12:00:00.000Z', 1,
                 '6f1b1c52-0f5d-4f7e-9a53-3c7f5ad1f7b2')",
    )
    .unwrap();
    let store = Store::open(&settings(folder.path())).await.unwrap();
    let observer = new_worker(&store).await;
    let other = store
        .renew(observer, Ended::default())
        .await
        .unwrap()
        .others
        .pop()
        .unwrap();
    store.expire(other, MAX_CLAIMS).await.unwrap().unwrap();
    assert_eq!(claim_due(&store).await.len(), 1);
    tokio::time::timeout(Duration::from_mins(1), store.close())
        .await
        .unwrap();
}
