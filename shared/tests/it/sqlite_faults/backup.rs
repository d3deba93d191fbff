//! Backups of a live database, restored: those of `storm-api backup`, and those of sqlite3's own
//! commands, as docs/BACKUP.md has them.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use storm_shared::services::store::Store;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::{direct, new_store, settings};
use crate::jobs::{accept, claim_due, new_worker};

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

async fn is_restored(command: &str) {
    let command = command.to_owned();
    is_restored_by(async move |live: PathBuf, copy: PathBuf| {
        tokio::task::spawn_blocking(move || back_up(&command, &live, &copy))
            .await
            .unwrap();
    })
    .await;
}

/// A backup that is made while jobs are accepted has every job that was accepted before it began,
/// is opened, keeps the store's id, and runs its jobs.
async fn is_restored_by(back_up: impl AsyncFnOnce(PathBuf, PathBuf)) {
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
    back_up(live, copy).await;
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
async fn a_backup_made_under_load_by_the_store_is_restored() {
    is_restored_by(async |live: PathBuf, copy: PathBuf| {
        let source = settings(live.parent().unwrap());
        let made = Store::backup(&source, &copy, false, CancellationToken::new()).await;
        assert_eq!(made.unwrap().bytes, fs::metadata(copy).unwrap().len());
    })
    .await;
}

#[tokio::test]
async fn a_backup_is_refused_beside_the_log_of_another_database() {
    let (store, folder) = new_store().await;
    let source = settings(folder.path());
    let place = TempDir::new().unwrap();
    let target = place.path().join("b.db");
    let names = || {
        let entries = fs::read_dir(&place).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.collect::<BTreeSet<_>>()
    };
    for log in ["b.db-wal", "b.db-journal"] {
        fs::write(place.path().join(log), "of another database").unwrap();
        for replace in [false, true] {
            let refused = Store::backup(&source, &target, replace, CancellationToken::new()).await;
            let problem = refused.unwrap_err().to_string();
            assert!(
                problem.contains(log) && problem.contains("use another name"),
                "{problem}"
            );
            assert_eq!(names(), BTreeSet::from([log.to_owned()]));
        }
        fs::remove_file(place.path().join(log)).unwrap();
    }
    // What a killed backup has left is in nobody's way, whatever the ids of the processes.
    let left = format!(".b.db.{}.partial", std::process::id());
    fs::write(place.path().join(&left), "left").unwrap();
    let made = Store::backup(&source, &target, false, CancellationToken::new()).await;
    made.unwrap();
    assert_eq!(names(), BTreeSet::from([left, "b.db".to_owned()]));
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
            "SELECT rootpage FROM sqlite_schema WHERE name = 'requests_by_status'",
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
