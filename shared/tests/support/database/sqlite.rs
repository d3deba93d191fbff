//! A database of the `SQLite` engine. The store creates the file and its folder.

use std::{
    fmt::Debug,
    path::PathBuf,
    str::FromStr,
    sync::{Mutex, OnceLock},
    time::Duration,
};

use rusqlite::{Connection, Row as SqlRow};
use storm_shared::{
    config::{Settings, StoreSettings},
    models::RequestId,
    services::store::{OwnerId, Work},
};
use tempfile::TempDir;

use super::{Due, Entry, History, Key, Moment, Parked, Row, Tables};

// SQLite stores any bytes as TEXT, even invalid UTF-8.
pub(super) const INVALID_JOBS: [&str; 5] = [
    "input_payload = '{}'",
    "input_payload = 'no JSON'",
    "input_payload = CAST(x'ff' AS TEXT)",
    "result_payload = '[]'",
    "callback_target = 'no URL'",
];
pub(super) const INVALID_TRACES: [&str; 3] = [
    "traceparent = NULL",
    "traceparent = '00-nonsense'",
    "traceparent = CAST(x'ff' AS TEXT)",
];
pub(super) const ODD_CLIENT_NAMES: [&str; 5] = [
    "''",
    "'no name'",
    "CAST(x'00' AS TEXT)",
    "CAST(x'ff' AS TEXT)",
    "CAST(x'ff00ff' AS TEXT)",
];
pub(super) const INVALID_CREATED_AT: &str = "created_at = 'yesterday'";
pub(super) const INVALID_DUE_TIMES: [&str; 2] = ["due = NULL", "due = -1"];

/// The columns that [`read`] reads, of each table of what is claimed.
const COLUMNS: [(&str, &str); 2] = [
    (
        "requests",
        "id, 0, status, claim, owner, attempts, 0, lost_claims, parks, due, result_payload,
         failure_reason, completed_at, erased_at, parked_at",
    ),
    (
        "redeliveries",
        "id, 1, status, claim, owner, attempts, attempts_before, lost_claims, parks, due, NULL,
         NULL, NULL, NULL, parked_at",
    ),
];

/// The attempts, wherever they are.
const ATTEMPTS: &str = "(
    SELECT request_id, number, class, claim FROM attempts
    UNION ALL
    SELECT id, delivered ->> 'number', 'success', delivered ->> 'claim' FROM requests
    WHERE delivered IS NOT NULL)";

/// The store time at the end of the century, in milliseconds. It begins as Unix time.
const FAR_FUTURE: i64 = 4_102_444_800_000;

/// Records each row after every change, also of several changes within one transaction.
const HISTORY: &str = "
    CREATE TABLE history (
        id, work, status, claim, owner, attempts, attempts_before, lost_claims, parks, due,
        result_payload, failure_reason, completed_at, erased_at, parked_at, beside_it, is_deleted,
        is_paused, is_origin_paused
    );
    CREATE TABLE attempts_ever (request_id, number, class, claim);
    CREATE TRIGGER attempts_ever AFTER INSERT ON attempts BEGIN
        INSERT INTO attempts_ever VALUES (NEW.request_id, NEW.number, NEW.class, NEW.claim);
    END;
    CREATE TRIGGER delivered_ever AFTER UPDATE OF delivered ON requests
    WHEN NEW.delivered IS NOT OLD.delivered BEGIN
        INSERT INTO attempts_ever VALUES (NEW.id, NEW.delivered ->> 'number', 'success',
            NEW.delivered ->> 'claim');
    END;
    CREATE TABLE events_ever (request_id, event, claim, detail, number);
    CREATE TRIGGER events_ever AFTER INSERT ON events BEGIN
        INSERT INTO events_ever
        VALUES (NEW.request_id, NEW.event, NEW.claim, NEW.detail, NEW.number);
    END;
    CREATE VIEW held AS
        SELECT id, owner FROM requests WHERE status = 'PROCESSING'
        UNION ALL
        SELECT id, owner FROM redeliveries WHERE status = 'PROCESSING';";

