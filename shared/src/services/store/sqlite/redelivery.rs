//! Redelivery: a new series of callback attempts for a finished request.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
};

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{clock::StoreTime, columns, state};
use crate::{
    models::{Origin, RequestId, Status, Transition},
    services::store::{
        Claim, Outcome, Redeliverable, RedeliveryPage, Scope, Unredeliverable, Work,
    },
};

/// Maximum number of rows scanned for one page. It bounds how long a read blocks the checkpoint.
const SCANNED: usize = 2000;

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

/// SQL for whether a finished request has a callback, and something to say in it: a result, or why
/// the work failed.
pub(super) fn is_deliverable() -> String {
    format!(
        "mode = 'async' AND callback_url IS NOT NULL
             AND (result_payload IS NOT NULL OR {})",
        columns::WORK_FAILED
    )
}

/// Starts a redelivery within `scope`. The first attempt is due at once. A cancelled job is
/// redelivered only if it `is_named`, and not as one of many.
pub(super) fn begin(
    connection: &Connection,
    scope: &Scope,
    id: RequestId,
    is_named: bool,
    now: StoreTime,
) -> rusqlite::Result<Result<(), Unredeliverable>> {
    let found = connection
        .prepare_cached(
            &format!(
            "SELECT status, {}, erased_at IS NOT NULL, origin,
                    coalesce(callback_target, callback_url), failure_reason IS 'cancelled'
             FROM requests WHERE id = ?1 AND (?2 IS NULL OR created_by = ?2)",
            is_deliverable()
        ))?
        // Another tenant's request must look like no request.
        .query_row(params![id.to_string(), columns::tenant(scope)], |row| {
            let (status, is_deliverable, is_erased) =
                (columns::parsed(row, 0)?, row.get::<_, bool>(1)?, row.get::<_, bool>(2)?);
            let (origin, is_cancelled) = (columns::origin(row, 3)?, row.get::<_, bool>(5)?);
            Ok((status, is_deliverable, is_erased, origin, is_cancelled))
        })
        .optional()?;
    let Some((status, is_deliverable, is_erased, origin, is_cancelled)) = found else {
        return Ok(Err(Unredeliverable::Unknown));
    };
    match status {
        Status::Pending | Status::Processing => return Ok(Err(Unredeliverable::Unfinished)),
        Status::Completed | Status::Failed if is_erased => {
            return Ok(Err(Unredeliverable::Erased));
        }
        Status::Completed | Status::Failed if !is_deliverable => {
            return Ok(Err(Unredeliverable::Nothing));
        }
        Status::Completed | Status::Failed if is_cancelled && !is_named => {
            return Ok(Err(Unredeliverable::Cancelled));
        }
        Status::Completed | Status::Failed => {}
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
    now: StoreTime,
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
        end(tx, &claim.id.to_string(), Some(outcome), now)?;
    }
    Ok(held)
}

