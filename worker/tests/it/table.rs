//! A store of its own, and worker processes on it.

use storm_shared::{config::Settings, services::store::Store};
use tempfile::TempDir;

use crate::{
    process::WorkerProcess,
    program_database::{self, Direct, folder_on_sqlite},
    rows::Rows,
};

/// A short lease keeps the tests short.
pub(crate) const LEASE: (&str, &str) = ("WORKER_LEASE", "1s");

/// A store with workers as processes.
pub(crate) struct Table {
    pub(crate) store: Store,
    pub(crate) folder: TempDir,
}

impl Table {
    pub(crate) async fn new() -> Self {
        Self::of(TempDir::new().unwrap()).await
    }

    pub(crate) async fn on_sqlite() -> Self {
        Self::of(folder_on_sqlite()).await
    }

    pub(crate) async fn of(folder: TempDir) -> Self {
        let url = program_database::url(folder.path());
        let settings = [("DB_URL", url.as_str()), ("DB_SYNCHRONOUS", "normal")];
        let settings = Settings::with(settings).unwrap();
        let store = Store::open(&settings.store).await.unwrap();
        Self { store, folder }
    }

    /// Another program's connection.
    pub(crate) async fn database(&self) -> Direct {
        Direct::open(self.folder.path()).await
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