pub(crate) struct Database {
    folder: TempDir,
    /// Opened at its first use: a store has to create the file first.
    direct: OnceLock<Mutex<Connection>>,
}

/// A connection in a write transaction.
pub(crate) struct Lock(Connection);

impl Lock {
    pub(super) fn release(self) {
        self.0.execute_batch("ROLLBACK").unwrap();
    }
}

impl Database {
    pub(super) fn fresh() -> Self {
        Self {
            folder: TempDir::new().unwrap(),
            direct: OnceLock::new(),
        }
    }

    pub(super) fn settings(&self) -> StoreSettings {
        let url = format!("sqlite:{}", self.file().display());
        Settings::with([("DB_URL", url.as_str()), ("DB_SYNCHRONOUS", "normal")])
            .unwrap()
            .store
    }

    pub(super) fn hold_lock(&self) -> Lock {
        let lock = Connection::open(self.file()).unwrap();
        lock.execute_batch("BEGIN IMMEDIATE").unwrap();
        Lock(lock)
    }

    pub(super) fn edit(&self, id: RequestId, assignments: &str) {
        let edit = format!("UPDATE requests SET {assignments} WHERE id = ?1");
        let edited = self.direct(|db| db.execute(&edit, [id.to_string()]));
        assert_eq!(edited, Ok(1), "{assignments}");
    }

    pub(super) fn delete(&self, id: RequestId) {
        let deleted =
            self.direct(|db| db.execute("DELETE FROM requests WHERE id = ?1", [id.to_string()]));
        assert_eq!(deleted, Ok(1), "{id}");
    }

    pub(super) fn register_as_release_before(&self, owner: &str) -> Result<(), String> {
        let insert =
            format!("INSERT INTO workers (owner, beat, renewed_at) VALUES ('{owner}', 0, '')");
        let inserted = self.direct(|db| db.execute_batch(&insert));
        inserted.map_err(|error| error.to_string())
    }

    pub(super) fn set_heartbeat(&self, owner: OwnerId, at: &str) {
        self.execute(&format!(
            "UPDATE workers SET renewed_at = '{at}' WHERE owner = '{owner}'"
        ));
    }

    pub(super) fn set_report(&self, owner: OwnerId, report: &str) {
        self.execute(&format!(
            "UPDATE workers SET report = '{report}' WHERE owner = '{owner}'"
        ));
    }

    pub(super) fn forget_breakers(&self, owner: OwnerId) {
        self.execute(&format!(
            "UPDATE workers SET breakers = NULL WHERE owner = '{owner}'"
        ));
    }

    pub(super) fn make_redelivery_due(&self, id: RequestId) {
        self.execute(&format!(
            "UPDATE redeliveries SET due = 0 WHERE id = '{id}'"
        ));
    }

    pub(super) fn park_earlier(&self, time: Duration) {
        for table in ["requests", "redeliveries"] {
            let millis = time.as_millis();
            self.execute(&format!(
                "UPDATE {table} SET parked_at = parked_at - {millis}"
            ));
        }
    }

    pub(super) fn end_earlier(&self, id: RequestId, time: Duration) {
        let millis = time.as_millis();
        self.edit(id, &format!("ended = ended - {millis}"));
    }

    pub(super) fn resume_earlier(&self, time: Duration) {
        let millis = time.as_millis();
        self.execute(&format!("UPDATE store SET resumed = resumed - {millis}"));
    }

    pub(super) fn forget_workers(&self) {
        self.execute("DELETE FROM workers");
    }

