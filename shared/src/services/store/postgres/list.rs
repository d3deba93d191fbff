//! Listing requests: keyset pagination, newest first.

use tokio_postgres::{Row, types::Type};

use super::{Sessions, columns, error::Error, pages};
use crate::{
    models::{HandlerName, RequestId, RequestSummary, Status},
    services::store::{ListPage, RequestList, Scope, StoreError, list::in_millis},
};

/// Maximum number of rows examined for one page. It bounds how long a read takes.
const EXAMINED: usize = 10_000;

/// The rows of a scope in the order of the list. A client's are read by an index of its own, so
/// that a page examines, and its cursor names, no row of another client.
const ROWS: &str = "
SELECT id, ($3::text IS NULL OR status = $3) AND ($4::timestamptz IS NULL OR created_at >= $4)
        AND ($5::timestamptz IS NULL OR created_at < $5)
        AND ($7::text IS NULL OR coalesce(handler, 'report') = $7) AS is_wanted,
    mode, status, callback_url, created_at, completed_at, failure_reason, failure_detail, handler
FROM requests
WHERE ($6::text IS NULL OR created_by = $6)
    AND ($1::uuid IS NULL OR id < $1) AND ($2::uuid IS NULL OR id >= $2)
ORDER BY id DESC";

/// Reads a page of the requests of `scope`.
pub(super) async fn list(
    sessions: &Sessions,
    scope: &Scope,
    page: &ListPage,
) -> Result<RequestList, StoreError> {
    let filter = &page.filter;
    let at = |at: Option<_>| at.map(in_millis).map(columns::stored);
    let sql = pages::sql(ROWS, EXAMINED, page.limit);
    let parameters = [
        (&page.before.map(RequestId::uuid) as _, Type::UUID),
        (
            &filter.created_after.map(columns::first_id_since) as _,
            Type::UUID,
        ),
        (&filter.status.map(Status::as_str) as _, Type::TEXT),
        (&at(filter.created_after) as _, Type::TIMESTAMPTZ),
        (&at(filter.created_before) as _, Type::TIMESTAMPTZ),
        (&columns::tenant(scope) as _, Type::TEXT),
        (
            &filter.handler.as_ref().map(HandlerName::as_str) as _,
            Type::TEXT,
        ),
    ];
    let rows = sessions.query(&sql, &parameters).await?;
    let page = pages::page(&rows, EXAMINED, page.limit, summary);
    let (requests, next) = page.map_err(|error| error.into_store(false))?;
    Ok(RequestList { requests, next })
}

fn summary(id: RequestId, row: &Row) -> Result<RequestSummary, Error> {
    let status = columns::parsed(row, "status")?;
    let shown = |column| {
        let at = columns::time_or_null(row, column)?;
        Ok::<_, Error>(at.map(columns::shown))
    };
    Ok(RequestSummary {
        id,
        mode: columns::parsed(row, "mode")?,
        handler: columns::handler_name(row)?,
        status,
        callback_url: row.try_get("callback_url")?,
        created_at: shown("created_at")?.unwrap_or_default(),
        completed_at: shown("completed_at")?,
        failure: columns::failure_of(status, row)?,
    })
}
