//! A store of its own, and worker processes on it.

use std::path::PathBuf;

use storm_shared::{config::Settings, services::store::Store};
use tempfile::TempDir;

use crate::{process::WorkerProcess, rows::Rows};

/// A short lease keeps the tests short.
pub(crate) const LEASE: (&str, &str) = ("WORKER_LEASE", "1s");

/// A store with workers as processes.
pub(crate) struct Table {
    pub(crate) store: Store,
    pub(crate) folder: TempDir,
}

impl Table {
    pub(crate) async fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let url = format!("sqlite:{}", folder.path().join("storm.db").display());
        let settings = [("DB_URL", url.as_str()), ("DB_SYNCHRONOUS", "normal")];
        let settings = Settings::with(settings).unwrap();
        let store = Store::open(&settings.store).await.unwrap();
        Self { store, folder }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("storm.db")
    }

    pub(crate) fn worker(&self, overrides: &[(&str, &str)]) -> WorkerProcess {
        let overrides: Vec<_> = [LEASE].iter().chain(overrides).copied().collect();
        WorkerProcess::start(self.folder.path(), &overrides)
    }
}

impl Rows for Table {
    fn store(&self) -> &Store {
        &self.store
    }
}