    pub(super) fn add_releases(&self, id: RequestId, claims: u32) {
        self.execute(&format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {claims})
             INSERT INTO events (request_id, number, at, event, claim)
             SELECT '{id}', i, '2026-01-01T00:00:00.000Z', 'given_back', i FROM n;
             UPDATE requests SET claim = {claims}, due = 0 WHERE id = '{id}';"
        ));
    }

    pub(super) fn add_attempts(&self, id: RequestId, attempts: u32) {
        self.execute(&format!(
            "WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < {attempts})
             INSERT INTO attempts (request_id, number, started_at, duration_ms, class)
             SELECT '{id}', i, '', 0, 'timeout' FROM n;
             INSERT INTO events (request_id, number, at, event, claim)
             SELECT request_id, number, '', 'attempt_failed', number FROM attempts
             WHERE number > 1;
             UPDATE requests SET attempts = {attempts}, claim = {attempts} WHERE id = '{id}';"
        ));
    }

    pub(super) fn add_completed(&self, client: &str, count: u32) {
        self.execute(&format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})
             INSERT INTO requests (id, mode, status, input_payload, callback_url, created_at,
                 completed_at, result_payload, created_by)
             SELECT printf('%08x-%04x-7000-8000-%012x', i / 3, i, i), 'async', 'COMPLETED', '{{}}',
                 'http://a/', '', '', '{{}}', '{client}' FROM n;"
        ));
    }

    pub(super) fn boot_after(&self, hours: i64) {
        self.execute(&format!(
            "UPDATE clock SET boot = 'another', saved_wall = saved_wall - 3600000 * ({hours});"
        ));
    }

    pub(super) fn keyed(&self) -> Vec<RequestId> {
        let keyed = "SELECT request_id FROM idempotency_keys ORDER BY request_id";
        self.query(keyed, |row| word(row, 0))
    }

    pub(super) fn places_of(&self, text: &str) -> Vec<String> {
        let columns: Vec<(String, String)> = self.query(
            "SELECT t.name, c.name FROM sqlite_schema AS t, pragma_table_info(t.name) AS c
             WHERE t.type = 'table'",
            |row| (row.get(0).unwrap(), row.get(1).unwrap()),
        );
        let has = |(table, column): &(String, String)| -> bool {
            let sql = format!("SELECT 1 FROM {table} WHERE instr({column}, ?1) LIMIT 1");
            self.direct(|db| db.prepare(&sql).unwrap().exists([text]).unwrap())
        };
        let places = columns.iter().filter(|place| has(place));
        places
            .map(|(table, column)| format!("{table}.{column}"))
            .collect()
    }

    pub(super) fn forget_expectations(&self) {
        self.execute("UPDATE idempotency_keys SET expected_at = NULL");
    }

    pub(super) fn leftovers(&self) -> usize {
        let of_table = |table| {
            let sql =
                format!("SELECT 1 FROM {table} WHERE request_id NOT IN (SELECT id FROM requests)");
            self.query::<_, Vec<()>>(&sql, |_| ()).len()
        };
        let redeliveries = "SELECT 1 FROM redeliveries WHERE id NOT IN (SELECT id FROM requests)";
        let notes = "SELECT 1 FROM cancellations WHERE owner NOT IN (SELECT owner FROM workers)";
        let others = [redeliveries, notes].map(|sql| self.query::<_, Vec<()>>(sql, |_| ()).len());
        ["attempts", "events", "resends", "idempotency_keys"]
            .map(of_table)
            .iter()
            .chain(&others)
            .sum()
    }

    pub(super) fn record_history(&self) {
        self.execute(HISTORY);
        for (table, columns) in COLUMNS {
            let paused = format!(
                "EXISTS (SELECT 1 FROM pauses AS p WHERE p.origin = ''),
                 EXISTS (SELECT 1 FROM pauses AS p WHERE p.origin = {table}.origin)"
            );
            self.execute(&format!(
                "CREATE TRIGGER new_in_{table} AFTER INSERT ON {table} BEGIN
                     INSERT INTO history SELECT {columns}, 0, 0, {paused} FROM {table} WHERE id = NEW.id;
                 END;
                 CREATE TRIGGER changed_in_{table} AFTER UPDATE ON {table} BEGIN
                     INSERT INTO history
                     SELECT {columns},
                            (SELECT count(*) FROM held
                             WHERE held.owner = coalesce(NEW.owner, OLD.owner)
                               AND held.id <> NEW.id),
                            0, {paused}
                     FROM {table} WHERE id = NEW.id;
                 END;
                 CREATE TRIGGER deleted_in_{table} BEFORE DELETE ON {table} BEGIN
                     INSERT INTO history SELECT {columns}, 0, 1, {paused} FROM {table} WHERE id = OLD.id;
                 END;"
            ));
        }
    }

    pub(super) fn history(&self) -> History {
        // What the service writes meets the CHECKs, although it does not evaluate them itself.
        let found: Vec<String> = self.query("PRAGMA integrity_check", |row| row.get(0).unwrap());
        assert_eq!(found, ["ok"]);
        let moments: Vec<_> = self.query("SELECT * FROM history ORDER BY rowid", |row| {
            let ((id, work), changed) = read(row);
            let moment = Moment {
                work,
                row: changed,
                beside_it: row.get(15).unwrap(),
                is_deleted: row.get(16).unwrap(),
                is_paused: row.get(17).unwrap(),
                is_origin_paused: row.get(18).unwrap(),
            };
            (id, moment)
        });
        let mut history = History::new();
        for (id, moment) in moments {
            history.entry(id).or_default().push(moment);
        }
        history
    }

    pub(super) fn tables(&self) -> Tables {
        let mut tables = Tables {
            workers: self.query("SELECT owner, beat FROM workers", |row| {
                (word(row, 0), row.get(1).unwrap())
            }),
            keys: self.query(
                "SELECT tenant, key, request_id, length(fingerprint) > 0 FROM idempotency_keys",
                |row| {
                    let key = (row.get(0).unwrap(), row.get(1).unwrap());
                    (key, (word(row, 2), row.get(3).unwrap()))
                },
            ),
            pauses: self.query("SELECT origin FROM pauses", |row| row.get(0).unwrap()),
            audit: self.query(
                "SELECT action, filter, changed FROM audit ORDER BY number",
                |row| {
                    let (action, filter) = (row.get(0).unwrap(), row.get(1).unwrap());
                    (action, filter, row.get(2).unwrap())
                },
            ),
            cancellations: self.query("SELECT owner, id, claim, beat FROM cancellations", |row| {
                let claim = (word(row, 0), word(row, 1), row.get(2).unwrap());
                (claim, row.get(3).unwrap())
            }),
            ..self.recorded(ATTEMPTS, "events")
        };
        for (table, columns) in COLUMNS {
            let rows: Vec<_> = self.query(&format!("SELECT {columns} FROM {table}"), read);
            tables.rows.extend(rows);
        }
        tables
    }

    pub(super) fn ever(&self) -> Tables {
        self.recorded("attempts_ever", "events_ever")
    }

    /// The attempts and events in these tables.
    fn recorded(&self, attempts: &str, events: &str) -> Tables {
        let mut tables = Tables {
            attempts: self.query(
                &format!("SELECT request_id, number, class, claim FROM {attempts}"),
                |row| {
                    let number = (word(row, 0), row.get(1).unwrap());
                    (number, (word(row, 2), row.get(3).unwrap()))
                },
            ),
            ..Tables::default()
        };
        let events: Vec<(RequestId, Entry, u32)> = self.query(
            &format!(
                "SELECT request_id, event, claim, detail, number FROM {events}
                 ORDER BY request_id, number"
            ),
            |row| {
                let event = (word(row, 1), row.get(2).unwrap(), row.get(3).unwrap());
                (word(row, 0), event, row.get(4).unwrap())
            },
        );
        for (id, event, number) in events {
            let events = tables.events.entry(id).or_default();
            events.push(event);
            assert_eq!(
                u32::try_from(events.len()),
                Ok(number),
                "events count from 1"
            );
        }
        tables
    }

    pub(super) fn lost(&self) -> Vec<Key> {
        let lost = |(table, columns): &(&str, &str)| -> Vec<_> {
            self.query(
                &format!(
                    "SELECT {columns} FROM {table} WHERE status = 'PROCESSING'
                       AND (owner IS NULL OR owner NOT IN (SELECT owner FROM workers))"
                ),
                |row| read(row).0,
            )
        };
        COLUMNS.iter().flat_map(lost).collect()
    }

    pub(super) fn count(&self) -> usize {
        let ids: Vec<RequestId> = self.query("SELECT id FROM requests", |row| word(row, 0));
        ids.len()
    }

    pub(super) fn large_bodies(&self) -> usize {
        let ids: Vec<RequestId> = self.query("SELECT request_id FROM bodies", |row| word(row, 0));
        ids.len()
    }

    pub(super) fn text(&self, id: RequestId, column: &str) -> String {
        let value = format!("SELECT {column} FROM requests WHERE id = ?1");
        self.direct(|db| db.query_row(&value, [id.to_string()], |row| row.get(0)))
            .unwrap()
    }

    pub(super) fn internal_details(&self, id: RequestId) -> Vec<Option<String>> {
        self.query(
            &format!(
                "SELECT internal_detail FROM attempts WHERE request_id = '{id}' ORDER BY number"
            ),
            |row| row.get(0).unwrap(),
        )
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("new/folder/storm.db")
    }

    fn execute(&self, sql: &str) {
        self.direct(|db| db.execute_batch(sql)).unwrap();
    }

    fn query<T, C: FromIterator<T>>(&self, sql: &str, read: impl Fn(&SqlRow<'_>) -> T) -> C {
        self.direct(|db| {
            let mut query = db.prepare_cached(sql).unwrap();
            let rows = query.query_map([], |row| Ok(read(row))).unwrap();
            rows.map(Result::unwrap).collect()
        })
    }

    fn direct<T>(&self, run: impl FnOnce(&Connection) -> T) -> T {
        let open = || Mutex::new(Connection::open(self.file()).unwrap());
        run(&self.direct.get_or_init(open).lock().unwrap())
    }
}

