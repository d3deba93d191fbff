//! Finding one request.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{
    attempts,
    clock::{Clock, StoreTime},
    columns, events,
};
use crate::{
    models::{Failure, Request, RequestId},
    services::store::Scope,
};

/// Finds a request within `scope`, in the form that clients see.
pub(super) fn find(
    connection: &Connection,
    scope: &Scope,
    id: RequestId,
    clock: &Clock,
) -> rusqlite::Result<Option<Request>> {
    connection
        .prepare_cached(
            // What is under way is the redelivery, if there is one.
            "SELECT mode, job.status, input_payload, result_payload, callback_url, created_at,
                    completed_at, failure_reason, failure_detail,
                    coalesce(again.claim, job.claim), coalesce(again.lost_claims, job.lost_claims),
                    coalesce(again.due, job.due), coalesce(again.parked_at, job.parked_at),
                    again.status, coalesce(again.parks, job.parks), traceparent
             FROM requests AS job LEFT JOIN redeliveries AS again USING (id)
             WHERE id = ?1 AND (?2 IS NULL OR job.created_by = ?2)",
        )?
        .query_row(params![id.to_string(), columns::tenant(scope)], |row| {
            request(id, row, clock)
        })
        .optional()?
        .map(|request| {
            Ok(Request {
                attempts: attempts::of(connection, id)?,
                events: events::of(connection, id)?,
                ..request
            })
        })
        .transpose()
}

fn request(id: RequestId, row: &Row<'_>, clock: &Clock) -> rusqlite::Result<Request> {
    let reason = columns::parsed_or_null(row, 7)?;
    let detail = columns::text(row, 8)?.unwrap_or_default();
    let claims = row.get(9)?;
    Ok(Request {
        id,
        mode: columns::parsed(row, 0)?,
        status: columns::parsed(row, 1)?,
        // NOT NULL in the table, as is `created_at`, so the default is never used.
        input_payload: columns::json(row, 2)?.unwrap_or_default(),
        result_payload: columns::json(row, 3)?,
        callback_url: columns::text(row, 4)?,
        created_at: columns::text(row, 5)?.unwrap_or_default(),
        completed_at: columns::text(row, 6)?,
        failure: reason.map(|reason| Failure::new(reason, detail)),
        claims,
        lost_claims: row.get(10)?,
        attempts: Vec::new(),
        // A new job waits for a worker only.
        next_attempt_at: shown(row, 11, clock)?.filter(|_| claims > 0),
        parked_since: shown(row, 12, clock)?,
        parks: row.get(14)?,
        redelivery: columns::parsed_or_null(row, 13)?,
        traceparent: columns::traceparent(
            row.get_ref(15)?.as_str_or_null().unwrap_or_default(),
            id,
        ),
        events: Vec::new(),
    })
}

/// The store time in a column, by the wall clock of now.
fn shown(row: &Row<'_>, column: usize, clock: &Clock) -> rusqlite::Result<Option<String>> {
    let stored: Option<i64> = row.get(column)?;
    let at = stored.map(|millis| clock.wall(StoreTime::stored(millis)));
    Ok(at.map(columns::time))
}
