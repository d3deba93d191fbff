//! Redelivery: a new series of callback attempts for a finished request.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{clock::StoreTime, columns};
use crate::{
    models::{Origin, RequestId, Status},
    services::store::{
        Redeliverable, RedeliveryPage, Scope, Unredeliverable, redelivery::anonymous_cursor,
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
    // `attempts_before`: the retry schedule begins anew, but the attempts keep their numbering.
    let begun = connection
        .prepare_cached(
            "UPDATE requests SET redelivery = 'PENDING', due = ?3, owner = NULL,
                 lost_claims = 0, attempts_before = attempts, parked_at = NULL
             WHERE id = ?1 AND (?2 IS NULL OR created_by = ?2)
               AND work IN ('COMPLETED', 'FAILED') AND mode = 'async'
               AND callback_url IS NOT NULL AND result_payload IS NOT NULL",
        )?
        .execute(params![
            id.to_string(),
            columns::tenant(scope),
            now.millis()
        ])?;
    if begun > 0 {
        return Ok(Ok(()));
    }
    // Read the reason in the same transaction, so that it matches the update that did nothing.
    let obstacle = connection
        .prepare_cached(
            "SELECT status, redelivery IS NOT NULL FROM requests
             WHERE id = ?1 AND (?2 IS NULL OR created_by = ?2)",
        )?
        // The scope applies here, too: another tenant's request must look like no request.
        .query_row(params![id.to_string(), columns::tenant(scope)], obstacle)
        .optional()?;
    Ok(Err(obstacle.unwrap_or(Unredeliverable::Unknown)))
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

fn obstacle(row: &Row<'_>) -> rusqlite::Result<Unredeliverable> {
    let under_way: bool = row.get(1)?;
    Ok(match columns::parsed(row, 0)? {
        // First: the status of a row under redelivery stays `COMPLETED` or `FAILED`.
        _ if under_way => Unredeliverable::UnderWay,
        Status::Pending | Status::Processing => Unredeliverable::Unfinished,
        Status::Completed | Status::Failed => Unredeliverable::Nothing,
    })
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
    // `due` is null in every finished row; with it, the index `requests_by_work` yields the rows in
    // id order.
    let mut query = connection.prepare_cached(
        "SELECT id,
                 mode = 'async' AND callback_url IS NOT NULL AND result_payload IS NOT NULL
                     AND created_at >= ?6,
                 ?2 IS NULL OR created_by IS ?2,
                 origin, coalesce(callback_target, callback_url)
             FROM requests
             WHERE work = ?1 AND due IS NULL AND id >= ?3 AND id > ?4
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
