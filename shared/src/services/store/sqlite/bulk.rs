//! What operators do to many requests at a time.

use rusqlite::{Connection, OptionalExtension, Params, Row};

use super::{audit, cancel, clock::StoreTime, columns, redelivery};
use crate::{
    models::{ClientName, Destination, FailureReason, HandlerName, RequestId, Status},
    services::store::{
        Acted, Applied, Bulk, BulkAction, Scope, Selected, Selection, SelectionPage, audit::Action,
        cancel::Canceller, list::in_millis,
    },
};

/// Maximum number of rows examined for one page. It bounds how long a read keeps its connection and
/// blocks the checkpoint.
const EXAMINED: usize = 10_000;

/// Reads a page of the requests to act on.
pub(super) fn select(connection: &Connection, page: &SelectionPage) -> rusqlite::Result<Selected> {
    if page.selection.ids.is_empty() {
        return select_page(connection, page);
    }
    let (filter, mut found) = (Filter::of(page), Selected::default());
    let mut ids = page.selection.ids.clone();
    ids.sort_unstable();
    ids.dedup();
    let mut statement = connection.prepare_cached(&sql(page, "requests WHERE id = ?1"))?;
    for id in ids {
        let id = id.to_string();
        let row = statement.query_row(filter.params(&id, 1), |row| filter.examine(row));
        if let Some(row) = row.optional()?.filter(|row| row.is_selected) {
            found.requests.push((row.id, row.destination));
        }
    }
    Ok(found)
}

fn select_page(connection: &Connection, page: &SelectionPage) -> rusqlite::Result<Selected> {
    let selection = &page.selection;
    let lowest = selection.created_after.map(columns::below_ids_since);
    let after = page.after.map(|after| after.to_string());
    let after = lowest.max(after).unwrap_or_default();
    let mut statement = connection.prepare_cached(&sql(page, rows_of(page)))?;
    let filter = Filter::of(page);
    let mut rows = statement.query(filter.params(&after, EXAMINED + 1))?;
    let (mut found, mut count) = (Selected::default(), 0);
    while let Some(row) = rows.next()? {
        if found.requests.len() == page.limit || count == EXAMINED {
            return Ok(found);
        }
        // Filtering in the loop, not in SQL, bounds the scan; a page may be short.
        count += 1;
        let row = filter.examine(row)?;
        found.next = Some(row.id);
        if row.is_selected {
            found.requests.push((row.id, row.destination));
        }
    }
    // There is no next page.
    found.next = None;
    Ok(found)
}

/// SQL for the rows of a page. A client's are read by an index of its own: no other is examined.
fn rows_of(page: &SelectionPage) -> &'static str {
    match page.selection.client {
        None => "requests WHERE id > ?1",
        Some(_) => "requests INDEXED BY requests_by_client WHERE created_by = ?3 AND id > ?1",
    }
}

/// SQL for the columns that [`Filter::examine`] reads of `rows`.
fn sql(page: &SelectionPage, rows: &str) -> String {
    let can_be_done = match page.action {
        BulkAction::Cancel => cancel::IN_PROGRESS.to_owned(),
        BulkAction::Redeliver => format!(
            "status IN ('COMPLETED', 'FAILED') AND {}
                 AND NOT EXISTS (SELECT 1 FROM redeliveries AS r WHERE r.id = requests.id)",
            redelivery::is_deliverable()
        ),
    };
    let but_cancelled = match page.action {
        BulkAction::Redeliver if !page.selection.names_cancelled() => {
            "AND failure_reason IS NOT 'cancelled'"
        }
        _ => "",
    };
    let statuses = match page.selection.statuses.as_slice() {
        [] => &Status::ALL,
        some => some,
    };
    let statuses: Vec<_> = statuses.iter().map(|it| format!("'{it}'")).collect();
    let statuses = statuses.join(", ");
    format!(
        "SELECT id,
                {can_be_done} {but_cancelled} AND status IN ({statuses})
                    AND (?3 IS NULL OR created_by IS ?3)
                    AND (?4 IS NULL OR created_at >= ?4) AND (?5 IS NULL OR created_at < ?5)
                    AND (?6 IS NULL OR (status = 'FAILED' AND failure_reason IS ?6))
                    AND (?7 IS NULL OR coalesce(handler, 'report') = ?7),
                created_by, origin, coalesce(callback_target, callback_url)
         FROM {rows} ORDER BY id LIMIT ?2"
    )
}

/// The conditions of a page, in the form of the columns.
struct Filter<'a> {
    selection: &'a Selection,
    client: Option<&'a str>,
    after: Option<String>,
    before: Option<String>,
    reason: Option<&'static str>,
    handler: Option<&'a str>,
}

