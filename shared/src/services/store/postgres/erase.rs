//! Erasing the contents of a finished request.
//!
//! What is left: the id, the client, times, counts, status and reason, and of each attempt its
//! class and HTTP status. An idempotency key stays with its request, without the fingerprint: no
//! submission matches it any more, so a late repeat makes no second job.

use tokio_postgres::types::Type;

use super::{columns, error::Error, session::Session};
use crate::{
    models::{RequestId, Status},
    services::store::{Erased, Scope, Unerasable},
};

/// The detail of a cancelled job is a sentence of this service, by which a repeated cancellation
/// gives the same answer. Any other can name a host.
const REQUEST: &str = "
UPDATE requests SET erased_at = greatest(now(), completed_at, created_at),
    input_payload = '{\"erased\":true}', result_payload = NULL, callback_url = NULL,
    callback_target = NULL, origin = NULL, traceparent = NULL,
    failure_detail = CASE
        WHEN failure_reason IS NULL THEN NULL
        WHEN failure_reason = 'cancelled' THEN failure_detail
        ELSE 'The detail was erased.' END
WHERE id = $1 RETURNING erased_at";

/// The contents of a request in other tables. Every table that gets some needs a line here.
const OTHERS: [&str; 3] = [
    "UPDATE attempts SET error = NULL, internal_detail = NULL WHERE request_id = $1",
    "UPDATE events SET detail = NULL WHERE request_id = $1 AND detail IS NOT NULL",
    "UPDATE idempotency_keys SET fingerprint = '' WHERE request_id = $1",
];

/// Erases a finished request within `scope`. A repeat changes nothing.
pub(super) async fn erase(
    session: &Session,
    scope: &Scope,
    id: RequestId,
) -> Result<Result<Erased, Unerasable>, Error> {
    let of_request = [
        (&id.uuid() as _, Type::UUID),
        (&columns::tenant(scope) as _, Type::TEXT),
    ];
    // Whoever starts a redelivery locks the request, too. So the second statement, which begins
    // after the lock is taken, sees every one that was started before.
    let lock = "SELECT status, erased_at FROM requests
         WHERE id = $1 AND ($2::text IS NULL OR created_by = $2) FOR NO KEY UPDATE";
    let redelivered = "SELECT 1 FROM redeliveries WHERE id = $1";
    let (found, redelivery) = tokio::join!(
        biased;
        session.find(lock, &of_request),
        session.find(redelivered, &of_request[..1])
    );
    // Another tenant's request must look like no request.
    let Some(row) = found? else {
        return Ok(Err(Unerasable::Unknown));
    };
    let status = columns::parsed(&row, "status")?;
    if let Status::Pending | Status::Processing = status {
        return Ok(Err(Unerasable::Unfinished));
    }
    if redelivery?.is_some() {
        return Ok(Err(Unerasable::UnderWay));
    }
    let at = if let Some(at) = columns::time_or_null(&row, "erased_at")? {
        at
    } else {
        for others in OTHERS {
            session.execute(others, &of_request[..1]).await?;
        }
        match session.find(REQUEST, &of_request[..1]).await? {
            Some(row) => columns::time(&row, "erased_at")?,
            None => return Ok(Err(Unerasable::Unknown)),
        }
    };
    let at = columns::shown(at);
    Ok(Ok(Erased { status, at }))
}
