//! Delivering once more what is over.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params};
use thiserror::Error;

use super::{Scope, Store, StoreError, rows};
use crate::models::{RequestId, Status};

/// Why a request can't be delivered once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Unredeliverable {
    /// There is no such request within the scope.
    #[error("there is no such request")]
    Unknown,
    /// It is not over yet.
    #[error("the request is not over yet")]
    Unfinished,
    /// It is being delivered once more already.
    #[error("a redelivery of the request is under way")]
    UnderWay,
    /// It has no stored result, or nobody to call back.
    #[error("the request has no stored result, or no callback")]
    Nothing,
}

/// Which requests are to be delivered once more: a page of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedeliveryPage {
    /// Those that ended so: `COMPLETED` or `FAILED`.
    pub status: Status,
    /// Those that were accepted then or later.
    pub since: Option<Timestamp>,
    /// Those that come after this one, which the last page ended with.
    pub after: Option<RequestId>,
    /// The most of them.
    pub limit: usize,
}

/// What a page holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Requests that can be delivered once more, each with its origin, oldest first.
    pub requests: Vec<(RequestId, String)>,
    /// Where the next page goes on, if there may be one.
    pub next: Option<RequestId>,
}

/// The most rows that one page looks at: it bounds how long a read keeps the log from being cut back.
const LOOKED_AT: usize = 2000;

impl Store {
    /// Begins to deliver a request of `scope` once more: the same bytes to the same URL, in a new series of
    /// attempts. Its status stays what it is, unless the redelivery of a `FAILED` one gets through.
    ///
    /// # Errors
    /// Within: it can't be delivered once more. As for [`Store::accept`]: the write failed.
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

    /// The same for all of `ids` that it can be done for, in one transaction. Returns how many these were.
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

    /// A page of the requests of `scope` that can be delivered once more.
    ///
    /// # Errors
    /// The read failed.
    pub async fn redeliverable(
        &self,
        scope: Scope,
        page: RedeliveryPage,
    ) -> Result<Found, StoreError> {
        self.shared
            .readers
            .read(move |db| find(db, &scope, &page))
            .await
    }
}

/// Begins the redelivery of a request within `scope`: a new series of attempts, the first one due at once.
pub(super) fn begin(
    connection: &Connection,
    scope: &Scope,
    id: RequestId,
) -> rusqlite::Result<Result<(), Unredeliverable>> {
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
    let obstacle = connection
        .prepare_cached(
            "SELECT status, redelivery IS NOT NULL FROM requests
             WHERE id = ?1 AND (?2 IS NULL OR created_by = ?2)",
        )?
        .query_row(params![id.to_string(), scope.name()], obstacle)
        .optional()?;
    Ok(Err(obstacle.unwrap_or(Unredeliverable::Unknown)))
}

fn obstacle(row: &Row<'_>) -> rusqlite::Result<Unredeliverable> {
    let under_way: bool = row.get(1)?;
    Ok(match rows::parsed(row, 0)? {
        _ if under_way => Unredeliverable::UnderWay,
        Status::Pending | Status::Processing => Unredeliverable::Unfinished,
        Status::Completed | Status::Failed => Unredeliverable::Nothing,
    })
}

/// The requests of `page` within `scope`.
pub(super) fn find(
    connection: &Connection,
    scope: &Scope,
    page: &RedeliveryPage,
) -> rusqlite::Result<Found> {
    let since = page.since.map(|since| RequestId::floor(since).to_string());
    let after = page.after.map(|after| after.to_string());
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
        rows::integer(LOOKED_AT),
    ])?;
    let mut found = Found::default();
    let mut looked_at = 0;
    let mut cursor = None;
    while let Some(row) = rows.next()? {
        let id = rows::parsed(row, 0)?;
        let (is_deliverable, is_own): (bool, bool) = (row.get(2)?, row.get(3)?);
        looked_at += 1;
        cursor = Some(if is_own { id } else { nobodys(id, page.after) });
        if is_deliverable && is_own {
            found.requests.push((id, row.get(1)?));
        }
        if found.requests.len() == page.limit {
            found.next = cursor;
            return Ok(found);
        }
    }
    found.next = cursor.filter(|_| looked_at == LOOKED_AT);
    Ok(found)
}

/// A cursor at another's request, whose id is nobody else's to know: that of no request, before all that were
/// accepted in the same millisecond. These are looked at once more, unless the page began among them.
fn nobodys(id: RequestId, after: Option<RequestId>) -> RequestId {
    let floor = RequestId::floor(id.created_at());
    if after.is_none_or(|after| after < floor) {
        floor
    } else {
        id
    }
}
