//! The SQL of the audit of an `SQLite` database.

use std::{collections::HashMap, path::Path, time::Duration};

use anyhow::Result;
use jiff::Timestamp;
use rusqlite::{Connection, OpenFlags, Row as SqlRow};

use super::super::log::{Columns, Log, Queries, Times};
use crate::chaos::{clock, history::Record};

/// Busy timeout of a read. In WAL mode only recovery after a crash locks readers out.
const TIMEOUT: Duration = Duration::from_secs(10);

const TRIGGERS: &str = include_str!("triggers.sql");

/// The anchor of the store's clock, and the time that was saved last. All in milliseconds.
#[derive(Clone, Copy, Debug)]
pub(in crate::chaos) struct StoreClock {
    since_boot: i64,
    store_time: i64,
    /// A recent store time.
    saved: i64,
    /// The wall clock of the process that saved it, at that moment.
    pub(in crate::chaos) saved_wall: i64,
}

impl StoreClock {
    /// The moment by the run's clock at which it is this store time.
    pub(super) fn moment(self, store_time: i64) -> Timestamp {
        let since_boot = store_time.saturating_sub(self.offset());
        clock::since_boot(Duration::from_millis(since_boot.try_into().unwrap_or(0)))
    }

    /// When the time was saved, by the run's clock.
    pub(in crate::chaos) fn saved_at(self) -> Timestamp {
        self.moment(self.saved)
    }

    /// Store time minus the time since the boot.
    pub(super) fn offset(self) -> i64 {
        self.store_time - self.since_boot
    }
}

/// Opens a database that exists.
pub(super) fn open(path: &Path) -> rusqlite::Result<Connection> {
    // NO_MUTEX: the mutex of `Audit` already serialises all use. No CREATE: a wrong path must fail
    // instead of yielding an empty database.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(TIMEOUT)?;
    Ok(connection)
}

pub(super) fn install_triggers(db: &Connection) -> rusqlite::Result<()> {
    // IMMEDIATE: a deferred transaction that turns into a write can fail at once, whatever the busy
    // timeout.
    db.execute_batch(&format!("BEGIN IMMEDIATE; {TRIGGERS} COMMIT"))
}

pub(super) fn unfinished(db: &Connection) -> rusqlite::Result<u64> {
    db.prepare_cached(
        "SELECT (SELECT count(*) FROM requests WHERE status IN ('PENDING', 'PROCESSING'))
              + (SELECT count(*) FROM redeliveries)",
    )?
    .query_row([], |row| row.get(0).map(i64::unsigned_abs))
}

pub(super) fn changes(db: &Connection) -> rusqlite::Result<i64> {
    db.prepare_cached("SELECT number FROM chaos_last")?
        .query_row([], |row| row.get(0))
}

pub(super) fn store_clock(db: &Connection) -> rusqlite::Result<StoreClock> {
    db.prepare_cached("SELECT since_boot, store_time, saved, saved_wall FROM clock")?
        .query_row([], |row| {
            Ok(StoreClock {
                since_boot: row.get(0)?,
                store_time: row.get(1)?,
                saved: row.get(2)?,
                saved_wall: row.get(3)?,
            })
        })
}

pub(super) fn heartbeats(db: &Connection) -> rusqlite::Result<HashMap<String, i64>> {
    db.prepare_cached("SELECT owner, beat FROM workers")?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect()
}

pub(super) fn holds_redelivery(db: &Connection, owner: &str) -> rusqlite::Result<bool> {
    db.prepare_cached("SELECT EXISTS (SELECT 1 FROM redeliveries WHERE owner = ?1)")?
        .query_row([owner], |row| row.get(0))
}

pub(super) fn bytes(db: &Connection) -> rusqlite::Result<u64> {
    db.prepare_cached("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size")?
        .query_row([], |row| row.get(0).map(i64::unsigned_abs))
}

/// Reads what was logged.
pub(super) fn read(db: &Connection, times: impl Times) -> Result<Vec<Record>> {
    // The services have stopped, so these reads need no common transaction.
    let mut log = Log::new(times);
    for (table, sql) in QUERIES.by_table() {
        let mut statement = db.prepare(sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            log.take(table, row)?;
        }
    }
    Ok(log.records())
}

