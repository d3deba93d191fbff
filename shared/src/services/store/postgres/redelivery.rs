//! Redelivery: a new series of callback attempts for a finished request.

use std::collections::HashSet;

use tokio_postgres::{Row, types::Type};
use uuid::Uuid;

use super::{
    Sessions, columns,
    error::Error,
    pages,
    session::{Parameter, Session},
    state::WORK_FAILED,
};
use crate::{
    models::{Origin, RequestId, Status},
    services::store::{Outcome, Redeliverable, RedeliveryPage, Scope, StoreError, Unredeliverable},
};

/// Maximum number of rows examined for one page. It bounds how long a read takes.
const EXAMINED: usize = 2000;

/// SQL for whether a finished request has a callback, and something to say in it: a result, or why
/// the work failed.
pub(super) fn is_deliverable() -> String {
    format!(
        "(mode = 'async' AND callback_url IS NOT NULL
            AND (result_payload IS NOT NULL OR {WORK_FAILED}))"
    )
}

/// The origin of a request's callback, if it has one.
pub(super) async fn origin_of(
    sessions: &Sessions,
    scope: &Scope,
    id: RequestId,
) -> Result<Result<Option<Origin>, Unredeliverable>, StoreError> {
    let find = "SELECT origin, coalesce(callback_target, callback_url) AS target FROM requests
         WHERE id = $1 AND ($2::text IS NULL OR created_by = $2)";
    let of_request = [
        (&id.uuid() as _, Type::UUID),
        (&columns::tenant(scope) as _, Type::TEXT),
    ];
    let found = sessions.query(find, &of_request).await?;
    let origin = found.first().map(columns::origin).transpose();
    let origin = origin.map_err(|error| error.into_store(false))?;
    Ok(origin.ok_or(Unredeliverable::Unknown))
}

/// What came of starting redeliveries: one verdict for each id, in order.
type Begun = Vec<Result<(), Unredeliverable>>;

/// Starts redeliveries within `scope`. The first attempts are due at once. A cancelled job is
/// redelivered only if it `is_named`, and not as one of many.
pub(super) async fn begin(
    session: &Session,
    scope: &Scope,
    ids: &[RequestId],
    is_named: bool,
) -> Result<Begun, Error> {
    // Locked, so that none is erased or deleted meanwhile.
    let find = format!(
        "SELECT place, status, {} AS is_deliverable, erased_at IS NOT NULL AS is_erased, origin,
             coalesce(callback_target, callback_url) AS target,
             coalesce(failure_reason = 'cancelled', false) AS is_cancelled
         FROM unnest($1::uuid[]) WITH ORDINALITY AS named (id, place)
             JOIN requests USING (id)
         WHERE $2::text IS NULL OR created_by = $2
         ORDER BY id FOR NO KEY UPDATE OF requests",
        is_deliverable()
    );
    let all: Vec<Uuid> = ids.iter().map(|id| id.uuid()).collect();
    let named = [
        (&all as _, Type::UUID_ARRAY),
        (&columns::tenant(scope) as _, Type::TEXT),
    ];
    // Another tenant's request must look like no request.
    let mut begun: Begun = vec![Err(Unredeliverable::Unknown); ids.len()];
    let mut origins: Vec<Option<String>> = vec![None; ids.len()];
    for row in session.query(&find, &named).await? {
        let (is_deliverable, is_erased, is_cancelled): (bool, bool, bool) = (
            row.try_get("is_deliverable")?,
            row.try_get("is_erased")?,
            row.try_get("is_cancelled")?,
        );
        let verdict = match columns::parsed(&row, "status")? {
            Status::Pending | Status::Processing => Err(Unredeliverable::Unfinished),
            Status::Completed | Status::Failed if is_erased => Err(Unredeliverable::Erased),
            Status::Completed | Status::Failed if !is_deliverable => Err(Unredeliverable::Nothing),
            Status::Completed | Status::Failed if is_cancelled && !is_named => {
                Err(Unredeliverable::Cancelled)
            }
            Status::Completed | Status::Failed => Ok(()),
        };
        let origin = columns::origin(&row)?.map(|origin| origin.as_str().to_owned());
        columns::set(&mut begun, &row, verdict)?;
        columns::set(&mut origins, &row, origin)?;
    }
    let places: Vec<usize> = (0..ids.len()).filter(|at| begun[*at].is_ok()).collect();
    if places.is_empty() {
        return Ok(begun);
    }
    let named: Vec<Uuid> = places.iter().map(|at| all[*at]).collect();
    let origins: Vec<_> = places.iter().map(|at| origins[*at].as_deref()).collect();
    // `attempts_before`: the retry schedule begins anew, but the attempts keep their numbering.
    let insert = "
        INSERT INTO redeliveries (id, status, created_by, origin, claim, due, attempts,
            attempts_before, parks)
        SELECT id, 'PENDING', created_by, named.origin, claim, now(), attempts, attempts, parks
        FROM unnest($1::uuid[], $2::text[]) AS named (id, origin) JOIN requests USING (id)
        ORDER BY id
        ON CONFLICT DO NOTHING RETURNING id";
    let values = [
        (&named as _, Type::UUID_ARRAY),
        (&origins as _, Type::TEXT_ARRAY),
    ];
    let rows = session.query(insert, &values).await?;
    let mut new: HashSet<Uuid> = columns::ids(&rows)?.into_iter().collect();
    for (at, id) in places.into_iter().zip(named) {
        if !new.remove(&id) {
            begun[at] = Err(Unredeliverable::UnderWay);
        }
    }
    Ok(begun)
}

