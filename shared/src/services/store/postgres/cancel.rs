//! Cancelling, and telling the worker that holds the job.

use tokio_postgres::{Row, types::Type};
use uuid::Uuid;

use super::{
    columns,
    error::Error,
    redelivery,
    session::Session,
    state::{self, IS_CLAIMED},
};
use crate::{
    models::{Failure, FailureReason, RequestId, Status, Transition},
    services::store::{
        Cancelled, CancelledWork, Scope, Uncancellable, Work,
        cancel::{Canceller, MAY_ARRIVE},
    },
};

/// SQL for the rows of requests that have a job or a redelivery in progress.
pub(super) const IN_PROGRESS: &str = "mode = 'async' AND (status IN ('PENDING', 'PROCESSING')
    OR EXISTS (SELECT 1 FROM redeliveries AS r WHERE r.id = requests.id))";

/// Cancels what is unfinished of a request within `scope`.
pub(super) async fn cancel(
    session: &Session,
    scope: &Scope,
    id: RequestId,
    by: Canceller,
) -> Result<Result<Cancelled, Uncancellable>, Error> {
    let of_request = [
        (&id.uuid() as _, Type::UUID),
        (&columns::tenant(scope) as _, Type::TEXT),
    ];
    let lock = "SELECT status, owner, claim, failure_reason, failure_detail,
             lost_claims > 0 AS has_lost_claims
         FROM requests WHERE id = $1 AND ($2::text IS NULL OR created_by = $2)
         FOR NO KEY UPDATE";
    // First the worker, as whoever claims and whoever expires its lease does.
    let named = [id];
    let (locked, found) = tokio::join!(
        biased;
        lock_owners(session, &named),
        session.find(lock, &of_request)
    );
    locked?;
    // Another tenant's request must look like no request.
    let Some(row) = found? else {
        return Ok(Err(Uncancellable::Unknown));
    };
    let status = columns::parsed(&row, "status")?;
    if let Status::Pending | Status::Processing = status {
        return end_job(session, id, status, &row, by).await.map(Ok);
    }
    let failure = columns::failure(&row)?;
    if let Some(may_arrive) = end_redelivery(session, id).await? {
        return Ok(Ok(Cancelled {
            status,
            failure,
            what: CancelledWork::Redelivery,
            is_new: true,
            may_arrive,
        }));
    }
    let is_cancelled = |it: &Failure| it.reason == FailureReason::Cancelled;
    Ok(match failure.filter(is_cancelled) {
        Some(failure) => Ok(Cancelled {
            status,
            may_arrive: failure.detail.ends_with(MAY_ARRIVE),
            failure: Some(failure),
            what: CancelledWork::Job,
            is_new: false,
        }),
        None => Err(Uncancellable::Over(status)),
    })
}

/// Locks the workers that hold one of these requests: their leases do not expire.
pub(super) async fn lock_owners(session: &Session, ids: &[RequestId]) -> Result<(), Error> {
    let lock = format!(
        "SELECT 1 FROM workers WHERE owner IN (
             SELECT owner FROM requests WHERE id = ANY($1) AND {IS_CLAIMED}
             UNION ALL SELECT owner FROM redeliveries WHERE id = ANY($1) AND {IS_CLAIMED})
         ORDER BY owner FOR KEY SHARE"
    );
    let ids: Vec<Uuid> = ids.iter().map(|id| id.uuid()).collect();
    let ids = [(&ids as _, Type::UUID_ARRAY)];
    session.query(&lock, &ids).await.map(drop)
}

/// Ends a job, whose `row` is locked, under a new claim number: no worker holds that. A worker that
/// has lost its claim may still make an attempt, as far as it does not know.
async fn end_job(
    session: &Session,
    id: RequestId,
    status: Status,
    row: &Row,
    by: Canceller,
) -> Result<Cancelled, Error> {
    let transition = if status == Status::Processing {
        tell_owner(session, id, row).await?;
        Transition::Interrupt
    } else {
        Transition::Cancel
    };
    let has_lost_claims: bool = row.try_get("has_lost_claims")?;
    let may_arrive = status == Status::Processing || has_lost_claims;
    let failure = Failure::new(FailureReason::Cancelled, by.detail(may_arrive));
    let end = format!(
        "UPDATE requests SET status = '{}', claim = claim + 1, owner = NULL, due = NULL,
             parked_at = NULL, is_long = false,
             completed_at = greatest(clock_timestamp(), created_at),
             failure_reason = $2, failure_detail = $3, ended = clock_timestamp()
         WHERE id = $1 AND status = '{}'",
        transition.to(),
        transition.from()
    );
    let values = [
        (&id.uuid() as _, Type::UUID),
        (&failure.reason.as_str() as _, Type::TEXT),
        (&failure.detail as _, Type::TEXT),
    ];
    session.execute(&end, &values).await?;
    Ok(Cancelled {
        status: transition.to(),
        failure: Some(failure),
        what: CancelledWork::Job,
        is_new: true,
        may_arrive,
    })
}

/// Ends the redelivery of a request that is locked, if one is in progress. Returns whether a worker
/// held it, or had lost it and may still make an attempt.
async fn end_redelivery(session: &Session, id: RequestId) -> Result<Option<bool>, Error> {
    let of_request = [(&id.uuid() as _, Type::UUID)];
    let lock = "SELECT status, owner, claim, lost_claims > 0 AS has_lost_claims
         FROM redeliveries WHERE id = $1 FOR UPDATE";
    let Some(row) = session.find(lock, &of_request).await? else {
        return Ok(None);
    };
    let is_held = columns::parsed::<Status>(&row, "status")? == Status::Processing;
    if is_held {
        tell_owner(session, id, &row).await?;
    }
    let count = format!(
        "UPDATE {} SET claim = claim + 1, owner = NULL WHERE id = $1",
        state::table(Work::Redelivery)
    );
    session.execute(&count, &of_request).await?;
    redelivery::end(session, &[id], None).await?;
    let has_lost_claims: bool = row.try_get("has_lost_claims")?;
    Ok(Some(is_held || has_lost_claims))
}

/// Leaves a note for the worker that holds the claim in `row`. A worker without a lease has lost
/// its claims already.
async fn tell_owner(session: &Session, id: RequestId, row: &Row) -> Result<(), Error> {
    let (owner, claim): (Option<Uuid>, i64) = (row.try_get("owner")?, row.try_get("claim")?);
    // Locked: an expiry of the lease that comes after this write finds the note, and deletes it.
    let note = "INSERT INTO cancellations (owner, id, claim, beat)
         SELECT owner, $2, $3, beat FROM workers WHERE owner = $1 FOR KEY SHARE
         ON CONFLICT DO NOTHING";
    let values = [
        (&owner as _, Type::UUID),
        (&id.uuid() as _, Type::UUID),
        (&claim as _, Type::INT8),
    ];
    session.execute(note, &values).await.map(drop)
}
