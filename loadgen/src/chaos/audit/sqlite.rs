//! The audit of an `SQLite` database.

use std::{collections::HashMap, error::Error, path::Path, str::FromStr, time::Duration};

use jiff::Timestamp;
use rusqlite::{
    Connection, OpenFlags, Row as SqlRow,
    types::{Type, ValueRef},
};
use sha2::{Digest as _, Sha256};
use storm_shared::services::report::hex;

use super::{
    filters::{self, Numbered},
    sightings::Sightings,
};
use crate::chaos::{
    clock,
    history::{
        Deleted, Erased, FilterAction, FilterApplied, HistoryEvent, PauseChanged, Record, Row,
        RowKind, RowState, Transition, WorkAttempt, WorkEnd, WorkStored,
    },
};

/// Busy timeout of a read. In WAL mode only recovery after a crash locks readers out.
const TIMEOUT: Duration = Duration::from_secs(10);

const TRIGGERS: &str = include_str!("sqlite.sql");

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
    fn moment(self, store_time: i64) -> Timestamp {
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

pub(super) fn records(
    db: &Connection,
    clock: StoreClock,
    sightings: &Sightings,
) -> rusqlite::Result<Vec<Record>> {
    // The services have stopped, so these reads need no common transaction.
    let mut records = Vec::new();
    let mut moves = db.prepare(MOVES)?;
    let mut moves: Vec<Numbered> = moves
        .query_map([], |row| Ok((row.get(0)?, moved(row, clock, sightings)?)))?
        .collect::<rusqlite::Result<_>>()?;
    let mut audited = db.prepare(FILTERS)?;
    let applied: Vec<_> = audited
        .query_map([], |row| applied(row, sightings, &mut moves))?
        .collect::<rusqlite::Result<_>>()?;
    records.extend(
        moves
            .into_iter()
            .map(|(_, moved)| Record::Transition(moved)),
    );
    let mut rows = db.prepare(ROWS)?;
    for row in rows.query_map([], final_row)? {
        records.push(Record::Row(row?));
    }
    let mut erasures = db.prepare(ERASURES)?;
    for erased in erasures.query_map([], erased)? {
        records.push(Record::Erased(erased?));
    }
    let mut pauses = db.prepare(PAUSES)?;
    for paused in pauses.query_map([], |row| paused(row, sightings))? {
        records.push(Record::PauseChanged(paused?));
    }
    records.extend(applied.into_iter().map(Record::FilterApplied));
    let mut deletions = db.prepare(DELETIONS)?;
    for deleted in deletions.query_map([], |row| deleted(row, clock, sightings))? {
        records.push(Record::Deleted(deleted?));
    }
    let mut worked = db.prepare(WORKED)?;
    for stored in worked.query_map([], |row| stored(row, sightings))? {
        records.push(Record::WorkStored(stored?));
    }
    let mut attempts = db.prepare(WORK_ATTEMPTS)?;
    for attempt in attempts.query_map([], work_attempt)? {
        records.push(Record::WorkAttempt(attempt?));
    }
    let mut events = db.prepare(EVENTS)?;
    for event in events.query_map([], |row| event(row, sightings))? {
        records.push(Record::Event(event?));
    }
    Ok(records)
}

// `number` is the commit order, because SQLite has one writer at a time. The row of a redelivery
// does not say how it ended, and its request does not if it was `COMPLETED`: its last attempt does.
const MOVES: &str = "SELECT number, id,
        old_status, old_claim, old_owner, old_attempts, old_lost_claims, old_result, old_parks,
        coalesce(new_status, iif(
            EXISTS (SELECT 1 FROM chaos_successes WHERE request_id = chaos_moves.id
                    AND number = new_attempts AND claim = new_claim),
            'COMPLETED', 'FAILED')),
        new_claim, new_owner, new_attempts, new_lost_claims, new_result, new_parks,
        old_due, new_due, redelivery, erases, reason
    FROM chaos_moves ORDER BY number";

fn moved(
    row: &SqlRow<'_>,
    clock: StoreClock,
    sightings: &Sightings,
) -> rusqlite::Result<Transition> {
    let inserted = row.get_ref(2)? == ValueRef::Null;
    let (not_before, at) = seen(row, sightings)?;
    let due = |column| -> rusqlite::Result<_> {
        let due: Option<i64> = row.get(column)?;
        Ok(due.map(|due| clock.moment(due)))
    };
    let kind = if row.get(18)? {
        RowKind::Redelivery
    } else {
        RowKind::Job
    };
    Ok(Transition {
        kind,
        at,
        not_before: Some(not_before),
        id: parsed(row, 1)?,
        before: (!inserted).then(|| row_state(row, 2)).transpose()?,
        after: row_state(row, 9)?,
        was_due: due(16)?,
        due: due(17)?,
        erases: row.get(19)?,
        reason: row.get(20)?,
        by_filter: false,
    })
}

const ROWS: &str = "SELECT id,
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
    FROM chaos_deleted ORDER BY id";

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
        created_at: Some(parsed(row, 13)?),
        handler: row.get(14)?,
    })
}