/// Reads the page of `scope`.
pub(super) async fn find(
    sessions: &Sessions,
    scope: &Scope,
    page: &RedeliveryPage,
) -> Result<Redeliverable, StoreError> {
    // The planner knows the parameters: what they make true or false is no part of the search.
    let rows = format!(
        "SELECT id, status = $1 AND {} AND ($2::timestamptz IS NULL OR created_at >= $2)
                 AND failure_reason IS DISTINCT FROM 'cancelled'
                 AND NOT EXISTS (SELECT 1 FROM redeliveries AS r WHERE r.id = requests.id)
                 AS is_wanted,
             origin, coalesce(callback_target, callback_url) AS target
         FROM requests
         WHERE ($1 <> 'FAILED' OR status = 'FAILED') AND ($3::text IS NULL OR created_by = $3)
             AND ($4::uuid IS NULL OR id > $4) AND ($5::uuid IS NULL OR id >= $5)
         ORDER BY id",
        is_deliverable()
    );
    let parameters = [
        (&page.status.as_str() as _, Type::TEXT),
        (&page.since.map(columns::stored) as _, Type::TIMESTAMPTZ),
        (&columns::tenant(scope) as _, Type::TEXT),
        (&page.after.map(RequestId::uuid) as _, Type::UUID),
        (&page.since.map(columns::first_id_since) as _, Type::UUID),
    ];
    let sql = pages::sql(&rows, EXAMINED, page.limit);
    let rows = sessions.query(&sql, &parameters).await?;
    let read = |id, row: &Row| Ok(columns::origin(row)?.map(|origin| (id, origin)));
    let page = pages::page(&rows, EXAMINED, page.limit, read);
    let (requests, next) = page.map_err(|error| error.into_store(false))?;
    // A URL that can't be parsed was edited by hand: there is nothing to deliver to.
    let requests = requests.into_iter().flatten().collect();
    Ok(Redeliverable { requests, next })
}

/// Locks a request. Whoever changes a redelivery under way locks its request first, so that two do
/// not wait for each other.
pub(super) async fn lock(session: &Session, id: RequestId) -> Result<(), Error> {
    let lock = "SELECT 1 FROM requests WHERE id = $1 FOR NO KEY UPDATE";
    session
        .query(lock, &[(&id.uuid(), Type::UUID)])
        .await
        .map(drop)
}

/// Ends redeliveries, whose requests are locked, with `outcome`, or without one if they were
/// cancelled. Each request has then what its redelivery has counted and who ended it, and is kept
/// for as long as if it had ended now.
pub(super) async fn end(
    session: &Session,
    ids: &[RequestId],
    outcome: Option<&Outcome>,
) -> Result<(), Error> {
    // A redelivery that fails does not change the status, and so not what comes with it. One that
    // succeeds does not make up for work that has failed.
    let set = match outcome {
        None => String::new(),
        Some(Outcome::Completed) => format!(
            ", status = CASE WHEN {WORK_FAILED} THEN it.status ELSE 'COMPLETED' END,
             completed_at = CASE WHEN it.status = 'COMPLETED' OR {WORK_FAILED} THEN it.completed_at
                                 ELSE greatest(clock_timestamp(), it.created_at) END,
             failure_reason = CASE WHEN {WORK_FAILED} THEN it.failure_reason END,
             failure_detail = CASE WHEN {WORK_FAILED} THEN it.failure_detail END"
        ),
        Some(Outcome::Failed(_)) => format!(
            ", failure_reason = CASE WHEN it.status = 'COMPLETED' OR {WORK_FAILED}
                                     THEN it.failure_reason ELSE $2 END,
             failure_detail = CASE WHEN it.status = 'COMPLETED' OR {WORK_FAILED}
                                   THEN it.failure_detail ELSE $3 END"
        ),
    };
    // A job that was put back by hand meanwhile has another claim.
    let update = format!(
        "UPDATE requests AS it SET claim = r.claim, owner = r.owner, attempts = r.attempts,
             parks = r.parks, lost_claims = r.lost_claims, ended = clock_timestamp(){set}
         FROM redeliveries AS r
         WHERE r.id = it.id AND it.id = ANY($1) AND it.status IN ('COMPLETED', 'FAILED')"
    );
    let ids: Vec<Uuid> = ids.iter().map(|id| id.uuid()).collect();
    let failure = outcome.and_then(Outcome::failure);
    let reason = failure.map(|failure| failure.reason.as_str());
    let detail = failure.map(|failure| columns::text(&failure.detail));
    let values: [Parameter<'_>; 3] = [
        (&ids, Type::UUID_ARRAY),
        (&reason, Type::TEXT),
        (&detail, Type::TEXT),
    ];
    session.execute(&update, &values).await?;
    let delete = "DELETE FROM redeliveries WHERE id = ANY($1)";
    session.execute(delete, &values[..1]).await.map(drop)
}
