//! The auditor: it reads the database with its own SQL, and logs all row changes with triggers.
//!
//! It does not use the store's code, because that is the code under test.

mod sqlite;

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context as _, Result};
use rusqlite::Connection;

use super::history::Record;

/// The audit of a database. Clones share the connection.
#[derive(Clone, Debug)]
pub(super) struct Audit {
    connection: Arc<Mutex<Connection>>,
}

impl Audit {
    /// Installs the triggers in a database that a service has created.
    pub(super) async fn begin(database: &Path) -> Result<Self> {
        let path = database.to_owned();
        let connection = tokio::task::spawn_blocking(move || sqlite::open(&path)).await?;
        let connection =
            connection.with_context(|| format!("can't audit {}", database.display()))?;
        Ok(Self {
            connection: Arc::new(Mutex::new(connection)),
        })
    }

    /// The number of unfinished jobs.
    pub(super) async fn unfinished(&self) -> Result<u64> {
        self.read(sqlite::unfinished).await
    }

    /// The number of transitions so far.
    pub(super) async fn moves(&self) -> Result<i64> {
        self.read(sqlite::moves).await
    }

    /// The heartbeat counter of each worker, by owner id.
    pub(super) async fn heartbeats(&self) -> Result<HashMap<String, i64>> {
        self.read(sqlite::heartbeats).await
    }

    /// The size of the database in bytes, as its file will have after a checkpoint.
    pub(super) async fn bytes(&self) -> Result<u64> {
        self.read(sqlite::bytes).await
    }

    /// All transitions, rows and events of the store. Call it when the services have stopped.
    pub(super) async fn records(&self) -> Result<Vec<Record>> {
        self.read(sqlite::records).await
    }

    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        let connection = Arc::clone(&self.connection);
        // A poisoned lock is safe to take: reads leave nothing half done.
        let read = move || read(&connection.lock().unwrap_or_else(PoisonError::into_inner));
        let read = tokio::task::spawn_blocking(read).await?;
        read.context("can't read the database")
    }
}

#[cfg(test)]
mod tests {
    use storm_shared::{
        config::Settings,
        models::{CallbackUrl, Records, ReportName, ReportSpec, RequestId, Status},
        services::{
            report::expected,
            store::{Candidate, Claim, NewJob, Outcome, OwnerId, Settlement, Store},
        },
    };
    use tempfile::TempDir;

    use super::{Audit, Record};
    use crate::chaos::history::{HistoryEvent, Transition};

    struct Audited {
        _folder: TempDir,
        store: Store,
        audit: Audit,
    }

    async fn audited() -> Audited {
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("storm.db");
        let url = format!("sqlite:{}", file.display());
        let settings = Settings::with([("DB_URL", url.as_str())]).unwrap();
        let store = Store::open(&settings.store).await.unwrap();
        let audit = Audit::begin(&file).await.unwrap();
        Audited {
            _folder: folder,
            store,
            audit,
        }
    }

    fn spec() -> ReportSpec {
        ReportSpec {
            report_name: ReportName::try_from("one".to_owned()).unwrap(),
            records: Records::new(1, 49).unwrap(),
        }
    }

    async fn accept(store: &Store, callback: Option<CallbackUrl>) -> RequestId {
        let id = RequestId::generate();
        let job = NewJob::new(id, spec(), callback);
        store.accept(job).await.unwrap();
        id
    }

    async fn claim(store: &Store, owner: OwnerId, id: RequestId) -> Claim {
        store.register(owner).await.unwrap();
        let candidates = vec![Candidate::notified(id)];
        let mut claimed = store.claim(owner, candidates).await.unwrap();
        claimed.pop().unwrap().unwrap().claim
    }

    fn moves(records: &[Record]) -> Vec<&Transition> {
        let moves = records.iter().filter_map(|record| match record {
            Record::Transition(moved) => Some(moved),
            _ => None,
        });
        moves.collect()
    }

    fn last_event(records: &[Record]) -> &HistoryEvent {
        let Some(Record::Event(event)) = records.last() else {
            panic!("the store recorded an event: {records:?}")
        };
        event
    }

    #[tokio::test]
    async fn every_change_by_the_store_is_logged() {
        let Audited { store, audit, .. } = &audited().await;
        let url = CallbackUrl::parse("http://a/").unwrap();
        let id = accept(store, Some(url)).await;
        assert_eq!(audit.unfinished().await.unwrap(), 1);

        let owner = OwnerId::generate();
        let claim = claim(store, owner, id).await;
        let report = expected(&spec());
        store.store_result(claim, &report).await.unwrap();
        let finish = Settlement::Finish {
            attempt: None,
            outcome: Outcome::Completed,
        };
        store.settle(claim, Some(&report), finish).await.unwrap();
        assert_eq!(audit.unfinished().await.unwrap(), 0);

        let records = audit.records().await.unwrap();
        let moves = moves(&records);
        let statuses: Vec<_> = moves.iter().map(|moved| moved.after.status).collect();
        let expected = [
            Status::Pending,
            Status::Processing,
            Status::Processing,
            Status::Completed,
        ];
        assert_eq!(statuses, expected);
        assert_eq!(moves[0].before, None);
        for pair in moves.windows(2) {
            assert_eq!(pair[1].before.as_ref(), Some(&pair[0].after));
        }
        assert_eq!(audit.moves().await.unwrap(), 4);

        let [Record::Row(row)] = &records[4..] else {
            panic!("one row, and no event: {:?}", &records[4..])
        };
        assert_eq!(
            (row.id, row.report_name.as_str(), &row.state),
            (id, "one", &moves[3].after)
        );
        assert!(row.called_back && row.completed_at.is_some() && row.failure_reason.is_none());
    }

    #[tokio::test]
    async fn a_fenced_write_changes_nothing() {
        let Audited { store, audit, .. } = &audited().await;
        let id = accept(store, None).await;
        let owner = OwnerId::generate();
        let claim = claim(store, owner, id).await;
        store.deregister(owner).await.unwrap();
        let before = audit.moves().await.unwrap();
        let late = store.store_result(claim, &expected(&spec())).await;
        assert!(late.is_err());
        assert_eq!(audit.moves().await.unwrap(), before);

        let records = audit.records().await.unwrap();
        let event = last_event(&records);
        assert_eq!(
            (event.id, event.event.as_str(), event.claim),
            (id, "given_back", 1)
        );
    }

    #[tokio::test]
    async fn a_recorded_resend_is_read_as_an_event() {
        let Audited { store, audit, .. } = &audited().await;
        let id = accept(store, None).await;
        let claim = claim(store, OwnerId::generate(), id).await;
        store.record_resend(claim, 1).await.unwrap();
        let records = audit.records().await.unwrap();
        let event = last_event(&records);
        assert_eq!(
            (event.id, event.event.as_str(), event.claim),
            (id, "resent", 1)
        );
    }

    #[tokio::test]
    async fn heartbeats_of_a_worker_increase() {
        let Audited { store, audit, .. } = &audited().await;
        let owner = OwnerId::generate();
        store.register(owner).await.unwrap();
        let first = audit.heartbeats().await.unwrap();
        store.renew(owner).await.unwrap();
        let second = audit.heartbeats().await.unwrap();
        assert!(second[&owner.to_string()] > first[&owner.to_string()]);
    }
}
