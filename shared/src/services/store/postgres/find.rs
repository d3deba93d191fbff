//! Finding one request.

use serde::de::DeserializeOwned;
use tokio_postgres::{Row, types::Type};
use uuid::Uuid;

use super::{Sessions, breakers, columns, error::Error};
use crate::{
    models::{Request, RequestId},
    services::store::{
        Scope, StoreError,
        delivered::with_delivered,
        waiting::{PausedPart, Stored, waiting_for},
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
    let read = || Ok::<_, Error>((request(&row)?, stored(&row)?, columns::time(&row, "now")?));
    let (mut request, stored, now) = read().map_err(|error| error.into_store(false))?;
    // Not of the same snapshot: it says who could do the work now.
    let mut serving = match &stored.handler {
        Some(handler) => breakers::serving(sessions, Some(handler)).await?,
        None => Vec::new(),
    };
    let serving = serving.pop().unwrap_or_default();
    let unfinished = stored.unfinished(&request, &serving);
    request.waiting_for = unfinished.map(|it| waiting_for(&it, now));
    Ok(Some(request))
}

/// What the row of a request has that is not shown.
fn stored(row: &Row) -> Result<Stored, Error> {
    let (is_due, is_by_pause): (bool, bool) = (row.try_get("is_due")?, row.try_get("is_by_pause")?);
    let owner: Option<Uuid> = row.try_get("owner")?;
    let (handler, has_work): (Option<String>, bool) =
        (row.try_get("handler")?, row.try_get("is_long")?);
    Ok(Stored {
        is_due: is_due || is_by_pause,
        owner: owner.map(|owner| owner.to_string()).unwrap_or_default(),
        renewed_at: shown(row, "renewed_at")?,
        handler: handler.filter(|_| has_work),
        paused: PausedPart::of(
            row.try_get("is_paused")?,
            row.try_get("is_receiver_paused")?,
        ),
    })
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
        attempts: with_delivered(list(row, "attempts")?, row.try_get("delivered")?),
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
