//! Cancelling, and telling the worker that holds the job.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};

use super::{
    clock::StoreTime,
    columns, redelivery,
    state::{self, IS_CLAIMED},
};
use crate::{
    models::{Failure, FailureReason, RequestId, Status, Transition},
    services::store::{
        Cancelled, CancelledClaim, CancelledWork, Scope, Uncancellable, Work,
        cancel::{Canceller, MAY_ARRIVE},
    },
};

/// The heartbeats that name a cancelled claim.
const BEATS: i64 = 4;

/// The end of a detail as the previous release wrote it: [`MAY_ARRIVE`].
const MAY_ARRIVE_BEFORE: &str = "A callback attempt that had begun may still have arrived.";

/// SQL for the rows of requests that have a job or a redelivery in progress.
pub(super) const IN_PROGRESS: &str = "mode = 'async' AND (status IN ('PENDING', 'PROCESSING')
    OR EXISTS (SELECT 1 FROM redeliveries AS r WHERE r.id = requests.id))";

/// Cancels what is unfinished of a request within `scope`.
pub(super) fn cancel(
    tx: &Connection,
    scope: &Scope,
    id: RequestId,
    by: Canceller,
    now: StoreTime,
) -> rusqlite::Result<Result<Cancelled, Uncancellable>> {
    let found = tx
        .prepare_cached(
            "SELECT status, failure_reason, failure_detail, lost_claims > 0 FROM requests
             WHERE id = ?1 AND (?2 IS NULL OR created_by = ?2)",
        )?
        // Another tenant's request must look like no request.
        .query_row(params![id.to_string(), columns::tenant(scope)], |row| {
            let failure = columns::failure(row, 1, 2)?;
            Ok((columns::parsed(row, 0)?, row.get(3)?, failure))
        })
        .optional()?;
    let Some((status, has_lost_claims, failure)) = found else {
        return Ok(Err(Uncancellable::Unknown));
    };
    if let Status::Pending | Status::Processing = status {
        return end_job(tx, id, status, has_lost_claims, by, now).map(Ok);
    }
    if let Some(may_arrive) = end_redelivery(tx, id, now)? {
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
            may_arrive: [MAY_ARRIVE, MAY_ARRIVE_BEFORE]
                .iter()
                .any(|end| failure.detail.ends_with(end)),
            failure: Some(failure),
            what: CancelledWork::Job,
            is_new: false,
        }),
        None => Err(Uncancellable::Over(status)),
    })
}

/// Ends a job whose status is `status`, under a new claim number: no worker holds that. A worker
/// that has lost its claim may still make an attempt, as far as it does not know.
fn end_job(
    tx: &Connection,
    id: RequestId,
    status: Status,
    has_lost_claims: bool,
    by: Canceller,
    now: StoreTime,
) -> rusqlite::Result<Cancelled> {
    let transition = if tell_owner(tx, Work::Job, id)? {
        Transition::Interrupt
    } else {
        Transition::Cancel
    };
    let may_arrive = status == Status::Processing || has_lost_claims;
    let failure = Failure::new(FailureReason::Cancelled, by.detail(may_arrive));
    let set = "claim = claim + 1, owner = NULL, due = NULL, parked_at = NULL, is_long = 0,
         completed_at = max(?2, created_at), failure_reason = ?3, failure_detail = ?4, ended = ?5";
    tx.prepare_cached(&state::change(Work::Job, transition, set, "id = ?1"))?
        .execute(params![
            id.to_string(),
            columns::time(Timestamp::now()),
            failure.reason.as_str(),
            failure.detail,
            now.millis(),
        ])?;
    Ok(Cancelled {
        status: transition.to(),
        failure: Some(failure),
        what: CancelledWork::Job,
        is_new: true,
        may_arrive,
    })
}

/// Ends the redelivery of a request, if one is in progress. Returns whether a worker held it, or
/// had lost it and may still make an attempt.
fn end_redelivery(
    tx: &Connection,
    id: RequestId,
    now: StoreTime,
) -> rusqlite::Result<Option<bool>> {
    let is_held = tell_owner(tx, Work::Redelivery, id)?;
    let id = id.to_string();
    let ended: Option<bool> = tx
        .prepare_cached(
            "UPDATE redeliveries SET claim = claim + 1, owner = NULL WHERE id = ?1
             RETURNING lost_claims > 0",
        )?
        .query_row([&id], |row| row.get(0))
        .optional()?;
    let Some(has_lost_claims) = ended else {
        return Ok(None);
    };
    redelivery::end(tx, &id, None, now)?;
    Ok(Some(is_held || has_lost_claims))
}

/// Leaves a note for the worker that holds the work of a request. Returns whether one does.
fn tell_owner(tx: &Connection, work: Work, id: RequestId) -> rusqlite::Result<bool> {
    let table = state::table(work);
    let held: Option<(String, i64)> = tx
        .prepare_cached(&format!(
            "SELECT coalesce(owner, ''), claim FROM {table} WHERE id = ?1 AND {IS_CLAIMED}"
        ))?
        .query_row([id.to_string()], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((owner, claim)) = held else {
        return Ok(false);
    };
    // A worker without a lease has lost its claims already.
    tx.prepare_cached(
        "INSERT OR IGNORE INTO cancellations (owner, id, claim, beat)
         SELECT owner, ?2, ?3, beat FROM workers WHERE owner = ?1",
    )?
    .execute(params![owner, id.to_string(), claim])?;
    Ok(true)
}

/// The claims of `owner` that were cancelled, for its heartbeat number `beat`.
pub(super) fn cancelled_claims(
    tx: &Connection,
    owner: &str,
    beat: i64,
) -> rusqlite::Result<Vec<CancelledClaim>> {
    let notes: Vec<_> = tx
        .prepare_cached("SELECT id, claim, beat FROM cancellations WHERE owner = ?1")?
        .query_map([owner], |row| {
            // A note that was edited by hand must not cost the worker its lease.
            let (id, number) = (columns::parsed(row, 0).ok(), row.get(1)?);
            Ok((
                id.map(|id| CancelledClaim { id, number }),
                row.get::<_, i64>(2)?,
            ))
        })?
        .collect::<rusqlite::Result<_>>()?;
    if notes.iter().any(|(_, noted)| *noted <= beat - BEATS) {
        tx.prepare_cached("DELETE FROM cancellations WHERE owner = ?1 AND beat <= ?2")?
            .execute(params![owner, beat - BEATS])?;
    }
    Ok(notes.into_iter().filter_map(|(claim, _)| claim).collect())
}

/// Deletes the notes for workers without a lease: the previous release leaves them.
pub(super) fn forget_orphans(tx: &Connection) -> rusqlite::Result<()> {
    tx.execute(
        "DELETE FROM cancellations WHERE owner NOT IN (SELECT owner FROM workers)",
        [],
    )
    .map(drop)
}

/// Deletes the notes for a worker whose lease ends.
pub(super) fn forget(tx: &Connection, owner: &str) -> rusqlite::Result<()> {
    tx.prepare_cached("DELETE FROM cancellations WHERE owner = ?1")?
        .execute([owner])
        .map(drop)
}
