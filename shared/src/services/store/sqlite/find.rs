//! Finding one request.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{
    attempts, bodies, breakers,
    clock::{Clock, StoreTime},
    columns, events,
};
use crate::{
    models::{Request, RequestId},
    services::store::{
        Scope,
        breakers::Serving,
        waiting::{PausedPart, Stored, waiting_for},
    },
};

/// Finds a request within `scope`, in the form that clients see.
pub(super) fn find(
    connection: &Connection,
    scope: &Scope,
    id: RequestId,
    clock: &Clock,
) -> rusqlite::Result<Option<Request>> {
    // One snapshot: the attempts and events must be those of the row.
    let snapshot = connection.unchecked_transaction()?;
    let found = snapshot
        .prepare_cached(&format!(
            // What is under way is the redelivery, if there is one.
            "SELECT mode, job.status, {}, {}, callback_url, created_at,
                    completed_at, failure_reason, failure_detail,
                    coalesce(again.claim, job.claim), coalesce(again.lost_claims, job.lost_claims),
                    coalesce(again.due, job.due), coalesce(again.parked_at, job.parked_at),
                    again.status, coalesce(again.parks, job.parks), traceparent,
                    coalesce(again.owner, job.owner), workers.renewed_at,
                    EXISTS (SELECT 1 FROM pauses WHERE origin = ''),
                    EXISTS (SELECT 1 FROM pauses
                            WHERE origin = coalesce(again.origin, job.origin)),
                    erased_at, handler, is_long, delivered
             FROM requests AS job LEFT JOIN redeliveries AS again USING (id)
                 LEFT JOIN workers ON workers.owner = coalesce(again.owner, job.owner)
             WHERE id = ?1 AND (?2 IS NULL OR job.created_by = ?2)",
            bodies::INPUT,
            bodies::RESULT
        ))?
        .query_row(params![id.to_string(), columns::tenant(scope)], |row| {
            let delivered = columns::text(row, 23)?;
            Ok((request(id, row, clock)?, stored(row, clock)?, delivered))
        })
        .optional()?;
    let Some((mut request, stored, delivered)) = found else {
        return Ok(None);
    };
    request.attempts = attempts::of(&snapshot, id, delivered.as_deref())?;
    request.events = events::of(&snapshot, id)?;
    let serving = match &stored.handler {
        Some(handler) => breakers::of(&snapshot, handler, clock)?,
        None => Serving::default(),
    };
    let unfinished = stored.unfinished(&request, &serving);
    request.waiting_for = unfinished.map(|it| waiting_for(&it, Timestamp::now()));
    Ok(Some(request))
}

/// What the row of a request has that is not shown.
fn stored(row: &Row<'_>, clock: &Clock) -> rusqlite::Result<Stored> {
    let due: Option<i64> = row.get(11)?;
    let has_work: bool = row.get(22)?;
    let is_due = due.is_none_or(|due| StoreTime::stored(due) <= clock.now());
    Ok(Stored {
        is_due: is_due || is_parked_by_pause(row, clock)?,
        owner: columns::text(row, 16)?.unwrap_or_default(),
        renewed_at: columns::text(row, 17)?,
        handler: columns::text(row, 21)?.filter(|_| has_work),
        paused: PausedPart::of(row.get(18)?, row.get(19)?),
    })
}

fn request(id: RequestId, row: &Row<'_>, clock: &Clock) -> rusqlite::Result<Request> {
    let claims = row.get(9)?;
    let status = columns::parsed(row, 1)?;
    Ok(Request {
        id,
        mode: columns::parsed(row, 0)?,
        handler: columns::handler_name(row, 21)?,
        status,
        // NOT NULL in the table, as is `created_at`, so the default is never used.
        input_payload: columns::json(row, 2)?.unwrap_or_default(),
        result_payload: columns::json(row, 3)?,
        callback_url: columns::text(row, 4)?,
        created_at: columns::text(row, 5)?.unwrap_or_default(),
        completed_at: columns::text(row, 6)?,
        failure: columns::failure_of(status, row, 7, 8)?,
        claims,
        lost_claims: row.get(10)?,
        attempts: Vec::new(),
        // A new job waits for a worker only.
        next_attempt_at: shown(row, 11, clock)?.filter(|_| claims > 0),
        parked_since: if is_parked_by_pause(row, clock)? {
            None
        } else {
            shown(row, 12, clock)?
        },
        parks: row.get(14)?,
        redelivery: columns::parsed_or_null(row, 13)?,
        traceparent: columns::traceparent(
            row.get_ref(15)?.as_str_or_null().unwrap_or_default(),
            id,
        ),
        events: Vec::new(),
        waiting_for: None,
        erased_at: columns::text(row, 20)?,
    })
}

/// A pause does not count as parked.
fn is_parked_by_pause(row: &Row<'_>, clock: &Clock) -> rusqlite::Result<bool> {
    let parked_at: Option<i64> = row.get(12)?;
    Ok(parked_at.is_some_and(|at| StoreTime::stored(at) > clock.now()))
}

/// The store time in a column, by the wall clock of now.
fn shown(row: &Row<'_>, column: usize, clock: &Clock) -> rusqlite::Result<Option<String>> {
    let stored: Option<i64> = row.get(column)?;
    let at = stored.map(|millis| clock.wall(StoreTime::stored(millis)));
    Ok(at.map(columns::time))
}
