//! Pauses: what operators hold back.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{audit, clock::StoreTime, columns};
use crate::{
    models::{ClientName, Origin},
    services::store::{
        Pause, Paused, Pauses, TooManyPauses, audit::Action, pause::MAX_PAUSED_ORIGINS,
    },
};

/// How `pauses.origin` names everything.
const EVERYTHING: &str = "";

/// Pauses `what`. Returns whether it was not paused before.
pub(super) fn begin(
    tx: &Connection,
    what: &Paused,
    operator: &ClientName,
) -> rusqlite::Result<Result<bool, TooManyPauses>> {
    let begun = tx
        .prepare_cached(
            "INSERT INTO pauses (origin, since, operator)
             SELECT ?1, ?2, ?3
             WHERE ?1 = '' OR ?4 > (SELECT count(*) FROM pauses WHERE origin <> '')
             ON CONFLICT DO NOTHING",
        )?
        .execute(params![
            column(what),
            columns::time(Timestamp::now()),
            operator.as_str(),
            columns::integer(MAX_PAUSED_ORIGINS),
        ])?;
    if begun == 0 && !is_paused(tx, what)? {
        return Ok(Err(TooManyPauses));
    }
    note(tx, "pause", what, operator, begun)?;
    Ok(Ok(begun > 0))
}

/// Ends the pause of `what` at `now`. Returns whether it was paused.
pub(super) fn end(
    tx: &Connection,
    what: &Paused,
    operator: &ClientName,
    now: StoreTime,
) -> rusqlite::Result<bool> {
    let ended = tx
        .prepare_cached("DELETE FROM pauses WHERE origin = ?1")?
        .execute([column(what)])?;
    if ended > 0 && *what == Paused::Everything {
        tx.prepare_cached("UPDATE store SET resumed = ?1")?
            .execute([now.millis()])?;
    }
    note(tx, "resume", what, operator, ended)?;
    Ok(ended > 0)
}

fn note(
    tx: &Connection,
    name: &str,
    what: &Paused,
    operator: &ClientName,
    changed: usize,
) -> rusqlite::Result<()> {
    let action = Action {
        operator,
        name,
        filter: &what.filter(),
        matched: 1,
        changed,
        dry_run: false,
    };
    audit::record(tx, &action)
}

/// When the last pause of everything ended. Until then, no parked job could have its turn.
pub(super) fn last_resumption(connection: &Connection) -> rusqlite::Result<StoreTime> {
    let resumed = connection
        .prepare_cached("SELECT max(resumed) FROM store")?
        .query_one([], |row| row.get::<_, Option<i64>>(0))?;
    // Without a row, the page of the store's id is damaged.
    Ok(StoreTime::stored(resumed.unwrap_or(0)))
}

/// Whether everything is paused.
pub(super) fn is_everything(connection: &Connection) -> rusqlite::Result<bool> {
    is_paused(connection, &Paused::Everything)
}

/// Whether exactly `what` is paused.
pub(super) fn is_paused(connection: &Connection, what: &Paused) -> rusqlite::Result<bool> {
    connection
        .prepare_cached("SELECT 1 FROM pauses WHERE origin = ?1")?
        .query_one([column(what)], |_| Ok(()))
        .optional()
        .map(|row| row.is_some())
}

/// What is paused.
pub(super) fn all(connection: &Connection) -> rusqlite::Result<Pauses> {
    connection
        .prepare_cached("SELECT origin FROM pauses")?
        .query_map([], paused)?
        .collect()
}

/// The pauses in force, that of everything first.
pub(super) fn list(connection: &Connection) -> rusqlite::Result<Vec<Pause>> {
    connection
        .prepare_cached("SELECT origin, since, operator FROM pauses ORDER BY origin")?
        .query_map([], |row| {
            Ok(Pause {
                what: paused(row)?,
                since: columns::text(row, 1)?.unwrap_or_default(),
                operator: columns::text(row, 2)?.unwrap_or_default(),
            })
        })?
        .collect()
}

fn paused(row: &Row<'_>) -> rusqlite::Result<Paused> {
    let origin = columns::text(row, 0)?.unwrap_or_default();
    Ok(if origin == EVERYTHING {
        Paused::Everything
    } else {
        Paused::Origin(Origin::stored(&origin))
    })
}

fn column(what: &Paused) -> &str {
    match what {
        Paused::Everything => EVERYTHING,
        Paused::Origin(origin) => origin.as_str(),
    }
}
