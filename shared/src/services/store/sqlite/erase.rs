//! Erasing the contents of a finished request.
//!
//! What is left: the id, the client, times, counts, status and reason, and of each attempt its
//! class and HTTP status. An idempotency key stays with its request, without the fingerprint: no
//! submission matches it any more, so a late repeat makes no second job.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};

use super::{bodies, columns};
use crate::{
    models::{RequestId, Status},
    services::store::{Erased, Scope, Unerasable},
};

/// The detail of a cancelled job is a sentence of this service, by which a repeated cancellation
/// gives the same answer. Any other can name a host.
const REQUEST: &str = "UPDATE requests SET erased_at = max(?2, coalesce(completed_at, created_at)),
         input_payload = '{\"erased\":true}', result_payload = NULL, callback_url = NULL,
         callback_target = NULL, origin = NULL, traceparent = NULL,
         failure_detail = CASE
             WHEN failure_reason IS NULL THEN NULL
             WHEN failure_reason = 'cancelled' THEN failure_detail
             ELSE 'The detail was erased.' END
     WHERE id = ?1 RETURNING erased_at";

/// The contents of a request in other tables, beside `bodies`. Every table that gets some needs a
/// line here.
const OTHERS: [&str; 3] = [
    "UPDATE attempts SET error = NULL, internal_detail = NULL, for_operators = NULL
     WHERE request_id = ?1",
    // The first releases stored the text of an error, and not its class.
    "UPDATE events SET detail = NULL WHERE request_id = ?1 AND detail IS NOT NULL",
    "UPDATE idempotency_keys SET fingerprint = x'' WHERE request_id = ?1",
];

/// Erases a finished request within `scope`. A repeat changes nothing.
pub(super) fn erase(
    tx: &Connection,
    scope: &Scope,
    id: RequestId,
) -> rusqlite::Result<Result<Erased, Unerasable>> {
    let found = tx
        .prepare_cached(
            "SELECT status, erased_at,
                    EXISTS (SELECT 1 FROM redeliveries AS r WHERE r.id = requests.id)
             FROM requests WHERE id = ?1 AND (?2 IS NULL OR created_by = ?2)",
        )?
        // Another tenant's request must look like no request.
        .query_row(params![id.to_string(), columns::tenant(scope)], |row| {
            let (status, at) = (columns::parsed(row, 0)?, columns::text(row, 1)?);
            Ok((status, at, row.get::<_, bool>(2)?))
        })
        .optional()?;
    let Some((status, erased_at, is_redelivered)) = found else {
        return Ok(Err(Unerasable::Unknown));
    };
    if let Status::Pending | Status::Processing = status {
        return Ok(Err(Unerasable::Unfinished));
    }
    if is_redelivered {
        return Ok(Err(Unerasable::UnderWay));
    }
    let at = match erased_at {
        Some(at) => at,
        None => remove(tx, id)?,
    };
    Ok(Ok(Erased { status, at }))
}

/// Returns when it was erased: now.
fn remove(tx: &Connection, id: RequestId) -> rusqlite::Result<String> {
    bodies::delete(tx, id)?;
    let id = id.to_string();
    for others in OTHERS {
        tx.prepare_cached(others)?.execute([&id])?;
    }
    tx.prepare_cached(REQUEST)?
        .query_one([&id, &columns::time(Timestamp::now())], |row| row.get(0))
}
