//! Direct access to the table, and the triggers that record every change of a row.

use std::collections::BTreeMap;

use rusqlite::{Connection, Row as SqlRow};
use storm_shared::models::RequestId;
use tempfile::TempDir;

use super::{history::Moment, model::Row};

/// A separate connection to a store's file.
pub(super) struct Table(Connection);

/// Records each row after every change, also of several changes within one transaction.
const HISTORY: &str = "
    CREATE TABLE history (
        id, status, claim, owner, attempts, lost_claims, result_payload, next_attempt_at,
        failure_reason, completed_at, parks, beside_it
    );
    CREATE TRIGGER accepted AFTER INSERT ON requests BEGIN
        INSERT INTO history
        SELECT id, status, claim, owner, attempts, lost_claims, result_payload, next_attempt_at,
               failure_reason, completed_at, parks, 0
        FROM requests WHERE id = NEW.id;
    END;
    CREATE TRIGGER changed AFTER UPDATE ON requests BEGIN
        INSERT INTO history
        SELECT id, status, claim, owner, attempts, lost_claims, result_payload, next_attempt_at,
               failure_reason, completed_at, parks,
               (SELECT count(*) FROM requests AS other
                WHERE other.status = 'PROCESSING' AND other.owner = NEW.owner AND other.id <> NEW.id)
        FROM requests WHERE id = NEW.id;
    END;
    CREATE TRIGGER deleted BEFORE DELETE ON requests BEGIN
        SELECT raise(ABORT, 'a request was deleted');
    END;";

impl Table {
    /// Opens the database of the store in `folder`.
    pub(super) fn open(folder: &TempDir) -> Self {
        Self(crate::store::direct(folder))
    }

    /// Starts recording changes.
    pub(super) fn record_history(&self) {
        self.0.execute_batch(HISTORY).unwrap();
    }

    /// All jobs, with their events.
    pub(super) fn rows(&self) -> BTreeMap<RequestId, Row> {
        let mut rows: BTreeMap<_, _> = self.query(
            "SELECT id, status, claim, owner, attempts, lost_claims, result_payload, next_attempt_at,
                    failure_reason, completed_at, parks FROM requests",
            |row| (id(row), job(row)),
        );
        let events: Vec<_> = self.query(
            "SELECT request_id, event, claim, detail, number FROM events
             ORDER BY request_id, number",
            |row| {
                let event = (word(row, 1), row.get(2).unwrap(), row.get(3).unwrap());
                (id(row), event, row.get::<_, u32>(4).unwrap())
            },
        );
        for (id, event, number) in events {
            let events = &mut rows.get_mut(&id).unwrap().events;
            events.push(event);
            assert_eq!(
                u32::try_from(events.len()),
                Ok(number),
                "events count from 1"
            );
        }
        rows
    }

    /// The beat of each worker.
    pub(super) fn workers(&self) -> BTreeMap<String, i64> {
        self.query("SELECT owner, beat FROM workers", |row| {
            (row.get(0).unwrap(), row.get(1).unwrap())
        })
    }

    /// Jobs that nothing would reclaim: `PROCESSING` without a registered owner.
    pub(super) fn lost(&self) -> Vec<RequestId> {
        self.query(
            "SELECT id FROM requests WHERE status = 'PROCESSING'
               AND (owner IS NULL OR owner NOT IN (SELECT owner FROM workers))",
            id,
        )
    }

    /// All recorded changes of each job, in order, without events.
    pub(super) fn history(&self) -> BTreeMap<RequestId, Vec<Moment>> {
        let moments: Vec<_> = self.query("SELECT * FROM history ORDER BY rowid", |row| {
            let row_then = job(row);
            (id(row), Moment::new(row_then, row.get(11).unwrap()))
        });
        let mut history = BTreeMap::<_, Vec<_>>::new();
        for (id, moment) in moments {
            history.entry(id).or_default().push(moment);
        }
        history
    }

    fn query<T, C: FromIterator<T>>(&self, sql: &str, read: impl Fn(&SqlRow<'_>) -> T) -> C {
        let mut query = self.0.prepare_cached(sql).unwrap();
        let rows = query.query_map([], |row| Ok(read(row))).unwrap();
        rows.map(Result::unwrap).collect()
    }
}

fn id(row: &SqlRow<'_>) -> RequestId {
    word(row, 0)
}

fn job(row: &SqlRow<'_>) -> Row {
    let failure: Option<String> = row.get(8).unwrap();
    let completed_at: Option<String> = row.get(9).unwrap();
    Row {
        status: word(row, 1),
        claim: row.get(2).unwrap(),
        owner: row.get(3).unwrap(),
        attempts: row.get(4).unwrap(),
        lost_claims: row.get(5).unwrap(),
        parks: row.get(10).unwrap(),
        result: row.get(6).unwrap(),
        waits_until: row.get(7).unwrap(),
        failure: failure.map(|reason| reason.parse().unwrap()),
        is_over: completed_at.is_some(),
        events: Vec::new(),
    }
}

fn word<T: std::str::FromStr<Err: std::fmt::Debug>>(row: &SqlRow<'_>, column: usize) -> T {
    row.get_ref(column)
        .unwrap()
        .as_str()
        .unwrap()
        .parse()
        .unwrap()
}
