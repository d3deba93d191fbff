//! Redelivery: a new series of callback attempts for a finished request.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params};
use thiserror::Error;

use super::{Scope, Store, StoreError, rows};
use crate::models::{RequestId, Status};

/// Why a request can't be redelivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Unredeliverable {
    /// No such request within the scope.
    #[error("there is no such request")]
    Unknown,
    /// The request is not finished.
    #[error("the request is not finished")]
    Unfinished,
    /// A redelivery is in progress.
    #[error("a redelivery of the request is in progress")]
    UnderWay,
    /// The request has no stored result or no callback URL.
    #[error("the request has no stored result or no callback URL")]
    Nothing,
}

/// Which requests to redeliver: one page, by keyset pagination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedeliveryPage {
    /// Final status of the requests: `COMPLETED` or `FAILED`.
    pub status: Status,
    /// Only requests accepted at this time or later.
    pub since: Option<Timestamp>,
    /// Keyset cursor: only requests with a greater id. Pass [`Redeliverable::next`] of the page
    /// before.
    pub after: Option<RequestId>,
    /// Maximum number of requests.
    pub limit: usize,
}

/// One page of redeliverable requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Redeliverable {
    /// Redeliverable requests with their origins, oldest first.
    pub requests: Vec<(RequestId, String)>,
    /// Cursor of the next page, if there may be one.
    pub next: Option<RequestId>,
}

/// Maximum number of rows scanned for one page. It bounds how long a read blocks the checkpoint.
const SCANNED: usize = 2000;

impl Store {
    /// Starts a redelivery of a request within `scope`: the same bytes to the same URL, in a new
    /// series of attempts. The status stays as it is, unless the redelivery of a `FAILED` request
    /// succeeds.
    ///
    /// # Errors
    /// Inner: the request can't be redelivered. Outer: as for [`Store::accept`].
    pub async fn redeliver(
        &self,
        scope: Scope,
        id: RequestId,
    ) -> Result<Result<(), Unredeliverable>, StoreError> {
        self.shared
            .writer
            .try_write(move |tx| begin(tx, &scope, id))
            .await
    }

    /// Starts redeliveries of all redeliverable `ids` in one transaction. Returns how many.
    ///
    /// # Errors
    /// As for [`Store::accept`].
    pub async fn redeliver_all(
        &self,
        scope: Scope,
        ids: Vec<RequestId>,
    ) -> Result<usize, StoreError> {
        self.shared
            .writer
            .try_write(move |tx| {
                let mut begun = 0;
                for id in ids {
                    begun += usize::from(begin(tx, &scope, id)?.is_ok());
                }
                Ok(begun)
            })
            .await
    }

    /// Reads a page of the redeliverable requests within `scope`.
    ///
    /// # Errors
    /// The read failed.
    pub async fn redeliverable(
        &self,
        scope: Scope,
        page: RedeliveryPage,
    ) -> Result<Redeliverable, StoreError> {
        self.shared
            .readers
            .read(move |db| find(db, &scope, &page))
            .await
    }
}

/// Starts a redelivery within `scope`. The first attempt is due at once.
pub(super) fn begin(
    connection: &Connection,
    scope: &Scope,
    id: RequestId,
) -> rusqlite::Result<Result<(), Unredeliverable>> {
    // `attempts_before`: the retry schedule begins anew, but the attempts keep their numbering.
    let begun = connection
        .prepare_cached(
            "UPDATE requests SET redelivery = 'PENDING', next_attempt_at = ?3, owner = NULL,
                 lost_claims = 0, attempts_before = attempts, parked_since = NULL
             WHERE id = ?1 AND (?2 IS NULL OR created_by = ?2)
               AND work IN ('COMPLETED', 'FAILED') AND mode = 'async'
               AND callback_url IS NOT NULL AND result_payload IS NOT NULL",
        )?
        .execute(params![
            id.to_string(),
            scope.name(),
            rows::time(Timestamp::now())
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
        .query_row(params![id.to_string(), scope.name()], obstacle)
        .optional()?;
    Ok(Err(obstacle.unwrap_or(Unredeliverable::Unknown)))
}

fn obstacle(row: &Row<'_>) -> rusqlite::Result<Unredeliverable> {
    let under_way: bool = row.get(1)?;
    Ok(match rows::parsed(row, 0)? {
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
    let since = page.since.map(|since| RequestId::floor(since).to_string());
    let after = page.after.map(|after| after.to_string());
    // Ids are UUIDv7: `since` is a lower bound of the id, and id order is the order of acceptance.
    // `next_attempt_at` is null in every finished row; with it, the index `requests_by_work` yields
    // the rows in id order.
    let mut query = connection.prepare_cached(concat!(
        "SELECT id, ",
        rows::origin!(),
        ",
                 mode = 'async' AND callback_url IS NOT NULL AND result_payload IS NOT NULL,
                 ?2 IS NULL OR created_by IS ?2
             FROM requests
             WHERE work = ?1 AND next_attempt_at IS NULL AND id >= ?3 AND id > ?4
             ORDER BY id LIMIT ?5"
    ))?;
    let mut rows = query.query(params![
        page.status.as_str(),
        scope.name(),
        since.unwrap_or_default(),
        after.unwrap_or_default(),
        rows::integer(SCANNED),
    ])?;
    let mut found = Redeliverable::default();
    let mut scanned = 0;
    let mut cursor = None;
    while let Some(row) = rows.next()? {
        let id = rows::parsed(row, 0)?;
        let (is_deliverable, is_own): (bool, bool) = (row.get(2)?, row.get(3)?);
        scanned += 1;
        // Filtering by tenant in the loop, not in SQL, bounds the scan; a page may be short.
        cursor = Some(if is_own {
            id
        } else {
            anonymous_cursor(id, page.after)
        });
        if is_deliverable && is_own {
            found.requests.push((id, row.get(1)?));
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

/// A cursor for a scan that stops at another tenant's request, whose id must not leak. It is the
/// lowest id of that request's millisecond, which belongs to no request. The next page scans that
/// millisecond again. If this page started within it, only the id itself makes progress.
fn anonymous_cursor(id: RequestId, after: Option<RequestId>) -> RequestId {
    let floor = RequestId::floor(id.created_at());
    if after.is_none_or(|after| after < floor) {
        floor
    } else {
        id
    }
}