impl Columns for SqlRow<'_> {
    fn text(&self, column: usize) -> Result<Option<String>> {
        Ok(self.get(column)?)
    }

    fn number(&self, column: usize) -> Result<Option<i64>> {
        Ok(self.get(column)?)
    }
}

const QUERIES: Queries = Queries {
    // `number` is the commit order, because SQLite has one writer at a time. The row of a
    // redelivery does not say how it ended, and its request does not if it was `COMPLETED`: its
    // last attempt does.
    transitions: "SELECT number, id,
        old_status, old_claim, old_owner, old_attempts, old_lost_claims, old_result, old_parks,
        coalesce(new_status, iif(
            EXISTS (SELECT 1 FROM chaos_successes WHERE request_id = chaos_moves.id
                    AND number = new_attempts AND claim = new_claim),
            'COMPLETED', 'FAILED')),
        new_claim, new_owner, new_attempts, new_lost_claims, new_result, new_parks,
        old_due, new_due, redelivery, erases, reason, number, number
    FROM chaos_moves ORDER BY number",
    rows: "SELECT id,
        coalesce(json_extract(input_payload, '$.report_name'), erased.report_name,
            (SELECT name FROM chaos_names WHERE id = requests.id)),
        status, claim, owner, attempts, lost_claims, result_payload, parks,
        failure_reason, failure_detail,
        callback_url IS NOT NULL OR coalesce(erased.called_back, 0), completed_at, created_at,
        handler
    FROM requests LEFT JOIN chaos_erased AS erased USING (id)
    UNION ALL
    SELECT id, report_name, status, claim, owner, attempts, lost_claims, result_payload, parks,
        failure_reason, failure_detail, called_back, completed_at, created_at, handler
    FROM chaos_deleted ORDER BY id",
    // What is left of an erased request, by table and column, until the request is deleted.
    erasures: "SELECT id, coalesce(erased.erased_at, ''), outcome_kept,
        concat_ws(',',
            iif(input_payload <> '{\"erased\":true}', 'requests.input_payload', NULL),
            iif(result_payload IS NOT NULL, 'requests.result_payload', NULL),
            iif(callback_url IS NOT NULL, 'requests.callback_url', NULL),
            iif(callback_target IS NOT NULL, 'requests.callback_target', NULL),
            iif(origin IS NOT NULL, 'requests.origin', NULL),
            iif(traceparent IS NOT NULL, 'requests.traceparent', NULL),
            iif(EXISTS (SELECT 1 FROM bodies WHERE request_id = erased.id), 'bodies', NULL),
            iif(EXISTS (SELECT 1 FROM attempts WHERE request_id = erased.id AND
                    coalesce(error, internal_detail, for_operators) IS NOT NULL),
                'attempts.error', NULL),
            iif(EXISTS (SELECT 1 FROM events WHERE request_id = erased.id AND detail IS NOT NULL),
                'events.detail', NULL),
            iif(EXISTS (SELECT 1 FROM idempotency_keys
                        WHERE request_id = erased.id AND fingerprint <> x''),
                'idempotency_keys.fingerprint', NULL))
    FROM chaos_erased AS erased LEFT JOIN requests USING (id) ORDER BY id",
    // Its records in the audit are those until the next change of the same kind.
    pauses: "SELECT number, nullif(origin, ''), paused,
        (SELECT count(*) FROM chaos_audit
         WHERE changed > 0 AND action = iif(paused, 'pause', 'resume')
             AND filter = iif(origin = '', '{\"everything\":true}', json_object('origin', origin))
             AND number > change.number
             AND number < coalesce(
                 (SELECT min(number) FROM chaos_pauses
                  WHERE number > change.number AND origin = change.origin
                      AND paused = change.paused),
                 1e18))
    FROM chaos_pauses AS change ORDER BY number",
    filters: "SELECT number, action = 'cancel', filter, matched, changed, dry_run, number
    FROM chaos_audit WHERE action IN ('cancel', 'redeliver') ORDER BY number",
    deletions: "SELECT number, id, ended, redelivering FROM chaos_deleted ORDER BY number",
    worked: "SELECT number, id, result, reason FROM chaos_worked ORDER BY number",
    work_attempts: "SELECT request_id, number, claim, class, status
    FROM chaos_work_attempts",
    events: "SELECT number, id, event, claim, detail FROM chaos_events ORDER BY number",
};
