//! Backups of a live database, restored: with sqlite3's own commands, as docs/BACKUP.md has them.

use std::{
    collections::BTreeSet,
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use storm_shared::services::store::{Store, StoreError, Trouble};
use tempfile::TempDir;

use crate::store::{accept, claim_due, direct, new_store, new_worker, settings};

/// Runs a shell command that makes `copy` from the live database `live`.
fn back_up(command: &str, live: &Path, copy: &Path) {
    let made = Command::new("bash")
        .args(["-euo", "pipefail", "-c", command])
        .env("LIVE", live)
        .env("COPY", copy)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&made.stderr);
    assert!(made.status.success(), "{command} (needs sqlite3): {said}");
}

fn ids(folder: &TempDir) -> BTreeSet<String> {
    let database = direct(folder);
    let mut query = database.prepare("SELECT id FROM requests").unwrap();
    let ids = query.query_map([], |row| row.get(0)).unwrap();
    ids.collect::<Result<_, _>>().unwrap()
}

/// A backup that is made while jobs are accepted has every job that was accepted before it began,
/// is opened, keeps the store's id, and runs its jobs.
async fn is_restored(command: &str) {
    let (store, folder) = new_store().await;
    let live = folder.path().join("storm.db");
    let mut before = BTreeSet::new();
    for _ in 0..50 {
        before.insert(accept(&store).await.to_string());
    }
    let owner = new_worker(&store).await; // it does not come along
    let done = Arc::new(AtomicBool::new(false));
    let load = tokio::spawn({
        let (store, done) = (store.clone(), Arc::clone(&done));
        async move {
            let mut accepted = 0;
            while !done.load(Ordering::Relaxed) {
                accept(&store).await;
                accepted += 1;
            }
            accepted
        }
    });
    let restored = TempDir::new().unwrap();
    let copy = restored.path().join("storm.db");
    let command = command.to_owned();
    tokio::task::spawn_blocking(move || back_up(&command, &live, &copy))
        .await
        .unwrap();
    done.store(true, Ordering::Relaxed);
    assert!(load.await.unwrap() > 0, "the backup was made under load");

    let copy = Store::open(&settings(restored.path())).await.unwrap();
    assert_eq!(copy.id(), store.id());
    let (kept, original) = (ids(&restored), ids(&folder));
    assert!(before.is_subset(&kept) && kept.is_subset(&original));
    let sound: String = direct(&restored)
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .unwrap();
    assert_eq!(sound, "ok");
    copy.check().await.unwrap();
    assert!(!claim_due(&copy).await.is_empty());
    copy.close().await;
    // The marks are written: the next start recognises the file at once.
    let again = Store::open(&settings(restored.path())).await.unwrap();
    store.deregister(owner).await.unwrap();
    again.close().await;
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_made_under_load_by_vacuum_into_is_restored() {
    is_restored(r#"sqlite3 "$LIVE" "VACUUM INTO '$COPY'""#).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_made_under_load_by_the_backup_command_is_restored() {
    // In a transaction: otherwise every commit of the service restarts the backup.
    let command = r#"sqlite3 -bail "$LIVE" BEGIN 'SELECT count(*) FROM store' ".backup '$COPY'""#;
    is_restored(command).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_made_under_load_from_a_dump_is_restored() {
    is_restored(r#"sqlite3 "$LIVE" .dump | sqlite3 "$COPY""#).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dump_saves_of_a_damaged_database_is_opened() {
    let (store, folder) = new_store().await;
    let id = accept(&store).await.to_string();
    store.close().await;
    // Damage an index, so that every row can be saved.
    let page: u32 = direct(&folder)
        .query_row(
            "SELECT rootpage FROM sqlite_schema WHERE name = 'requests_by_work'",
            [],
            |row| row.get(0),
        )
        .unwrap();
    let path = folder.path().join("storm.db");
    let mut bytes = fs::read(&path).unwrap();
    let start = usize::try_from(page - 1).unwrap() * 4096;
    bytes[start..start + 4096].fill(0xA5);
    fs::write(&path, bytes).unwrap();

    let recovered = TempDir::new().unwrap();
    let copy = recovered.path().join("storm.db");
    // At damage in a table, a dump ends with a ROLLBACK of all that it has saved.
    let command = r#"sqlite3 "$LIVE" .dump | sed 's/^ROLLBACK;.*/COMMIT;/' | sqlite3 "$COPY""#;
    back_up(command, &path, &copy);
    let store = Store::open(&settings(recovered.path())).await.unwrap();
    assert_eq!(ids(&recovered), BTreeSet::from([id]));
    assert_eq!(claim_due(&store).await.len(), 1);
    store.close().await;
}

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
    assert!(matches!(refused, StoreError::Moved), "{refused}");
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
            matches!(refused, StoreError::Moved),
            "{name} {change}: {refused}"
        );
        assert_eq!(refused.trouble(), Some(Trouble::Moved));
        assert_eq!(store.trouble(), Some(Trouble::Moved));
        let refused = crate::store::try_accept(&store).await;
        assert!(matches!(refused, Err(StoreError::Moved)), "{name} {change}");
        // A worker's writes go on: the accepted jobs are in the open file.
        store.renew(owner).await.unwrap();
        if change == "rename" {
            fs::rename(&away, &path).unwrap();
            store.check().await.unwrap();
            accept(&store).await;
        }
        store.close().await;
    }
}
