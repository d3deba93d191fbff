//! The audit of an `SQLite` database.

use std::{collections::HashMap, error::Error, path::Path, str::FromStr, time::Duration};

use rusqlite::{
    Connection, OpenFlags, Row as SqlRow,
    types::{Type, ValueRef},
};

use crate::chaos::history::{HistoryEvent, Record, Row, RowState, Transition};

/// Busy timeout of a read. In WAL mode only recovery after a crash locks readers out.
const TIMEOUT: Duration = Duration::from_secs(10);

const TRIGGERS: &str = include_str!("sqlite.sql");

pub(super) fn open(path: &Path) -> rusqlite::Result<Connection> {
    // NO_MUTEX: the mutex of `Audit` already serialises all use. No CREATE: a wrong path must fail
    // instead of yielding an empty database.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(TIMEOUT)?;
    // IMMEDIATE: a deferred transaction that turns into a write can fail at once, whatever the busy
    // timeout.
    connection.execute_batch(&format!("BEGIN IMMEDIATE; {TRIGGERS} COMMIT"))?;
    Ok(connection)
}

pub(super) fn unfinished(db: &Connection) -> rusqlite::Result<u64> {
    db.prepare_cached("SELECT count(*) FROM requests WHERE status IN ('PENDING', 'PROCESSING')")?
        .query_row([], |row| row.get(0).map(i64::unsigned_abs))
}

pub(super) fn moves(db: &Connection) -> rusqlite::Result<i64> {
    db.prepare_cached("SELECT coalesce(max(number), 0) FROM chaos_moves")?
        .query_row([], |row| row.get(0))
}

pub(super) fn heartbeats(db: &Connection) -> rusqlite::Result<HashMap<String, i64>> {
    db.prepare_cached("SELECT owner, beat FROM workers")?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect()
}

pub(super) fn bytes(db: &Connection) -> rusqlite::Result<u64> {
    db.prepare_cached("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size")?
        .query_row([], |row| row.get(0).map(i64::unsigned_abs))
}

pub(super) fn records(db: &Connection) -> rusqlite::Result<Vec<Record>> {
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
