//! The database's files while it is open: who can read them, and that they stay where they are.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
};

use storm_shared::services::store::{Ended, Store, StoreError, Trouble};
use tempfile::TempDir;

use super::{new_store, settings};
use crate::jobs::{accept, new_worker, try_accept};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn a_new_database_and_its_new_folder_are_private_and_existing_ones_stay_as_they_are() {
    let parent = TempDir::new().unwrap();
    let folder = parent.path().join("a/b");
    let store = Store::open(&settings(&folder)).await.unwrap();
    accept(&store).await;
    assert_eq!(mode(&parent.path().join("a")), 0o700);
    assert_eq!(mode(&folder), 0o700);
    for file in ["storm.db", "storm.db-wal", "storm.db-shm"] {
        assert_eq!(mode(&folder.join(file)), 0o600, "{file}");
    }
    store.close().await;
    fs::set_permissions(folder.join("storm.db"), Permissions::from_mode(0o664)).unwrap();
    fs::set_permissions(&folder, Permissions::from_mode(0o755)).unwrap();
    let store = Store::open(&settings(&folder)).await.unwrap();
    assert_eq!(mode(&folder.join("storm.db")), 0o664);
    assert_eq!(mode(&folder), 0o755);
    store.close().await;
}

#[tokio::test]
async fn a_database_behind_a_link_is_opened_and_another_target_is_noticed() {
    let (real, linked) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (file, link) = (real.path().join("real.db"), linked.path().join("storm.db"));
    // The link comes first: its target is created.
    symlink(&file, &link).unwrap();
    let store = Store::open(&settings(linked.path())).await.unwrap();
    accept(&store).await;
    store.check().await.unwrap();
    assert_eq!(mode(&file), 0o600);
    fs::remove_file(&link).unwrap();
    symlink(real.path().join("other.db"), &link).unwrap();
    let refused = store.check().await.unwrap_err();
    assert!(refused.trouble() == Some(Trouble::Moved), "{refused}");
    store.close().await;
}

#[tokio::test]
async fn nothing_is_accepted_into_a_database_that_is_no_longer_at_its_path() {
    for (name, change) in [
        ("storm.db", "rm"),
        ("storm.db", "rename"),
        ("storm.db", "replace"),
        ("storm.db-wal", "rm"),
        ("storm.db-shm", "rename"),
    ] {
        let (store, folder) = new_store().await;
        let owner = new_worker(&store).await;
        accept(&store).await;
        let (path, away) = (folder.path().join(name), folder.path().join("away"));
        match change {
            "rm" => fs::remove_file(&path).unwrap(),
            "rename" => fs::rename(&path, &away).unwrap(),
            _ => {
                fs::copy(&path, &away).unwrap();
                fs::rename(&away, &path).unwrap();
            }
        }
        let refused = store.check().await.unwrap_err();
        assert!(
            refused.trouble() == Some(Trouble::Moved),
            "{name} {change}: {refused}"
        );
        assert_eq!(refused.trouble(), Some(Trouble::Moved));
        assert_eq!(store.trouble(), Some(Trouble::Moved));
        let refused = try_accept(&store).await;
        assert!(
            matches!(
                refused,
                Err(StoreError::Failed {
                    trouble: Trouble::Moved,
                    ..
                })
            ),
            "{name} {change}"
        );
        // A worker's writes go on: the accepted jobs are in the open file.
        store.renew(owner, Ended::default()).await.unwrap();
        if change == "rename" {
            fs::rename(&away, &path).unwrap();
            store.check().await.unwrap();
            accept(&store).await;
        }
        store.close().await;
    }
}

#[tokio::test]
async fn a_closed_store_is_not_taken_for_one_whose_file_was_moved() {
    let (store, _folder) = new_store().await;
    store.check().await.unwrap();
    store.clone().close().await; // SQLite deletes the write-ahead log
    let checked = store.check().await;
    assert!(matches!(checked, Err(StoreError::Closed)), "{checked:?}");
}
