//! Deleting finished requests in small batches along the primary key.
//!
//! The ids of requests grow with the time of their acceptance, roughly: so what is old is mostly in
//! front, and most passes end in the first batch in which nearly everything is young. Which rows
//! are old is told by `ended`, and never by an id or the wall clock.

use std::time::Duration;

use rusqlite::{Connection, Row, named_params, params};

use super::{clock::StoreTime, columns, connection};
use crate::{models::RequestId, services::store::Swept};

/// The rows of one batch. It bounds how long other writers wait for the database.
const BATCH: usize = 500;

/// A batch with at least this many rows that have ended and are too young, and none that is old, is
/// young.
const YOUNG: usize = 400;

// `+status`: the planner would search all rows of a status, by their index.

const DATE: &str = "UPDATE requests SET ended = :now
     WHERE id > :after AND id <= :last AND +status IN ('COMPLETED', 'FAILED') AND ended IS NULL";

const DELETE: &str = "DELETE FROM requests
     WHERE id > :after AND id <= :last AND +status IN ('COMPLETED', 'FAILED') AND ended <= :cutoff
       AND NOT EXISTS (SELECT 1 FROM redeliveries AS r WHERE r.id = requests.id)
       AND NOT EXISTS (SELECT 1 FROM idempotency_keys AS k
                       WHERE k.request_id = requests.id AND k.expires > :now)";

/// What belongs to a request.
const OF_REQUESTS: [&str; 4] = ["attempts", "events", "resends", "idempotency_keys"];

/// SQL that deletes from `table` what belongs to requests that are gone.
fn delete_from(table: &str) -> String {
    format!(
        "DELETE FROM {table} WHERE request_id > :after AND request_id <= :last
           AND NOT EXISTS (SELECT 1 FROM requests AS r WHERE r.id = {table}.request_id)"
    )
}

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
    Ok(Some(Batch {
        swept: Swept {
            deleted: 0,
            // An id that was edited by hand ends the pass.
            next: last.parse().ok().filter(|_| rows.len() == BATCH),
            is_young: old + undated == 0 && count(Age::Young) >= YOUNG,
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
        tx.prepare_cached(DATE)?
            .execute(named_params! {":now": now.millis(), ":after": after, ":last": last})?;
    }
    if batch.old == 0 {
        return Ok(0);
    }
    let cutoff = now.before(keep).millis();
    connection::leaving_free_pages(tx, || {
        let deleted = tx.prepare_cached(DELETE)?.execute(named_params! {
            ":after": after, ":last": last, ":cutoff": cutoff, ":now": now.millis()
        })?;
        for table in OF_REQUESTS {
            tx.prepare_cached(&delete_from(table))?
                .execute(named_params! {":after": after, ":last": last})?;
        }
        Ok(deleted)
    })
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::{super::schema, DATE, DELETE, OF_REQUESTS, delete_from};

    /// The first step by which `SQLite` runs a statement.
    fn plan(db: &Connection, sql: &str) -> String {
        let mut statement = db.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        // Unbound parameters are null.
        let mut steps = statement.raw_query();
        steps.next().unwrap().unwrap().get("detail").unwrap()
    }

    #[test]
    fn a_batch_goes_along_the_primary_key_and_searches_no_other_rows() {
        let mut db = Connection::open_in_memory().unwrap();
        schema::migrate(&mut db).unwrap();
        for sql in [DATE, DELETE] {
            let expected = "SEARCH requests USING PRIMARY KEY (id>? AND id<?)";
            assert_eq!(plan(&db, sql), expected);
        }
        for table in OF_REQUESTS {
            assert_eq!(
                plan(&db, &delete_from(table)),
                format!("SEARCH {table} USING PRIMARY KEY (request_id>? AND request_id<?)")
            );
        }
    }
}
