//! A store of its own, and worker processes on it.

use std::{path::PathBuf, time::Duration};

use storm_shared::{
    config::Settings,
    models::{CallbackUrl, Records, ReportName, ReportSpec, Request, RequestId, Status},
    services::store::{NewJob, Store},
};
use tempfile::TempDir;

use crate::process::WorkerProcess;

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

    pub(crate) async fn accept(&self, records: u64, callback_url: Option<String>) -> RequestId {
        let id = RequestId::generate();
        let spec = ReportSpec {
            report_name: ReportName::try_from("Q1_Finance".to_owned()).unwrap(),
            records: Records::new(records, Records::MAX_ASYNC).unwrap(),
        };
        let callback = callback_url.map(|url| CallbackUrl::parse(&url).unwrap());
        self.store
            .accept(NewJob::new(id, spec, callback))
            .await
            .unwrap();
        id
    }

    pub(crate) async fn find(&self, id: RequestId) -> Request {
        self.store.find(id).await.unwrap().unwrap()
    }

    pub(crate) async fn row_when(
        &self,
        id: RequestId,
        wanted: impl Fn(&Request) -> bool,
    ) -> Request {
        loop {
            let row = self.find(id).await;
            if wanted(&row) {
                return row;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub(crate) async fn ended(&self, id: RequestId) -> Request {
        let is_final = |row: &Request| matches!(row.status, Status::Completed | Status::Failed);
        self.row_when(id, is_final).await
    }
}
