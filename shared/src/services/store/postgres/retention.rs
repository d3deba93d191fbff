//! Deleting finished requests in small batches along the primary key.
//!
//! The ids of requests grow with the time of their acceptance, roughly: so what is old is mostly in
//! front, and most passes end in the first batch in which nearly everything is young. Which rows
//! are old is told by `ended`, and never by an id or the wall clock.

use std::time::Duration;

use tokio_postgres::{Row, types::Type};
use uuid::Uuid;

use super::{
    Sessions, columns,
    error::Error,
    session::{Parameter, Session},
};
use crate::{
    models::RequestId,
    services::store::{StoreError, Swept},
};

/// The rows of one batch. It bounds how long its locks are held.
const BATCH: usize = 500;

/// The bytes of bodies that one batch deletes at most, unless a single request has more.
const BATCH_BYTES: i64 = 16 << 20;

/// A batch with at least this many rows that have ended and are too young, and none that is old, is
/// young.
const YOUNG: usize = 400;

/// `pg_column_size`: as stored, and read from the row alone.
const LOOK: &str = "
    SELECT id, status IN ('COMPLETED', 'FAILED'), ended IS NOT NULL,
        ended <= now() - $3 * interval '1 millisecond',
        pg_column_size(input_payload) + coalesce(pg_column_size(result_payload), 0)
    FROM requests WHERE id > $1 ORDER BY id LIMIT $2";

/// SQL that locks the requests to be deleted. Other sweeps leave them, and so does this one what
/// others have locked: they are deleted next time.
const LOCK: &str = "
    SELECT id FROM requests
    WHERE id = ANY($1) AND status IN ('COMPLETED', 'FAILED')
      AND ended <= now() - $2 * interval '1 millisecond'
    ORDER BY id FOR UPDATE SKIP LOCKED";

/// SQL that deletes the locked requests, unless a redelivery is in progress or the window of their
/// key is not over. A redelivery that began before they were locked is seen now.
///
/// Each list is read by its index: the planner would take one that it does not know for small, and
/// read a whole table for it.
const DELETE: &str = "
    WITH redelivering AS MATERIALIZED (
        SELECT id FROM redeliveries WHERE id = ANY($1)
    ), keyed AS MATERIALIZED (
        SELECT request_id FROM idempotency_keys WHERE request_id = ANY($1)
    ), free AS MATERIALIZED (
        SELECT request_id FROM idempotency_keys WHERE request_id = ANY($1) AND expires <= now()
        FOR UPDATE SKIP LOCKED
    )
    DELETE FROM requests
    WHERE id = ANY($1) AND id NOT IN (SELECT id FROM redelivering)
      AND (id NOT IN (SELECT request_id FROM keyed) OR id IN (SELECT request_id FROM free))
    RETURNING id";

/// SQL that dates what has ended without a date: it is kept from now on.
const DATE: &str = "
    UPDATE requests SET ended = now() WHERE id IN (
        SELECT id FROM requests
        WHERE id = ANY($1) AND status IN ('COMPLETED', 'FAILED') AND ended IS NULL
        ORDER BY id FOR NO KEY UPDATE SKIP LOCKED)";

/// What belongs to a request.
const OF_REQUESTS: [&str; 4] = ["attempts", "events", "resends", "idempotency_keys"];

/// What is to be done with the rows of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Batch {
    /// Finished long enough ago.
    old: Vec<Uuid>,
    /// Finished, without the time of it.
    undated: Vec<Uuid>,
    pub(super) swept: Swept,
}

impl Batch {
    /// Whether there is something to write.
    pub(super) fn is_due(&self) -> bool {
        !self.old.is_empty() || !self.undated.is_empty()
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

/// A row of a batch, and the bytes of its bodies.
struct Seen {
    id: Uuid,
    age: Age,
    bytes: i64,
}

/// Reads the batch of rows after `after`, of which those that ended `keep` ago are old.
pub(super) async fn look(
    sessions: &Sessions,
    after: Option<RequestId>,
    keep: Duration,
) -> Result<Batch, StoreError> {
    let after = after.map_or(Uuid::nil(), RequestId::uuid);
    let (limit, keep) = (columns::integer(BATCH), columns::millis(keep));
    let values: [Parameter<'_>; 3] = [
        (&after, Type::UUID),
        (&limit, Type::INT8),
        (&keep, Type::INT8),
    ];
    let rows = sessions.query(LOOK, &values).await?;
    let rows: Result<Vec<Seen>, Error> = rows.iter().map(seen).collect();
    let rows = rows.map_err(|error| error.into_store(false))?;
    Ok(batch(&rows))
}

fn seen(row: &Row) -> Result<Seen, Error> {
    let (is_finished, is_dated): (bool, bool) = (row.try_get(1)?, row.try_get(2)?);
    let is_old: Option<bool> = row.try_get(3)?;
    let age = match (is_finished, is_dated, is_old) {
        (false, ..) => Age::Unfinished,
        (true, false, _) => Age::Undated,
        (true, true, Some(true)) => Age::Old,
        (true, true, _) => Age::Young,
    };
    Ok(Seen {
        id: row.try_get(0)?,
        age,
        bytes: row.try_get::<_, i32>(4)?.into(),
    })
}

/// The batch of the first of these rows whose old ones are not too large.
fn batch(rows: &[Seen]) -> Batch {
    let mut bytes = 0;
    let fitting = rows.iter().take_while(|row| {
        let is_first = bytes == 0;
        bytes += if row.age == Age::Old { row.bytes } else { 0 };
        is_first || bytes <= BATCH_BYTES
    });
    let rows_of = &rows[..fitting.count()];
    let of = |age| {
        let ids = rows_of.iter().filter(|row| row.age == age);
        ids.map(|row| row.id).collect::<Vec<_>>()
    };
    let (old, undated) = (of(Age::Old), of(Age::Undated));
    let is_last = rows_of.len() == rows.len() && rows.len() < BATCH;
    let last = rows_of.last().filter(|_| !is_last);
    Batch {
        swept: Swept {
            deleted: 0,
            next: last.map(|row| RequestId::of(row.id)),
            is_young: old.is_empty() && undated.is_empty() && of(Age::Young).len() >= YOUNG,
        },
        old,
        undated,
    }
}

/// Deletes the old rows of a batch with all that belongs to them, and dates the undated ones.
/// Returns how many requests it has deleted. A request with a redelivery in progress stays.
pub(super) async fn delete(
    session: &Session,
    batch: &Batch,
    keep: Duration,
) -> Result<usize, Error> {
    if !batch.undated.is_empty() {
        let undated = (&batch.undated as _, Type::UUID_ARRAY);
        session.execute(DATE, &[undated]).await?;
    }
    if batch.old.is_empty() {
        return Ok(0);
    }
    let (old, keep): (Parameter<'_>, Parameter<'_>) = (
        (&batch.old, Type::UUID_ARRAY),
        (&columns::millis(keep), Type::INT8),
    );
    let locked = columns::ids(&session.query(LOCK, &[old, keep]).await?)?;
    let locked: Parameter<'_> = (&locked, Type::UUID_ARRAY);
    let deleted = columns::ids(&session.query(DELETE, &[locked]).await?)?;
    let gone: [Parameter<'_>; 1] = [(&deleted, Type::UUID_ARRAY)];
    for table in OF_REQUESTS {
        let delete = format!("DELETE FROM {table} WHERE request_id = ANY($1)");
        session.execute(&delete, &gone).await?;
    }
    Ok(deleted.len())
}
