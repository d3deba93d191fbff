//! Listing requests: keyset pagination, newest first.

use rusqlite::{Connection, Row, params};

use super::columns;
use crate::{
    models::{HandlerName, RequestId, RequestSummary, Status},
    services::store::{ListPage, RequestList, Scope, list::in_millis},
};

/// Maximum number of rows examined for one page. It bounds how long a read keeps its connection and
/// blocks the checkpoint.
const EXAMINED: usize = 10_000;

/// Greater than every id.
const END: &str = "g";

/// Reads a page of the requests of `scope`.
pub(super) fn list(
    connection: &Connection,
    scope: &Scope,
    page: &ListPage,
) -> rusqlite::Result<RequestList> {
    let filter = &page.filter;
    let before = page.before.map(|before| before.to_string());
    let mut statement = connection.prepare_cached(&sql(scope))?;
    let mut rows = statement.query(params![
        before.as_deref().unwrap_or(END),
        filter.created_after.map(columns::below_ids_since),
        filter.status.map(Status::as_str),
        filter.created_after.map(in_millis).map(columns::time),
        filter.created_before.map(in_millis).map(columns::time),
        columns::tenant(scope),
        columns::integer(EXAMINED + 1),
        filter.handler.as_ref().map(HandlerName::as_str),
    ])?;
    let mut found = RequestList::default();
    let mut examined = 0;
    while let Some(row) = rows.next()? {
        if found.requests.len() == page.limit || examined == EXAMINED {
            return Ok(found);
        }
        // Filtering in the loop, not in SQL, bounds the scan; a page may be short.
        examined += 1;
        let id = columns::parsed(row, 0)?;
        found.next = Some(id);
        if row.get(1)? {
            found.requests.push(summary(id, row)?);
        }
    }
    // There is no next page.
    found.next = None;
    Ok(found)
}

/// SQL for the rows of `scope` in the order of the list. A client's are read by an index of its
/// own, so that a page examines, and its cursor names, no row of another client.
fn sql(scope: &Scope) -> String {
    let rows = match scope {
        Scope::All => "requests WHERE ?6 IS NULL",
        Scope::Of(_) => "requests INDEXED BY requests_by_client WHERE created_by = ?6",
    };
    format!(
        "SELECT id,
                (?3 IS NULL OR status = ?3) AND (?4 IS NULL OR created_at >= ?4)
                    AND (?5 IS NULL OR created_at < ?5)
                    AND (?8 IS NULL OR coalesce(handler, 'report') = ?8),
                mode, status, callback_url, created_at, completed_at, failure_reason, failure_detail,
                handler
         FROM {rows} AND id < ?1 AND id > coalesce(?2, '')
         ORDER BY id DESC LIMIT ?7"
    )
}

fn summary(id: RequestId, row: &Row<'_>) -> rusqlite::Result<RequestSummary> {
    let status = columns::parsed(row, 3)?;
    Ok(RequestSummary {
        id,
        mode: columns::parsed(row, 2)?,
        handler: columns::handler_name(row, 9)?,
        status,
        callback_url: columns::text(row, 4)?,
        created_at: columns::text(row, 5)?.unwrap_or_default(),
        completed_at: columns::text(row, 6)?,
        failure: columns::failure_of(status, row, 7, 8)?,
    })
}

#[cfg(test)]
mod tests {
    use rusqlite::{Connection, params};

    use super::{super::schema, sql};
    use crate::services::store::Scope;

    /// The steps by which `SQLite` reads a page of `scope`.
    fn plan(scope: &Scope) -> Vec<String> {
        let mut db = Connection::open_in_memory().unwrap();
        schema::migrate(&mut db).unwrap();
        let sql = format!("EXPLAIN QUERY PLAN {}", sql(scope));
        let mut statement = db.prepare(&sql).unwrap();
        let values = params!["g", None::<&str>, "FAILED", "", "", "one", 10_001, "pdf"];
        let steps = statement.query_map(values, |row| row.get("detail"));
        steps.unwrap().map(Result::unwrap).collect()
    }

    #[test]
    fn a_page_is_read_in_order_from_its_cursor_on_and_never_sorted() {
        assert_eq!(
            plan(&Scope::All),
            ["SEARCH requests USING PRIMARY KEY (id>? AND id<?)"]
        );
    }

    #[test]
    fn a_clients_page_examines_its_own_rows_only() {
        assert_eq!(
            plan(&Scope::Of("one".parse().unwrap())),
            ["SEARCH requests USING INDEX requests_by_client (created_by=? AND id>? AND id<?)"]
        );
    }
}
