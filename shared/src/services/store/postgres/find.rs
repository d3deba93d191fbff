//! Finding one request.

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use tokio_postgres::{Row, types::Type};
use uuid::Uuid;

use super::{
    Sessions, attempts,
    breakers::{self, Serving},
    columns,
    error::Error,
};
use crate::{
    models::{Mode, Request, RequestId, Status},
    services::store::{
        Scope, StoreError, Work,
        waiting::{ItsHandler, PausedPart, Place, Unfinished, waiting_for},
    },
};

/// One statement, so that the attempts and events are those of the row. What is under way is the
/// redelivery, if there is one. A resend comes before the event that ended its claim.
fn sql() -> String {
    let (started_at, at) = (
        columns::shown_by_sql("started_at"),
        columns::shown_by_sql("at"),
    );
    format!(
        "SELECT job.id, mode, job.status, handler, input_payload::text, result_payload::text,
             callback_url, created_at, completed_at, failure_reason, failure_detail,
             coalesce(again.claim, job.claim) AS claim,
             coalesce(again.lost_claims, job.lost_claims) AS lost_claims,
             coalesce(again.parks, job.parks) AS parks,
             coalesce(again.due, job.due) AS due, {} AS is_due,
             coalesce(again.parked_at, job.parked_at) AS parked_at,
             coalesce(coalesce(again.parked_at, job.parked_at) > now(), false) AS is_by_pause,
             again.status AS redelivery, traceparent, erased_at, is_long, delivered::text,
             coalesce(again.owner, job.owner) AS owner, workers.renewed_at, now() AS now,
             EXISTS (SELECT 1 FROM pauses WHERE origin = '') AS is_paused,
             EXISTS (SELECT 1 FROM pauses WHERE origin = coalesce(again.origin, job.origin))
                 AS is_receiver_paused,
             (SELECT json_agg(json_build_object('number', number, 'stage', stage,
                          'started_at', {started_at}, 'duration_ms', duration_ms, 'class', class,
                          'status', a.status, 'error', error) ORDER BY number)::text
              FROM attempts AS a WHERE request_id = job.id) AS attempts,
             (SELECT json_agg(json_build_object('at', {at}, 'event', event, 'claim', e.claim,
                          'detail', detail) ORDER BY e.claim, place, number)::text
              FROM (SELECT at, event, claim, detail, 2 AS place, number
                    FROM events WHERE request_id = job.id
                    UNION ALL
                    SELECT at, 'resent', claim, NULL, 1, number
                    FROM resends WHERE request_id = job.id) AS e) AS events
         FROM requests AS job LEFT JOIN redeliveries AS again USING (id)
             LEFT JOIN workers ON workers.owner = coalesce(again.owner, job.owner)
         WHERE id = $1 AND ($2::text IS NULL OR job.created_by = $2)",
        columns::is_due("coalesce(again.due, job.due)")
    )
}

/// Finds a request within `scope`, in the form that clients see.
pub(super) async fn find(
    sessions: &Sessions,
    scope: &Scope,
    id: RequestId,
) -> Result<Option<Request>, StoreError> {
    let parameters = [
        (&id.uuid() as _, Type::UUID),
        (&columns::tenant(scope) as _, Type::TEXT),
    ];
    let mut rows = sessions.query(&sql(), &parameters).await?;
    let Some(row) = rows.pop() else {
        return Ok(None);
    };
    let read = || Ok::<_, Error>((request(&row)?, Stored::read(&row)?));
    let (mut request, stored) = read().map_err(|error| error.into_store(false))?;
    // Not of the same snapshot: it says who could do the work now.
    let mut serving = match &stored.handler {
        Some(handler) => breakers::serving(sessions, Some(handler)).await?,
        None => Vec::new(),
    };
    let serving = serving.pop().unwrap_or_default();
    let unfinished = stored.unfinished(&request, &serving);
    request.waiting_for = unfinished.map(|it| waiting_for(&it, stored.now));
    Ok(Some(request))
}

/// What is stored of a request besides, and only its `waiting_for` shows.
struct Stored {
    /// Or released as soon as a worker comes to it: nothing holds it but a pause.
    is_due: bool,
    /// The worker that holds it, if one does.
    owner: String,
    renewed_at: Option<String>,
    now: Timestamp,
    paused: Option<PausedPart>,
    /// Its handler, if that is not the report and its work is to be done.
    handler: Option<String>,
}

impl Stored {
    fn read(row: &Row) -> Result<Self, Error> {
        let (is_due, is_by_pause): (bool, bool) =
            (row.try_get("is_due")?, row.try_get("is_by_pause")?);
        let owner: Option<Uuid> = row.try_get("owner")?;
        let (handler, has_work): (Option<String>, bool) =
            (row.try_get("handler")?, row.try_get("is_long")?);
        Ok(Self {
            is_due: is_due || is_by_pause,
            owner: owner.map(|owner| owner.to_string()).unwrap_or_default(),
            renewed_at: shown(row, "renewed_at")?,
            now: columns::time(row, "now")?,
            handler: handler.filter(|_| has_work),
            paused: if row.try_get("is_paused")? {
                Some(PausedPart::Everything)
            } else if row.try_get("is_receiver_paused")? {
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

fn request(row: &Row) -> Result<Request, Error> {
    let id = RequestId::of(row.try_get("id")?);
    let claims = columns::count(row.try_get::<_, i64>("claim")?);
    let status = columns::parsed(row, "status")?;
    let is_by_pause: bool = row.try_get("is_by_pause")?;
    Ok(Request {
        id,
        mode: columns::parsed(row, "mode")?,
        handler: columns::handler_name(row)?,
        status,
        // NOT NULL in the table, as is `created_at`, so the default is never used.
        input_payload: columns::json(row, "input_payload")?.unwrap_or_default(),
        result_payload: columns::json(row, "result_payload")?,
        callback_url: row.try_get("callback_url")?,
        created_at: shown(row, "created_at")?.unwrap_or_default(),
        completed_at: shown(row, "completed_at")?,
        failure: columns::failure_of(status, row)?,
        claims,
        lost_claims: columns::count(row.try_get::<_, i32>("lost_claims")?),
        attempts: attempts::with_delivered(list(row, "attempts")?, row.try_get("delivered")?),
        // A new job waits for a worker only.
        next_attempt_at: shown(row, "due")?.filter(|_| claims > 0),
        // A pause does not count as parked.
        parked_since: shown(row, "parked_at")?.filter(|_| !is_by_pause),
        parks: columns::count(row.try_get::<_, i32>("parks")?),
        redelivery: columns::parsed_or_null(row, "redelivery")?,
        traceparent: columns::traceparent(row.try_get("traceparent")?, id),
        events: list(row, "events")?,
        waiting_for: None,
        erased_at: shown(row, "erased_at")?,
    })
}

fn shown(row: &Row, column: &str) -> Result<Option<String>, Error> {
    Ok(columns::time_or_null(row, column)?.map(columns::shown))
}

/// The rows of another table that the server has made JSON of.
fn list<T: DeserializeOwned>(row: &Row, column: &str) -> Result<Vec<T>, Error> {
    let Some(list): Option<&str> = row.try_get(column)? else {
        return Ok(Vec::new());
    };
    serde_json::from_str(list).map_err(|error| Error::Row(format!("a row of {column}: {error}")))
}
