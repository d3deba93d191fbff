//! A database file that can't be used: refused unchanged, or retried until it can.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use rusqlite::Connection;
use storm_shared::{
    config::{Settings, StoreSettings},
    services::store::{Store, StoreError},
};
use tempfile::TempDir;
use tokio::time::timeout;

fn settings(folder: &TempDir) -> StoreSettings {
    let url = format!("sqlite:{}", database(folder).display());
    Settings::with([("DB_URL", url.as_str())]).unwrap().store
}

fn database(folder: &TempDir) -> std::path::PathBuf {
    folder.path().join("storm.db")
}

/// Every file in a directory, byte for byte.
fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).unwrap().map(Result::unwrap);
    entries
        .filter(|entry| entry.path().is_file())
        .map(|entry| {
            let name = entry.file_name().into_string().unwrap();
            (name, fs::read(entry.path()).unwrap())
        })
        .collect()
}

/// Creates a store's database, closes it, and applies `change`.
async fn changed(folder: &TempDir, change: &str) {
    Store::open(&settings(folder)).await.unwrap().close().await;
    let direct = Connection::open(database(folder)).unwrap();
    direct.execute_batch(change).unwrap();
}

/// Opening must fail at once with a one-line error that contains `words`, and change no file.
async fn is_refused_unchanged(folder: &TempDir, words: &str) {
    let before = contents(folder.path());
    let refused = Store::open(&settings(folder)).await.err();
    let said = refused.expect(words).to_string();
    assert!(
        said.contains("storm.db: ") && said.contains(words),
        "{said}"
    );
    assert_eq!(said.lines().count(), 1);
    assert!(contents(folder.path()) == before, "it changed: {words}");
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused_unchanged() {
    let folder = TempDir::new().unwrap();
    for size in [1, 99, 4096, 10_000] {
        fs::write(database(&folder), "letters, not a database".repeat(size)).unwrap();
        is_refused_unchanged(&folder, "is not an SQLite database; use another file").await;
    }
}

#[tokio::test]
async fn another_programs_database_is_refused_unchanged_in_every_journal_mode() {
    for mode in ["DELETE", "WAL"] {
        let folder = TempDir::new().unwrap();
        let theirs = Connection::open(database(&folder)).unwrap();
        let made = format!("PRAGMA journal_mode = {mode}; CREATE TABLE theirs (x)");
        theirs.execute_batch(&made).unwrap();
        drop(theirs);
        is_refused_unchanged(&folder, "not a database of this service").await;
        let theirs = Connection::open(database(&folder)).unwrap();
        theirs.pragma_update(None, "application_id", 7).unwrap();
        drop(theirs);
        is_refused_unchanged(&folder, "belongs to another program").await;
    }
}

#[tokio::test]
async fn a_newer_schema_is_refused_unchanged() {
    let folder = TempDir::new().unwrap();
    let newer = "PRAGMA user_version = 99; UPDATE store SET oldest = 98";
    changed(&folder, newer).await;
    is_refused_unchanged(&folder, "has schema version 99").await;
}

#[tokio::test]
async fn a_newer_schema_that_works_with_this_version_is_opened() {
    let folder = TempDir::new().unwrap();
    changed(&folder, "PRAGMA user_version = 99").await;
    let store = Store::open(&settings(&folder)).await.unwrap();
    store.check().await.unwrap();
    store.close().await;
}

#[tokio::test]
async fn a_newer_schema_that_is_only_in_the_wal_is_refused_unchanged() {
    // What a killed process of a newer version leaves: a WAL that was not checkpointed.
    let (made, left) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let store = Store::open(&settings(&made)).await.unwrap();
    let newer = Connection::open(database(&made)).unwrap();
    newer
        .execute_batch("PRAGMA user_version = 99; UPDATE store SET oldest = 98")
        .unwrap();
    for name in ["storm.db", "storm.db-wal"] {
        fs::copy(made.path().join(name), left.path().join(name)).unwrap();
    }
    drop(newer);
    store.close().await;

    let before = contents(left.path());
    let refused = Store::open(&settings(&left)).await.err().unwrap();
    assert!(
        refused.to_string().contains("schema version 99"),
        "{refused}"
    );
    let mut after = contents(left.path());
    after.remove("storm.db-shm"); // the WAL's index, rebuilt by any reader
    assert!(after == before, "it changed");
}

#[tokio::test]
async fn a_directory_at_the_databases_path_is_refused() {
    let folder = TempDir::new().unwrap();
    fs::create_dir(database(&folder)).unwrap();
    is_refused_unchanged(&folder, "is not a file").await;
    assert_eq!(contents(&database(&folder)), BTreeMap::new());
}

#[tokio::test]
async fn a_path_through_a_file_is_refused() {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("file"), "").unwrap();
    let url = format!("sqlite:{}/file/storm.db", folder.path().display());
    let settings = Settings::with([("DB_URL", url.as_str())]).unwrap().store;
    let refused = Store::open(&settings).await.err().unwrap();
    assert!(matches!(refused, StoreError::Unusable(_)), "{refused}");
}

#[tokio::test]
async fn a_damaged_database_is_refused_at_start() {
    let folder = TempDir::new().unwrap();
    changed(&folder, "").await;
    let file = fs::OpenOptions::new()
        .write(true)
        .open(database(&folder))
        .unwrap();
    // Zero all but the first page, which still identifies the file.
    let size = file.metadata().unwrap().len();
    file.set_len(4096).unwrap();
    file.set_len(size).unwrap();
    drop(file);
    let refused = Store::open(&settings(&folder)).await.err().unwrap();
    let said = refused.to_string();
    assert!(
        said.contains("damaged") && said.contains("backup"),
        "{said}"
    );
}

#[tokio::test]
async fn a_locked_database_is_opened_when_the_lock_is_released() {
    let folder = TempDir::new().unwrap();
    changed(&folder, "").await;
    let lock = Connection::open(database(&folder)).unwrap();
    lock.execute_batch(
        "PRAGMA locking_mode = EXCLUSIVE; BEGIN IMMEDIATE; PRAGMA user_version = 0; ROLLBACK",
    )
    .unwrap();
    let settings = settings(&folder);
    let mut opening = Box::pin(Store::open(&settings));
    // Opening can't succeed before the lock is dropped, however slow this machine is.
    let waited = timeout(Duration::from_millis(300), &mut opening).await;
    assert!(waited.is_err(), "opening retries instead of failing");
    drop(lock);
    opening.await.unwrap().check().await.unwrap();
}
