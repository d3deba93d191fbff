//! The auditor: it reads the database with its own SQL, and logs all row changes with triggers.
//!
//! It does not use the store's code, because that is the code under test.

use std::{
    collections::HashMap,
    error::Error,
    path::Path,
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result};
use rusqlite::{
    Connection, OpenFlags, Row as SqlRow,
    types::{Type, ValueRef},
};

use super::history::{HistoryEvent, Record, Row, RowState, Transition};

/// Busy timeout of a read. In WAL mode only recovery after a crash locks readers out.
const TIMEOUT: Duration = Duration::from_secs(10);

const TRIGGERS: &str = include_str!("audit/triggers.sql");

/// The audit of a database. Clones share the connection.
#[derive(Clone, Debug)]
pub(super) struct Audit {
    connection: Arc<Mutex<Connection>>,
}

impl Audit {
    /// Installs the triggers in a database that a service has created.
    pub(super) async fn begin(database: &Path) -> Result<Self> {
        let path = database.to_owned();
        let open = move || {
            // NO_MUTEX: the mutex of `Audit` already serialises all use. No CREATE: a wrong path
            // must fail instead of yielding an empty database.
            let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            let connection = Connection::open_with_flags(path, flags)?;
            connection.busy_timeout(TIMEOUT)?;
            // IMMEDIATE: a deferred transaction that turns into a write can fail at once, whatever
            // the busy timeout.
            connection.execute_batch(&format!("BEGIN IMMEDIATE; {TRIGGERS} COMMIT"))?;
            Ok::<_, rusqlite::Error>(connection)
        };
        let connection = tokio::task::spawn_blocking(open).await?;
        let connection =
            connection.with_context(|| format!("can't audit {}", database.display()))?;
        Ok(Self {
            connection: Arc::new(Mutex::new(connection)),
        })
    }

    /// The number of unfinished jobs.
    pub(super) async fn unfinished(&self) -> Result<u64> {
        self.read(|db| {
            db.prepare_cached(
                "SELECT count(*) FROM requests WHERE status IN ('PENDING', 'PROCESSING')",
            )?
            .query_row([], |row| row.get(0).map(i64::unsigned_abs))
        })
        .await
    }

    /// The number of transitions so far.
    pub(super) async fn moves(&self) -> Result<i64> {
        self.read(|db| {
            db.prepare_cached("SELECT coalesce(max(number), 0) FROM chaos_moves")?
                .query_row([], |row| row.get(0))
        })
        .await
    }

    /// The heartbeat counter of each worker, by owner id.
    pub(super) async fn heartbeats(&self) -> Result<HashMap<String, i64>> {
        self.read(|db| {
            db.prepare_cached("SELECT owner, beat FROM workers")?
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect()
        })
        .await
    }

    /// The size of the database in bytes, as its file will have after a checkpoint.
    pub(super) async fn bytes(&self) -> Result<u64> {
        self.read(|db| {
            db.prepare_cached(
                "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size",
            )?
            .query_row([], |row| row.get(0).map(i64::unsigned_abs))
        })
        .await
    }

    /// All transitions, rows and events of the store.
    pub(super) async fn records(&self) -> Result<Vec<Record>> {
        self.read(|db| {
            // The services have stopped, so these reads need no common transaction.
            let mut records = Vec::new();
            let mut moves = db.prepare(MOVES)?;
            for moved in moves.query_map([], moved)? {
                records.push(Record::Transition(moved?));
            }
            let mut rows = db.prepare(ROWS)?;
            for row in rows.query_map([], final_row)? {
                records.push(Record::Row(row?));
            }
            let mut events = db.prepare(EVENTS)?;
            for event in events.query_map([], event)? {
                records.push(Record::Event(event?));
            }
            Ok(records)
        })
        .await
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

// `number` is the commit order, because SQLite has one writer at a time.
const MOVES: &str = "SELECT at, id,
        old_status, old_claim, old_owner, old_attempts, old_lost_claims, old_result, old_parks,
        new_status, new_claim, new_owner, new_attempts, new_lost_claims, new_result, new_parks
    FROM chaos_moves ORDER BY number";

fn moved(row: &SqlRow<'_>) -> rusqlite::Result<Transition> {
    let inserted = row.get_ref(2)? == ValueRef::Null;
    Ok(Transition {
        at: parsed(row, 0)?,
        id: parsed(row, 1)?,
        before: (!inserted).then(|| row_state(row, 2)).transpose()?,
        after: row_state(row, 9)?,
    })
}

const ROWS: &str = "SELECT id, json_extract(input_payload, '$.report_name'),
        status, claim, owner, attempts, lost_claims, result_payload, parks,
        failure_reason, failure_detail, callback_url IS NOT NULL, completed_at
    FROM requests ORDER BY id";

fn final_row(row: &SqlRow<'_>) -> rusqlite::Result<Row> {
    let over = row.get_ref(12)? != ValueRef::Null;
    Ok(Row {
        id: parsed(row, 0)?,
        report_name: row.get(1)?,
        state: row_state(row, 2)?,
        failure_reason: row.get(9)?,
        failure_detail: row.get(10)?,
        called_back: row.get(11)?,
        completed_at: over.then(|| parsed(row, 12)).transpose()?,
    })
}

const EVENTS: &str = "SELECT at, request_id, event, claim, detail FROM events
    UNION ALL
    SELECT at, request_id, 'resent', claim, NULL FROM resends
    ORDER BY request_id, at";

fn event(row: &SqlRow<'_>) -> rusqlite::Result<HistoryEvent> {
    Ok(HistoryEvent {
        at: parsed(row, 0)?,
        id: parsed(row, 1)?,
        event: row.get(2)?,
        claim: row.get(3)?,
        detail: row.get(4)?,
    })
}

/// Reads the seven columns from `first`.
fn row_state(row: &SqlRow<'_>, first: usize) -> rusqlite::Result<RowState> {
    Ok(RowState {
        status: parsed(row, first)?,
        claim: row.get(first + 1)?,
        owner: row.get(first + 2)?,
        attempts: row.get(first + 3)?,
        lost_claims: row.get(first + 4)?,
        result: row.get(first + 5)?,
        parks: row.get(first + 6)?,
    })
}

fn parsed<T: FromStr<Err: Into<Box<dyn Error + Send + Sync>>>>(
    row: &SqlRow<'_>,
    column: usize,
) -> rusqlite::Result<T> {
    let text = row.get_ref(column)?.as_str()?;
    text.parse().map_err(|error: T::Err| {
        rusqlite::Error::FromSqlConversionFailure(column, Type::Text, error.into())
    })
}

#[cfg(test)]
mod tests {
    use storm_shared::{
        config::Settings,
        models::{CallbackUrl, Records, ReportName, ReportSpec, RequestId, Status},
        services::{
            report::expected,
            store::{Candidate, Claim, NewJob, Outcome, OwnerId, Store},
        },
    };
    use tempfile::TempDir;

    use super::{Audit, HistoryEvent, Record, Transition};

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
        store.claim(owner, candidates).await.unwrap()[0].claim
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
        let ended = store.finalise(claim, Some(&report), None, Outcome::Completed);
        ended.await.unwrap();
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
        store.record_resend(claim).await.unwrap();
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
