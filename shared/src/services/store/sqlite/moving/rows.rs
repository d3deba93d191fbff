//! Reading rows in the form in which they are moved.
//!
//! `SQLite` stores what the other engine can't: texts with U+0000 or invalid UTF-8, JSON that is
//! none, times that are none. Edits by hand make such values. Each becomes what this program shows
//! of it: no single row may keep a store from being moved.

use jiff::Timestamp;
use rusqlite::{Connection, Row, ToSql, params_from_iter};
use serde_json::value::{RawValue, to_raw_value};
use uuid::Uuid;

use super::super::{bodies, columns};
use crate::services::{
    report::hex,
    store::moving::{Key, Kind, Rows, Table},
};

/// The most rows of a batch.
const ROWS: usize = 1000;

/// The most bytes of a batch, unless a single row has more.
const BYTES: usize = 4 << 20;

/// The last millisecond that a date of four digits can name, by Unix time.
const LAST: i64 = 253_402_207_200_000;

/// Reads the rows of `table` after the key `after`, in the order of keys.
pub(super) fn read(
    connection: &Connection,
    table: Table,
    after: Option<&Key>,
    clock: i64,
) -> rusqlite::Result<Rows> {
    let mut rows = Rows::of(table);
    let after: Vec<Box<dyn ToSql>> = after.map_or_else(Vec::new, |key| bound(table, key));
    let mut statement = connection.prepare_cached(&sql(table, !after.is_empty()))?;
    let mut found = statement.query(params_from_iter(after))?;
    let mut bytes = 0;
    while let Some(row) = found.next()? {
        let values = values(row, table, clock)?;
        if values[..table.key()].iter().any(Option::is_none) {
            // Not counted: a batch of such rows would have no last key.
            rows.left_out += 1;
            continue;
        }
        bytes += values.iter().flatten().map(String::len).sum::<usize>();
        rows.push(values);
        if bytes >= BYTES || rows.len() == ROWS {
            return Ok(rows);
        }
    }
    rows.is_last = true;
    Ok(rows)
}

fn sql(table: Table, has_start: bool) -> String {
    let columns = table.columns().iter();
    let expressions: Vec<_> = columns.map(|(name, _)| expression(table, name)).collect();
    let key: Vec<_> = table.columns()[..table.key()]
        .iter()
        .map(|(name, _)| *name)
        .collect();
    let key = key.join(", ");
    let start = match (has_start, table.key()) {
        (false, _) => String::new(),
        (true, 1) => format!("WHERE {key} > ?1"),
        (true, _) => format!("WHERE ({key}) > (?1, ?2)"),
    };
    format!(
        "SELECT {} FROM {} {start} ORDER BY {key}",
        expressions.join(", "),
        table.name()
    )
}

/// SQL for a column as the other engine has it: what the previous release leaves null is filled in.
fn expression(table: Table, column: &'static str) -> String {
    match (table, column) {
        (Table::Requests, "input_payload") => format!("coalesce({}, 'null')", bodies::INPUT),
        (Table::Requests, "result_payload") => bodies::RESULT.to_owned(),
        (_, "due") => "iif(status = 'PENDING', coalesce(due, 0), NULL)".to_owned(),
        (Table::Attempts, "stage") => "coalesce(stage, 'callback')".to_owned(),
        (Table::Attempts, "claim") => "coalesce(claim, 0)".to_owned(),
        // The time that the report takes: 10 ms for each record. That release knew no other work.
        (Table::Keys, "expected_at") => {
            "coalesce(expected_at, (SELECT strftime('%Y-%m-%dT%H:%M:%fZ', created_at,
                 (iif(json_valid(input_payload), coalesce(input_payload ->> '$.records', 0), 0)
                     / 100.0) || ' seconds')
             FROM requests WHERE id = request_id))"
                .to_owned()
        }
        (_, column) => column.to_owned(),
    }
}

