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

/// The bytes of large bodies that one batch deletes at most, unless a single request has more. Each
/// page of them is read to be freed.
const BATCH_BYTES: i64 = 16 << 20;

/// A batch with at least this many rows that have ended and are too young, and none that is old, is
/// young.
const YOUNG: usize = 400;

// `+status`: the planner would search all rows of a status, by their index.

const DATE: &str = "UPDATE requests SET ended = :now
     WHERE id > :after AND id <= :last AND +status IN ('COMPLETED', 'FAILED') AND ended IS NULL";

// It looks into no other table: with a subquery, `SQLite` would first collect the rows that it
// finds, and then search each one again.
const DELETE: &str = "DELETE FROM requests
     WHERE id > :after AND id < :before AND +status IN ('COMPLETED', 'FAILED')
       AND ended <= :cutoff";

/// The requests of a batch that stay, however old: those with a redelivery in progress, or with a
/// key whose window is not over. Mostly none.
const STAYING: &str = "SELECT id FROM redeliveries WHERE id > :after AND id <= :last
     UNION SELECT request_id FROM idempotency_keys
           WHERE request_id > :after AND request_id <= :last AND expires > :now
     ORDER BY 1";

/// What belongs to a request.
const OF_REQUESTS: [&str; 5] = [
    "attempts",
    "events",
    "resends",
    "idempotency_keys",
    "bodies",
];

/// The rows of a batch.
const ROWS: &str = "SELECT id, status IN ('COMPLETED', 'FAILED'), ended FROM requests
     WHERE id > ?1 ORDER BY id LIMIT ?2";

/// The sizes of the large bodies of a batch, in the order of its rows.
const SIZES: &str = "SELECT request_id, bytes FROM bodies
     WHERE request_id > ?1 AND request_id <= ?2 ORDER BY request_id";

/// SQL that deletes from `table` what belongs to requests that are gone.
fn delete_from(table: &str) -> String {
    format!("DELETE FROM {table} WHERE {}", is_left_in(table))
}

/// SQL that empties the bodies of requests that are gone, and so frees their pages. It deletes no
/// row, so no page is merged with another: a freed page has nothing of a request that stays.
fn empty_bodies() -> String {
    format!("UPDATE bodies SET body = '' WHERE {}", is_left_in("bodies"))
}