/// Ends a redelivery with `outcome`, or without one if it was cancelled. Its request has then what
/// it has counted and who ended it, and is kept for as long as if it had ended now.
pub(super) fn end(
    tx: &Connection,
    id: &str,
    outcome: Option<&Outcome>,
    now: StoreTime,
) -> rusqlite::Result<()> {
    // A job that was put back by hand meanwhile has another claim.
    tx.prepare_cached(
        "UPDATE requests SET (claim, owner, attempts, parks, lost_claims) =
             (SELECT claim, owner, attempts, parks, lost_claims FROM redeliveries WHERE id = ?1),
             ended = ?2
         WHERE id = ?1 AND status IN ('COMPLETED', 'FAILED')",
    )?
    .execute(params![id, now.millis()])?;
    // A redelivery that fails does not change the status, and so not what comes with it.
    match outcome {
        None => {}
        Some(Outcome::Completed) => {
            let set =
                "completed_at = max(?2, created_at), failure_reason = NULL, failure_detail = NULL";
            let has_result = format!("id = ?1 AND NOT {}", columns::WORK_FAILED);
            let update = state::change(Work::Job, Transition::Redeem, set, &has_result);
            let now = columns::time(Timestamp::now());
            tx.prepare_cached(&update)?.execute([id, &now])?;
        }
        Some(Outcome::Failed(failure)) => {
            tx.prepare_cached(&format!(
                "UPDATE requests SET {} WHERE id = ?1 AND status = '{}'",
                columns::failure_set("?2", "?3"),
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
        begun += usize::from(begin(connection, scope, *id, false, now)?.is_ok());
    }
    Ok(begun)
}

/// Reads the page of `scope`.
pub(super) fn find(
    connection: &Connection,
    scope: &Scope,
    page: &RedeliveryPage,
) -> rusqlite::Result<Redeliverable> {
    let lowest = page.since.map(columns::below_ids_since);
    let after = page.after.map(|after| after.to_string());
    let after = lowest.max(after).unwrap_or_default();
    // The index has the ended rows of a tenant in the order of ids. So no row of another tenant is
    // read, and those of all tenants are merged.
    let tenants = match scope {
        Scope::Of(name) => vec![Some(name.as_str().into())],
        Scope::All => tenants(connection, page.status)?,
    };
    let mut ended = Vec::with_capacity(tenants.len());
    let mut heads = BinaryHeap::with_capacity(tenants.len());
    let chunk = (SCANNED / tenants.len()).max(1);
    for (index, tenant) in tenants.into_iter().enumerate() {
        let mut rows = Ended {
            tenant,
            after: after.clone(),
            chunk,
            read: VecDeque::new(),
        };
        heads.extend(
            rows.next_id(connection, page)?
                .map(|id| Reverse((id, index))),
        );
        ended.push(rows);
    }
    let mut found = Redeliverable::default();
    let mut scanned = 0;
    while let Some(Reverse((id, index))) = heads.pop() {
        if found.requests.len() == page.limit || scanned == SCANNED {
            return Ok(found);
        }
        // Filtering in the loop, not in SQL, bounds the scan; a page may be short.
        scanned += 1;
        let rows = &mut ended[index];
        let origin = rows.read.pop_front().and_then(|row| row.origin);
        found.requests.extend(origin.map(|origin| (id, origin)));
        found.next = Some(id);
        heads.extend(
            rows.next_id(connection, page)?
                .map(|id| Reverse((id, index))),
        );
    }
    // There is no next page.
    found.next = None;
    Ok(found)
}

/// The tenants that have rows of `status`.
fn tenants(connection: &Connection, status: Status) -> rusqlite::Result<Vec<Option<Vec<u8>>>> {
    let next = |condition: &str, name: &[u8]| {
        connection
            .prepare_cached(&format!(
                "SELECT created_by FROM requests INDEXED BY requests_by_status
                 WHERE status = ?1 AND is_long = 0 AND created_by {condition} CAST(?2 AS TEXT)
                 ORDER BY created_by LIMIT 1"
            ))?
            .query_row(params![status.as_str(), name], |row| columns::bytes(row, 0))
            .optional()
    };
    let mut found = vec![None];
    let mut tenant = next(">=", b"")?.flatten();
    while let Some(name) = tenant {
        tenant = next(">", &name)?.flatten();
        found.push(Some(name));
    }
    Ok(found)
}

/// The rows of a tenant that have ended with a status, in the order of ids.
struct Ended {
    tenant: Option<Vec<u8>>,
    /// The last id that was read.
    after: String,
    /// How many rows are read at a time.
    chunk: usize,
    read: VecDeque<EndedRow>,
}

struct EndedRow {
    id: RequestId,
    /// `None` if the row can't be redelivered.
    origin: Option<Origin>,
}

impl Ended {
    /// The id of the next row.
    fn next_id(
        &mut self,
        connection: &Connection,
        page: &RedeliveryPage,
    ) -> rusqlite::Result<Option<RequestId>> {
        if self.read.is_empty() {
            let since = page.since.map(columns::time).unwrap_or_default();
            self.read = connection
                .prepare_cached(
                    &format!("SELECT id,
                         {} AND created_at >= ?5 AND failure_reason IS NOT 'cancelled'
                             AND NOT EXISTS (SELECT 1 FROM redeliveries AS r WHERE r.id = requests.id),
                         origin, coalesce(callback_target, callback_url)
                     FROM requests INDEXED BY requests_by_status
                     WHERE status = ?1 AND is_long = 0 AND created_by IS CAST(?2 AS TEXT)
                         AND due IS NULL AND id > ?3
                     ORDER BY id LIMIT ?4",
                     is_deliverable()
                ))?
                .query_map(
                    params![
                        page.status.as_str(),
                        self.tenant,
                        self.after,
                        columns::integer(self.chunk),
                        since,
                    ],
                    ended_row,
                )?
                .collect::<rusqlite::Result<_>>()?;
            if let Some(last) = self.read.back() {
                self.after = last.id.to_string();
            }
        }
        Ok(self.read.front().map(|row| row.id))
    }
}

fn ended_row(row: &Row<'_>) -> rusqlite::Result<EndedRow> {
    let is_wanted: bool = row.get(1)?;
    // A URL that can't be parsed was edited by hand: there is nothing to deliver to.
    let origin = if is_wanted {
        columns::origin(row, 2)?
    } else {
        None
    };
    Ok(EndedRow {
        id: columns::parsed(row, 0)?,
        origin,
    })
}