impl<'a> Filter<'a> {
    fn of(page: &'a SelectionPage) -> Self {
        let selection = &page.selection;
        Self {
            selection,
            client: selection.client.as_ref().map(ClientName::as_str),
            after: selection.created_after.map(in_millis).map(columns::time),
            before: selection.created_before.map(in_millis).map(columns::time),
            reason: selection.reason.map(FailureReason::as_str),
            handler: selection.handler.as_ref().map(HandlerName::as_str),
        }
    }

    /// The values of the statement that [`sql`] makes.
    fn params(&'a self, id: &'a str, limit: usize) -> impl Params + 'a {
        (
            id,
            columns::integer(limit),
            self.client,
            self.after.as_deref(),
            self.before.as_deref(),
            self.reason,
            self.handler,
        )
    }

    fn examine(&self, row: &Row<'_>) -> rusqlite::Result<Examined> {
        // In the row of the previous release, the origin is to be read from the URL.
        let origin = columns::origin(row, 3)?;
        let wanted = &self.selection.origin;
        let tenant = columns::client_name(columns::bytes(row, 2)?.as_deref());
        Ok(Examined {
            id: columns::parsed(row, 0)?,
            is_selected: row.get(1)? && (wanted.is_none() || *wanted == origin),
            destination: origin.map(|origin| Destination { tenant, origin }),
        })
    }
}

/// A row of a page.
struct Examined {
    id: RequestId,
    is_selected: bool,
    destination: Option<Destination>,
}

/// Does and records `bulk`.
pub(super) fn apply(tx: &Connection, bulk: &Bulk, now: StoreTime) -> rusqlite::Result<Applied> {
    let mut applied = Applied::default();
    for id in bulk.ids.iter().filter(|_| !bulk.dry_run) {
        // Each is checked again: it may have changed since it was read.
        let (acted, has_changed) = match bulk.action {
            BulkAction::Cancel => {
                match cancel::cancel(tx, &Scope::All, *id, Canceller::Operator, now)? {
                    Ok(cancelled) => {
                        let is_new = cancelled.is_new;
                        (Acted::Cancelled(cancelled), is_new)
                    }
                    Err(why) => (Acted::Uncancellable(why), false),
                }
            }
            BulkAction::Redeliver => {
                match redelivery::begin(tx, &Scope::All, *id, bulk.with_cancelled, now)? {
                    Ok(()) => (Acted::Redelivered, true),
                    Err(why) => (Acted::Unredeliverable(why), false),
                }
            }
        };
        applied.changed += usize::from(has_changed);
        applied.each.push((*id, acted));
    }
    let action = Action {
        operator: &bulk.operator,
        name: bulk.action.as_str(),
        filter: &bulk.filter,
        matched: bulk.matched,
        changed: applied.changed,
        dry_run: bulk.dry_run,
    };
    audit::record(tx, &action)?;
    Ok(applied)
}

#[cfg(test)]
mod tests {
    use rusqlite::{Connection, params};

    use super::{super::schema, rows_of, sql};
    use crate::services::store::{BulkAction, Selection, SelectionPage};

    /// The steps by which `SQLite` reads a page.
    fn plan(action: BulkAction, client: Option<&str>) -> Vec<String> {
        let mut db = Connection::open_in_memory().unwrap();
        schema::migrate(&mut db).unwrap();
        let selection = Selection {
            client: client.map(|name| name.parse().unwrap()),
            ..Selection::default()
        };
        let page = SelectionPage {
            action,
            selection,
            after: None,
            limit: 1,
        };
        let sql = format!("EXPLAIN QUERY PLAN {}", sql(&page, rows_of(&page)));
        let mut statement = db.prepare(&sql).unwrap();
        let none = None::<&str>;
        let values = params!["", 10_001, client, none, none, none, "pdf"];
        let steps = statement.query_map(values, |row| row.get("detail"));
        steps.unwrap().map(Result::unwrap).collect()
    }

    #[test]
    fn a_page_is_read_in_order_from_its_cursor_on_and_never_sorted() {
        for action in [BulkAction::Cancel, BulkAction::Redeliver] {
            let all = plan(action, None);
            assert_eq!(all[0], "SEARCH requests USING PRIMARY KEY (id>?)");
            let of_client = plan(action, Some("one"));
            assert_eq!(
                of_client[0],
                "SEARCH requests USING INDEX requests_by_client (created_by=? AND id>?)"
            );
            for steps in [all, of_client] {
                assert!(
                    !steps.iter().any(|step| step.contains("TEMP B-TREE")),
                    "{steps:?}"
                );
            }
        }
    }
}
