//! Faults that only a database in a file can have: it is damaged, moved, locked, or restored from a
//! backup. And what `SQLite` stores although another engine would refuse it.

mod backup;
mod delivered;
mod erase;
mod files;
mod first_start;
mod freed_pages;
mod release_before;
mod schema;
mod unusable;
mod write_ahead_log;

use std::path::Path;

use rusqlite::Connection;
use storm_shared::{
    config::{Settings, StoreSettings},
    services::store::Store,
};
use tempfile::TempDir;

fn settings(folder: &Path) -> StoreSettings {
    let url = format!("sqlite:{}", folder.join("storm.db").display());
    Settings::with([("DB_URL", url.as_str()), ("DB_SYNCHRONOUS", "normal")])
        .unwrap()
        .store
}

async fn new_store() -> (Store, TempDir) {
    let folder = TempDir::new().unwrap();
    (Store::open(&settings(folder.path())).await.unwrap(), folder)
}

fn direct(folder: &TempDir) -> Connection {
    Connection::open(folder.path().join("storm.db")).unwrap()
}
