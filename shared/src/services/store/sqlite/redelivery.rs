//! Redelivery: a new series of callback attempts for a finished request.

use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};

use super::{clock::StoreTime, columns, state};
use crate::{
    models::{Origin, RequestId, Status, Transition},
    services::store::{
        Claim, Outcome, Redeliverable, RedeliveryPage, Scope, Unredeliverable, Work,
        redelivery::anonymous_cursor,
    },
};

/// Maximum number of rows scanned for one page. It bounds how long a read blocks the checkpoint.
const SCANNED: usize = 2000;

/// More than lies between reading a request's `created_at` and generating its id.
const ID_SLACK: Duration = Duration::from_secs(1);

/// The origin of a request's callback, if it has one.
pub(super) fn origin_of(
    connection: &Connection,
    scope: &Scope,
    id: RequestId,
) -> rusqlite::Result<Result<Option<Origin>, Unredeliverable>> {
    let found = connection
        .prepare_cached(
            "SELECT origin, coalesce(callback_target, callback_url) FROM requests
             WHERE id = ?1 AND (?2 IS NULL OR created_by = ?2)",
        )?
        .query_row(params![id.to_string(), columns::tenant(scope)], |row| {
            columns::origin(row, 0)
        })
        .optional()?;
    Ok(found.ok_or(Unredeliverable::Unknown))
}

/// Starts a redelivery within `scope`. The first attempt is due at once.
pub(super) fn begin(
    connection: &Connection,
    scope: &Scope,
    id: RequestId,
    now: StoreTime,
) -> rusqlite::Result<Result<(), Unredeliverable>> {
    let found = connection
        .prepare_cached(
            "SELECT status,
                    mode = 'async' AND callback_url IS NOT NULL AND result_payload IS NOT NULL,
                    origin, coalesce(callback_target, callback_url)
             FROM requests WHERE id = ?1 AND (?2 IS NULL OR created_by = ?2)",
        )?
        // Another tenant's request must look like no request.
        .query_row(params![id.to_string(), columns::tenant(scope)], |row| {
            let (status, is_deliverable) = (columns::parsed(row, 0)?, row.get(1)?);
            Ok((status, is_deliverable, columns::origin(row, 2)?))
        })
        .optional()?;
    let Some((status, is_deliverable, origin)) = found else {
        return Ok(Err(Unredeliverable::Unknown));
    };
    match status {
        Status::Pending | Status::Processing => return Ok(Err(Unredeliverable::Unfinished)),
        Status::Completed | Status::Failed if is_deliverable => {}
        Status::Completed | Status::Failed => return Ok(Err(Unredeliverable::Nothing)),
    }
    // `attempts_before`: the retry schedule begins anew, but the attempts keep their numbering.
    let begun = connection
        .prepare_cached(
            "INSERT INTO redeliveries (id, status, created_by, origin, claim, due, attempts,
                 attempts_before, parks)
             SELECT id, 'PENDING', created_by, ?2, claim, ?3, attempts, attempts, parks
             FROM requests WHERE id = ?1
             ON CONFLICT DO NOTHING",
        )?
        .execute(params![
            id.to_string(),
            origin.as_ref().map(Origin::as_str),
            now.millis()
        ])?;
    Ok(if begun > 0 {
        Ok(())
    } else {
        Err(Unredeliverable::UnderWay)
    })
}

/// Ends the redelivery under `claim`, whose last attempt was number `attempts`. Returns the number
/// of rows: none if the claim was lost.
pub(super) fn finish(
    tx: &Connection,
    claim: &Claim,
    attempts: Option<u32>,
    outcome: &Outcome,
) -> rusqlite::Result<usize> {
    let held = tx
        .prepare_cached(&format!(
            "UPDATE redeliveries SET attempts = coalesce(?4, attempts) WHERE {} AND {}",
            state::IS_CLAIMED,
            state::IS_HELD
        ))?
        .execute(params![
            claim.id.to_string(),
            claim.owner.to_string(),
            claim.number,
            attempts
        ])?;
    if held > 0 {
        end(tx, &claim.id.to_string(), outcome)?;
    }
    Ok(held)
}

