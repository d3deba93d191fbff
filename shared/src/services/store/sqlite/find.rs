//! Finding one request.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{
    attempts, bodies,
    breakers::{self, Serving},
    clock::{Clock, StoreTime},
    columns, events,
};
use crate::{
    models::{Mode, Request, RequestId, Status},
    services::store::{
        Scope, Work,
        waiting::{ItsHandler, PausedPart, Place, Unfinished, waiting_for},
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
            Ok((request(id, row, clock)?, Stored::read(row, clock)?))
        })
        .optional()?;
    let Some((mut request, stored)) = found else {
        return Ok(None);
    };
    request.attempts = attempts::of(&snapshot, id, stored.delivered.as_deref())?;
    request.events = events::of(&snapshot, id)?;
    let serving = match &stored.handler {
        Some(handler) => breakers::of(&snapshot, handler, clock)?,
        None => Serving::default(),
    };
    let unfinished = stored.unfinished(&request, &serving);
    request.waiting_for = unfinished.map(|it| waiting_for(&it, Timestamp::now()));
    Ok(Some(request))
}

/// What is stored of a request besides, and only its `waiting_for` and attempts show.
struct Stored {
    /// Or released as soon as a worker comes to it: nothing holds it but a pause.
    is_due: bool,
    /// The worker that holds it, if one does.
    owner: String,
    renewed_at: Option<String>,
    paused: Option<PausedPart>,
    /// Its handler, if that is not the report and its work is to be done.
    handler: Option<String>,
    /// The successful callback with which the job ended.
    delivered: Option<String>,
}

impl Stored {
    fn read(row: &Row<'_>, clock: &Clock) -> rusqlite::Result<Self> {
        let due: Option<i64> = row.get(11)?;
        let has_work: bool = row.get(22)?;
        let is_due = due.is_none_or(|due| StoreTime::stored(due) <= clock.now());
        Ok(Self {
            is_due: is_due || is_parked_by_pause(row, clock)?,
            owner: columns::text(row, 16)?.unwrap_or_default(),
            renewed_at: columns::text(row, 17)?,
            handler: columns::text(row, 21)?.filter(|_| has_work),
            delivered: columns::text(row, 23)?,
            paused: if row.get(18)? {
                Some(PausedPart::Everything)
            } else if row.get(19)? {
                Some(PausedPart::Receiver)
            } else {
                None
            },
        })
    }

    /// The job or redelivery of `request` that is not over, if there is one.
    fn unfinished<'a>(&'a self, request: &'a Request, serving: &Serving) -> Option<Unfinished<'a>> {
        let (work, status) = match request.redelivery {
            Some(status) => (Work::Redelivery, status),
            None => (Work::Job, request.status),
        };
        let place = match status {
            // A sync request is recorded when it is over.
            _ if request.mode == Mode::Sync => return None,
            Status::Completed | Status::Failed => return None,
            Status::Pending => Place::Table {
                until: request.next_attempt_at.as_deref().filter(|_| !self.is_due),
                is_parked: request.parked_since.is_some(),
            },
            Status::Processing => Place::Worker {
                owner: &self.owner,
                renewed_at: self.renewed_at.as_deref(),
            },
        };
        Some(Unfinished {
            work,
            place,
            claims: request.claims,
            lost_claims: request.lost_claims,
            last_attempt: request.attempts.last(),
            paused: self.paused,
            handler: self.handler.as_deref().map(|name| ItsHandler {
                name,
                workers: serving.workers,
                breakers: serving.breakers,
            }),
        })
    }
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
