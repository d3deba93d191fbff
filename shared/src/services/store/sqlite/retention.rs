//! Deleting finished requests in small batches along the primary key.
//!
//! The ids of requests grow with the time of their acceptance, roughly: so what is old is in front,
//! and a pass ends in the first batch in which hardly anything is. Which rows are old is told by
//! `ended`, and never by an id or the wall clock.

use std::time::Duration;

use rusqlite::{Connection, Row, named_params, params};

use super::{clock::StoreTime, columns};
use crate::{models::RequestId, services::store::Swept};

/// The rows of one batch. It bounds how long other writers wait for the database.
const BATCH: usize = 500;

/// Of a batch with at least this many rows that have ended and are too young, and none that is old,
/// it is taken that younger ones follow.
const YOUNG: usize = 400;

/// What is to be done with the rows after `after` up to `last`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Batch {
    after: String,
    last: String,
    /// Finished long enough ago.
    old: usize,
    /// Finished, without the time of it.
    undated: usize,
    pub(super) swept: Swept,
}

impl Batch {
    /// Whether there is something to write.
    pub(super) fn is_due(&self) -> bool {
        self.old + self.undated > 0
    }
}

/// What a row is to a sweep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Age {
    Unfinished,
    /// Finished, without the time of it.
    Undated,
    Young,
    Old,
}

/// Reads the batch of rows after `after`, of which those that ended before `cutoff` are old.
/// `None` if there are none.
pub(super) fn look(
    connection: &Connection,
    after: Option<RequestId>,
    cutoff: StoreTime,
) -> rusqlite::Result<Option<Batch>> {
    let after = after.map(|id| id.to_string()).unwrap_or_default();
    let rows: Vec<(String, Age)> = connection
        .prepare_cached(
            "SELECT id, status IN ('COMPLETED', 'FAILED'), ended FROM requests
             WHERE id > ?1 ORDER BY id LIMIT ?2",
        )?
        .query_map(params![after, columns::integer(BATCH)], |row| {
            Ok((row.get(0)?, age(row, cutoff)?))
        })?
        .collect::<rusqlite::Result<_>>()?;
    let Some((last, _)) = rows.last() else {
        return Ok(None);
    };
    let count = |age| rows.iter().filter(|(_, it)| *it == age).count();
    let (old, undated) = (count(Age::Old), count(Age::Undated));
    let is_over = rows.len() < BATCH || (old + undated == 0 && count(Age::Young) >= YOUNG);
    Ok(Some(Batch {
        swept: Swept {
            deleted: 0,
            // An id that was edited by hand ends the pass.
            next: last.parse().ok().filter(|_| !is_over),
        },
        last: last.clone(),
        after,
        old,
        undated,
    }))
}

fn age(row: &Row<'_>, cutoff: StoreTime) -> rusqlite::Result<Age> {
    if !row.get::<_, bool>(1)? {
        return Ok(Age::Unfinished);
    }
    let ended: Option<i64> = row.get(2)?;
    Ok(match ended {
        None => Age::Undated,
        Some(at) if at <= cutoff.millis() => Age::Old,
        Some(_) => Age::Young,
    })
}

/// Deletes the old rows of a batch with all that belongs to them, and dates the undated ones.
/// Returns how many requests it has deleted. A request with a redelivery in progress stays.
pub(super) fn delete(
    tx: &Connection,
    batch: &Batch,
    now: StoreTime,
    keep: Duration,
) -> rusqlite::Result<usize> {
    let (after, last) = (&batch.after, &batch.last);
    if batch.undated > 0 {
        tx.prepare_cached(
            "UPDATE requests SET ended = ?3
             WHERE id > ?1 AND id <= ?2 AND status IN ('COMPLETED', 'FAILED') AND ended IS NULL",
        )?
        .execute(params![after, last, now.millis()])?;
    }
    if batch.old == 0 {
        return Ok(0);
    }
    let deleted = tx
        .prepare_cached(
            "DELETE FROM requests
             WHERE id > :after AND id <= :last AND status IN ('COMPLETED', 'FAILED')
               AND ended <= :cutoff
               AND NOT EXISTS (SELECT 1 FROM redeliveries AS r WHERE r.id = requests.id)",
        )?
        .execute(named_params! {
            ":after": after,
            ":last": last,
            ":cutoff": now.before(keep).millis(),
        })?;
    for table in ["attempts", "events", "resends", "idempotency_keys"] {
        tx.prepare_cached(&format!(
            "DELETE FROM {table} WHERE request_id > ?1 AND request_id <= ?2
               AND NOT EXISTS (SELECT 1 FROM requests AS r WHERE r.id = {table}.request_id)"
        ))?
        .execute([after, last])?;
    }
    Ok(deleted)
}