fn is_left_in(table: &str) -> String {
    format!(
        "request_id > :after AND request_id <= :last
           AND NOT EXISTS (SELECT 1 FROM requests AS r WHERE r.id = {table}.request_id)"
    )
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

impl Age {
    /// Whether there is something to write.
    fn is_due(self) -> bool {
        matches!(self, Self::Undated | Self::Old)
    }
}

/// What a sweep of the batch of rows after `after` comes to, if it has nothing to write. `None` as
/// soon as a row is found that is to be deleted, if it ended before `cutoff`, or to be dated.
pub(super) fn look(
    connection: &Connection,
    after: Option<RequestId>,
    cutoff: StoreTime,
) -> rusqlite::Result<Option<Swept>> {
    let mut statement = connection.prepare_cached(ROWS)?;
    let batch = params![text_of(after), columns::integer(BATCH)];
    let rows = statement.query_map(batch, |row| with_age(row, cutoff))?;
    let mut read = Vec::new();
    for row in rows {
        let (id, age) = row?;
        if age.is_due() {
            return Ok(None);
        }
        read.push((id, age));
    }
    Ok(Some(swept(&read, read.len() < BATCH)))
}

/// What the rows of a batch say of those that follow. Nothing follows the batch that `is_last`.
fn swept(rows: &[(String, Age)], is_last: bool) -> Swept {
    let young = rows.iter().filter(|(_, age)| *age == Age::Young).count();
    let last = rows.last().filter(|_| !is_last);
    Swept {
        deleted: 0,
        // An id that was edited by hand ends the pass.
        next: last.and_then(|(id, _)| id.parse().ok()),
        is_young: young >= YOUNG && !rows.iter().any(|(_, age)| age.is_due()),
    }
}

/// The id, or the text before all ids.
fn text_of(id: Option<RequestId>) -> String {
    id.map(|id| id.to_string()).unwrap_or_default()
}

/// How many of the rows after `after` make a batch, if the large bodies of the old ones among them
/// are too many for one.
fn fitting(
    connection: &Connection,
    after: &str,
    rows: &[(String, Age)],
) -> rusqlite::Result<Option<usize>> {
    let Some((last, _)) = rows.last() else {
        return Ok(None);
    };
    let mut statement = connection.prepare_cached(SIZES)?;
    let mut sizes = statement.query([after, last])?;
    let mut bytes = 0;
    let mut first = None;
    while let Some(row) = sizes.next()? {
        let id: String = row.get(0)?;
        let at = rows.binary_search_by(|(it, _)| it.cmp(&id));
        let Some(at) = at.ok().filter(|at| rows[*at].1 == Age::Old) else {
            continue;
        };
        bytes += row.get::<_, i64>(1)?;
        if bytes > BATCH_BYTES && *first.get_or_insert(at) < at {
            return Ok(Some(at));
        }
        first.get_or_insert(at);
    }
    Ok(None)
}

/// Reads one of [`ROWS`].
fn with_age(row: &Row<'_>, cutoff: StoreTime) -> rusqlite::Result<(String, Age)> {
    let age = match (row.get(1)?, row.get::<_, Option<i64>>(2)?) {
        (false, _) => Age::Unfinished,
        (true, None) => Age::Undated,
        (true, Some(at)) if at <= cutoff.millis() => Age::Old,
        (true, Some(_)) => Age::Young,
    };
    Ok((row.get(0)?, age))
}

/// Deletes the old rows of the batch after `after`, with all that belongs to them, and dates the
/// undated ones. A request with a redelivery in progress stays.
pub(super) fn sweep(
    tx: &Connection,
    after: Option<RequestId>,
    now: StoreTime,
    keep: Duration,
) -> rusqlite::Result<Swept> {
    let (after, cutoff) = (text_of(after), now.before(keep));
    // Here, and not before the transaction: the deletion needs the pages that this reads.
    let mut rows: Vec<(String, Age)> = tx
        .prepare_cached(ROWS)?
        .query_map(params![after, columns::integer(BATCH)], |row| {
            with_age(row, cutoff)
        })?
        .collect::<rusqlite::Result<_>>()?;
    let mut is_last = rows.len() < BATCH;
    if let Some(fitting) = fitting(tx, &after, &rows)? {
        rows.truncate(fitting);
        is_last = false;
    }
    let Some((last, _)) = rows.last() else {
        return Ok(Swept::default());
    };
    let has = |age| rows.iter().any(|(_, it)| *it == age);
    if has(Age::Undated) {
        tx.prepare_cached(DATE)?
            .execute(named_params! {":now": now.millis(), ":after": after, ":last": last})?;
    }
    let deleted = if has(Age::Old) {
        delete(tx, &after, last, now, cutoff)?
    } else {
        0
    };
    Ok(Swept {
        deleted,
        ..swept(&rows, is_last)
    })
}

/// Deletes the requests after `after` up to `last` that ended before `cutoff`, with all that
/// belongs to them. Returns how many requests.
fn delete(
    tx: &Connection,
    after: &str,
    last: &str,
    now: StoreTime,
    cutoff: StoreTime,
) -> rusqlite::Result<usize> {
    let range = named_params! {":after": after, ":last": last, ":now": now.millis()};
    let mut ends: Vec<String> = tx
        .prepare_cached(STAYING)?
        .query_map(range, |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    // The first text after the last id.
    ends.push(format!("{last}\0"));
    let mut delete = tx.prepare_cached(DELETE)?;
    let (mut deleted, mut from) = (0, after);
    for end in &ends {
        deleted += delete
            .execute(named_params! {":after": from, ":before": end, ":cutoff": cutoff.millis()})?;
        from = end;
    }
    connection::leaving_free_pages(tx, || {
        let range = named_params! {":after": after, ":last": last};
        tx.prepare_cached(&empty_bodies())?.execute(range)
    })?;
    for table in OF_REQUESTS {
        tx.prepare_cached(&delete_from(table))?
            .execute(named_params! {":after": after, ":last": last})?;
    }
    Ok(deleted)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rusqlite::{Connection, params};

    use super::{
        super::{clock::StoreTime, schema},
        BATCH_BYTES, DATE, DELETE, OF_REQUESTS, SIZES, STAYING, delete_from, empty_bodies, look,
        sweep,
    };
    use crate::{models::RequestId, services::store::Swept};

    /// The steps by which `SQLite` runs a statement.
    fn steps(db: &Connection, sql: &str) -> Vec<String> {
        let mut statement = db.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        // Unbound parameters are null.
        let steps = statement.raw_query().mapped(|row| row.get("detail"));
        steps.map(Result::unwrap).collect()
    }

    /// The first of them.
    fn plan(db: &Connection, sql: &str) -> String {
        steps(db, sql).swap_remove(0)
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
            let index = match table {
                "bodies" => "COVERING INDEX sqlite_autoindex_bodies_1",
                _ => "PRIMARY KEY",
            };
            assert_eq!(
                plan(&db, &delete_from(table)),
                format!("SEARCH {table} USING {index} (request_id>? AND request_id<?)")
            );
        }
        assert_eq!(
            plan(&db, &empty_bodies()),
            "SEARCH bodies USING COVERING INDEX sqlite_autoindex_bodies_1 (request_id>? AND request_id<?)"
        );
        let staying = steps(&db, STAYING);
        for search in [
            "SEARCH redeliveries USING PRIMARY KEY (id>? AND id<?)",
            "SEARCH idempotency_keys USING PRIMARY KEY (request_id>? AND request_id<?)",
        ] {
            assert!(staying.iter().any(|it| it == search), "{staying:?}");
        }
        assert_eq!(
            plan(&db, SIZES),
            "SEARCH bodies USING INDEX sqlite_autoindex_bodies_1 (request_id>? AND request_id<?)"
        );
    }

    #[test]
    fn rows_are_deleted_in_the_pass_that_finds_them() {
        let mut db = Connection::open_in_memory().unwrap();
        schema::migrate(&mut db).unwrap();
        let mut statement = db.prepare(&format!("EXPLAIN {DELETE}")).unwrap();
        // Unbound parameters are null.
        let steps = statement.raw_query().mapped(|row| row.get("opcode"));
        let steps: Vec<String> = steps.map(Result::unwrap).collect();
        let has = |step| steps.iter().any(|it| it == step);
        // It would collect them in an ephemeral table first.
        assert!(has("Delete") && !has("OpenEphemeral"), "{steps:?}");
    }

    /// Old requests with these bytes in their two large bodies.
    fn with_bodies(db: &Connection, sizes: &[i64]) -> Vec<RequestId> {
        let insert = |bytes: &i64| {
            let id = RequestId::generate();
            db.execute(
                "INSERT INTO requests (id, mode, status, input_payload, created_at, ended, in_bodies)
                 VALUES (?1, 'async', 'COMPLETED', '{}', '', 0, 3)",
                [id.to_string()],
            )
            .unwrap();
            for (kind, bytes) in [("input", bytes / 2), ("result", bytes / 2)] {
                db.execute(
                    "INSERT INTO bodies VALUES (?1, ?2, ?3, '{}')",
                    params![id.to_string(), kind, bytes],
                )
                .unwrap();
            }
            id
        };
        sizes.iter().map(insert).collect()
    }

    #[test]
    fn a_batch_is_bounded_by_the_bytes_of_its_bodies_and_has_one_request_at_least() {
        const HALF: i64 = BATCH_BYTES / 2;
        let mut db = Connection::open_in_memory().unwrap();
        schema::migrate(&mut db).unwrap();
        let ids = with_bodies(&db, &[HALF, HALF, 2, 3 * BATCH_BYTES, 2, HALF]);
        let young = with_bodies(&db, &[5 * BATCH_BYTES]).pop().unwrap();
        db.execute(
            "UPDATE requests SET ended = 2 WHERE id = ?1",
            [young.to_string()],
        )
        .unwrap();
        let (mut after, mut batches) = (None, Vec::new());
        let now = StoreTime::stored(1);
        loop {
            assert_eq!(look(&db, after, now).unwrap(), None);
            let swept = sweep(&db, after, now, Duration::ZERO).unwrap();
            batches.push(swept.deleted);
            after = swept.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(batches, [2, 1, 1, 2], "{} requests", ids.len());
        let nothing_is_due = Some(Swept::default());
        assert_eq!(look(&db, None, now).unwrap(), nothing_is_due);
        let left = db.query_row("SELECT min(request_id), count(*) FROM bodies", [], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?))
        });
        assert_eq!(left.unwrap(), (young.to_string(), 2));
    }
}