/// What is left of an erased request, by table and column, until the request is deleted.
const ERASURES: &str = "SELECT id, coalesce(erased.erased_at, ''), outcome_kept,
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
    FROM chaos_erased AS erased LEFT JOIN requests USING (id) ORDER BY id";

fn erased(row: &SqlRow<'_>) -> rusqlite::Result<Erased> {
    let left: String = row.get(3)?;
    let left = left.split(',').filter(|column| !column.is_empty());
    Ok(Erased {
        id: parsed(row, 0)?,
        erased_at: row.get(1)?,
        outcome_kept: row.get(2)?,
        left: left.map(str::to_owned).collect(),
    })
}

// Its records in the audit are those until the next change of the same kind.
const PAUSES: &str = "SELECT number, nullif(origin, ''), paused,
        (SELECT count(*) FROM chaos_audit
         WHERE changed > 0 AND action = iif(paused, 'pause', 'resume')
             AND filter = iif(origin = '', '{\"everything\":true}', json_object('origin', origin))
             AND number > change.number
             AND number < coalesce(
                 (SELECT min(number) FROM chaos_pauses
                  WHERE number > change.number AND origin = change.origin
                      AND paused = change.paused),
                 1e18))
    FROM chaos_pauses AS change ORDER BY number";

fn paused(row: &SqlRow<'_>, sightings: &Sightings) -> rusqlite::Result<PauseChanged> {
    let (not_before, at) = seen(row, sightings)?;
    Ok(PauseChanged {
        at,
        not_before,
        origin: row.get(1)?,
        paused: row.get(2)?,
        audited: row.get::<_, i64>(3)?.unsigned_abs(),
    })
}

const FILTERS: &str = "SELECT number, action = 'cancel', filter, matched, changed, dry_run
    FROM chaos_audit WHERE action IN ('cancel', 'redeliver') ORDER BY number";

/// Reads a record of an action by filter, and marks its changes among `moves`.
fn applied(
    row: &SqlRow<'_>,
    sightings: &Sightings,
    moves: &mut [Numbered],
) -> rusqlite::Result<FilterApplied> {
    let (not_before, at) = seen(row, sightings)?;
    let action = if row.get(1)? {
        FilterAction::Cancel
    } else {
        FilterAction::Redeliver
    };
    let changed = row.get::<_, i64>(4)?.unsigned_abs();
    Ok(FilterApplied {
        at,
        not_before,
        action,
        filter: row.get(2)?,
        matched: row.get::<_, i64>(3)?.unsigned_abs(),
        changed,
        dry_run: row.get(5)?,
        ids: filters::mark(moves, row.get(0)?, action, changed),
    })
}

const DELETIONS: &str = "SELECT number, id, ended, redelivering FROM chaos_deleted ORDER BY number";

fn deleted(
    row: &SqlRow<'_>,
    clock: StoreClock,
    sightings: &Sightings,
) -> rusqlite::Result<Deleted> {
    let (not_before, at) = seen(row, sightings)?;
    let ended: Option<i64> = row.get(2)?;
    Ok(Deleted {
        at,
        not_before,
        id: parsed(row, 1)?,
        ended: ended.map(|ended| clock.moment(ended)),
        redelivering: row.get(3)?,
    })
}

const EVENTS: &str = "SELECT number, id, event, claim, detail FROM chaos_events ORDER BY number";

fn event(row: &SqlRow<'_>, sightings: &Sightings) -> rusqlite::Result<HistoryEvent> {
    let (not_before, at) = seen(row, sightings)?;
    Ok(HistoryEvent {
        at,
        not_before: Some(not_before),
        id: parsed(row, 1)?,
        event: row.get(2)?,
        claim: row.get(3)?,
        detail: row.get(4)?,
    })
}

const WORKED: &str = "SELECT number, id, result, reason FROM chaos_worked ORDER BY number";

fn stored(row: &SqlRow<'_>, sightings: &Sightings) -> rusqlite::Result<WorkStored> {
    let (not_before, at) = seen(row, sightings)?;
    let result: Option<String> = row.get(2)?;
    Ok(WorkStored {
        at,
        not_before,
        id: parsed(row, 1)?,
        end: match result {
            Some(result) => WorkEnd::Result(hex(&Sha256::digest(result))),
            None => WorkEnd::Failure(row.get(3)?),
        },
    })
}

const WORK_ATTEMPTS: &str = "SELECT request_id, number, claim, class, status
    FROM chaos_work_attempts";

fn work_attempt(row: &SqlRow<'_>) -> rusqlite::Result<WorkAttempt> {
    Ok(WorkAttempt {
        id: parsed(row, 0)?,
        number: row.get(1)?,
        claim: row.get(2)?,
        class: row.get(3)?,
        status: row.get(4)?,
    })
}

/// The earliest and the latest moment of the change whose number is the first column.
fn seen(row: &SqlRow<'_>, sightings: &Sightings) -> rusqlite::Result<(Timestamp, Timestamp)> {
    let number = row.get(0)?;
    // The first reading was made before the first change, and the last one after the last.
    sightings
        .of(number)
        .ok_or(rusqlite::Error::IntegralValueOutOfRange(0, number))
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