/// Reads [`COLUMNS`].
fn read(row: &SqlRow<'_>) -> (Key, Row) {
    let work = match row.get(1).unwrap() {
        0 => Work::Job,
        _ => Work::Redelivery,
    };
    let owner: Option<String> = row.get(4).unwrap();
    let failure: Option<String> = row.get(11).unwrap();
    let completed_at: Option<String> = row.get(12).unwrap();
    let erased_at: Option<String> = row.get(13).unwrap();
    let parked_at: Option<i64> = row.get(14).unwrap();
    let read = Row {
        status: word(row, 2),
        claim: row.get(3).unwrap(),
        owner: owner.map(|owner| owner.parse().unwrap()),
        attempts: row.get(5).unwrap(),
        attempts_before: row.get(6).unwrap(),
        lost_claims: row.get(7).unwrap(),
        parks: row.get(8).unwrap(),
        due: row.get::<_, Option<i64>>(9).unwrap().map(Due::At),
        parked: parked_at.map(|at| match at {
            FAR_FUTURE.. => Parked::ByPause,
            _ => Parked::Since,
        }),
        result: row.get(10).unwrap(),
        failure: failure.map(|reason| reason.parse().unwrap()),
        is_over: completed_at.is_some(),
        is_erased: erased_at.is_some(),
    };
    ((word(row, 0), work), read)
}

fn word<T: FromStr<Err: Debug>>(row: &SqlRow<'_>, column: usize) -> T {
    row.get_ref(column)
        .unwrap()
        .as_str()
        .unwrap()
        .parse()
        .unwrap()
}