/// Ends a redelivery, and writes back to its request what it has counted and who ended it.
pub(super) fn end(tx: &Connection, id: &str, outcome: &Outcome) -> rusqlite::Result<()> {
    tx.prepare_cached(
        "UPDATE requests SET (claim, owner, attempts, parks, lost_claims) =
             (SELECT claim, owner, attempts, parks, lost_claims FROM redeliveries WHERE id = ?1)
         WHERE id = ?1",
    )?
    .execute([id])?;
    // A redelivery that fails does not change the status, and so not what comes with it.
    match outcome {
        Outcome::Completed => {
            let set =
                "completed_at = max(?2, created_at), failure_reason = NULL, failure_detail = NULL";
            let update = state::change(Work::Job, Transition::Redeem, set, "id = ?1");
            let now = columns::time(Timestamp::now());
            tx.prepare_cached(&update)?.execute([id, &now])?;
        }
        Outcome::Failed(failure) => {
            tx.prepare_cached(&format!(
                "UPDATE requests SET failure_reason = ?2, failure_detail = ?3
                 WHERE id = ?1 AND status = '{}'",
                Transition::Redeem.from()
            ))?
            .execute([id, failure.reason.as_str(), failure.detail.as_str()])?;
        }
    }
    tx.prepare_cached("DELETE FROM redeliveries WHERE id = ?1")?
        .execute([id])
        .map(drop)
}

/// Starts the redeliveries of all redeliverable `ids`. Returns how many.
pub(super) fn begin_all(
    connection: &Connection,
    scope: &Scope,
    ids: &[RequestId],
    now: StoreTime,
) -> rusqlite::Result<usize> {
    let mut begun = 0;
    for id in ids {
        begun += usize::from(begin(connection, scope, *id, now)?.is_ok());
    }
    Ok(begun)
}

/// Reads the page of `scope`.
pub(super) fn find(
    connection: &Connection,
    scope: &Scope,
    page: &RedeliveryPage,
) -> rusqlite::Result<Redeliverable> {
    // The id is generated when `created_at` is read, and its time never goes back when the wall
    // clock does. So this bound leaves out no row of `since`.
    let lowest = page
        .since
        .map(|since| RequestId::floor(since - ID_SLACK).to_string());
    let since = page.since.map(columns::time).unwrap_or_default();
    let after = page.after.map(|after| after.to_string());
    let mut query = connection.prepare_cached(
        "SELECT id,
                 mode = 'async' AND callback_url IS NOT NULL AND result_payload IS NOT NULL
                     AND created_at >= ?6
                     AND NOT EXISTS (SELECT 1 FROM redeliveries AS r WHERE r.id = requests.id),
                 ?2 IS NULL OR created_by IS ?2,
                 origin, coalesce(callback_target, callback_url)
             FROM requests
             WHERE status = ?1 AND id >= ?3 AND id > ?4
             ORDER BY id LIMIT ?5",
    )?;
    let mut rows = query.query(params![
        page.status.as_str(),
        columns::tenant(scope),
        lowest.unwrap_or_default(),
        after.unwrap_or_default(),
        columns::integer(SCANNED),
        since,
    ])?;
    let mut found = Redeliverable::default();
    let mut scanned = 0;
    let mut cursor = None;
    while let Some(row) = rows.next()? {
        let id = columns::parsed(row, 0)?;
        let (is_wanted, is_own): (bool, bool) = (row.get(1)?, row.get(2)?);
        scanned += 1;
        // Filtering in the loop, not in SQL, bounds the scan; a page may be short.
        cursor = Some(if is_own {
            id
        } else {
            anonymous_cursor(id, page.after)
        });
        // A URL that can't be parsed was edited by hand: there is nothing to deliver to.
        if is_wanted
            && is_own
            && let Some(origin) = columns::origin(row, 3)?
        {
            found.requests.push((id, origin));
        }
        if found.requests.len() == page.limit {
            found.next = cursor;
            return Ok(found);
        }
    }
    // A scan that ended early has met the last row: there is no next page.
    found.next = cursor.filter(|_| scanned == SCANNED);
    Ok(found)
}