/// A key as parameters.
fn bound(table: Table, key: &[String]) -> Vec<Box<dyn ToSql>> {
    let columns = table.columns().iter().zip(key);
    columns
        .map(|((_, kind), value)| -> Box<dyn ToSql> {
            match kind {
                Kind::Integer | Kind::Long => Box::new(value.parse::<i64>().unwrap_or(i64::MAX)),
                _ => Box::new(value.clone()),
            }
        })
        .collect()
}

fn values(row: &Row<'_>, table: Table, clock: i64) -> rusqlite::Result<Vec<Option<String>>> {
    let kinds = table.columns().iter().map(|(_, kind)| *kind);
    // A key is moved as it is, or not at all: it is where the next batch begins.
    let is_key = |at| at < table.key();
    let mut values: Vec<Option<String>> = Vec::with_capacity(table.columns().len());
    for (at, kind) in kinds.enumerate() {
        let value = match kind {
            Kind::Id => columns::text(row, at)?.filter(|text| is_canonical(text)),
            Kind::Text if is_key(at) => columns::text(row, at)?.filter(|text| is_plain(text)),
            Kind::Text => columns::text(row, at)?.map(|text| text.replace('\0', "\u{fffd}")),
            Kind::Json => columns::text(row, at)?.map(json),
            Kind::Integer => integer(row, at)?
                .filter(|number| !is_key(at) || i32::try_from(*number).is_ok())
                .map(|number| number.clamp(i32::MIN.into(), i32::MAX.into()).to_string()),
            Kind::Long => integer(row, at)?.map(|number| number.to_string()),
            Kind::Flag => integer(row, at)?.map(|flag| (flag != 0).to_string()),
            Kind::Time => {
                let text = columns::text(row, at)?;
                text.and_then(|text| time(&text).or_else(|| time_of(&values)))
            }
            Kind::SomeTime => {
                let stored = columns::text(row, at)?.and_then(|text| time(&text));
                stored.or_else(|| time_of(&values))
            }
            Kind::StoreTime => {
                integer(row, at)?.and_then(|millis| shown(millis.saturating_add(clock)))
            }
            Kind::Bytes => columns::bytes(row, at)?.map(|bytes| hex(&bytes)),
        };
        values.push(value);
    }
    Ok(values)
}

fn integer(row: &Row<'_>, at: usize) -> rusqlite::Result<Option<i64>> {
    row.get(at)
}

/// Whether this is how a UUID is written: no other text equals one that is.
fn is_canonical(text: &str) -> bool {
    Uuid::parse_str(text).is_ok_and(|id| id.to_string() == text)
}

/// Whether both engines can store a text, and it is valid UTF-8.
fn is_plain(text: &str) -> bool {
    !text.contains(['\0', '\u{fffd}'])
}

/// JSON as it is. What is none is shown as a string, and moved as that.
fn json(text: String) -> String {
    match serde_json::from_str::<&RawValue>(&text) {
        Ok(_) => text,
        Err(_) => to_raw_value(&text).map_or_else(|_| "null".to_owned(), |it| it.get().to_owned()),
    }
}

fn time(text: &str) -> Option<String> {
    let at: Timestamp = text.parse().ok()?;
    shown(at.as_millisecond())
}

/// A moment in Unix milliseconds as it is moved, or the nearest one that both engines can store.
fn shown(millis: i64) -> Option<String> {
    let at = Timestamp::from_millisecond(millis.clamp(0, LAST)).ok()?;
    Some(columns::time(at))
}

/// The time in the id with which the values of a row begin, or else the epoch.
fn time_of(values: &[Option<String>]) -> Option<String> {
    let millis = || {
        let id = Uuid::parse_str(values.first()?.as_deref()?).ok()?;
        let (seconds, nanos) = id.get_timestamp()?.to_unix();
        let millis = u64::from(nanos / 1_000_000);
        i64::try_from(seconds.checked_mul(1000)?.checked_add(millis)?).ok()
    };
    shown(millis().unwrap_or(0))
}
