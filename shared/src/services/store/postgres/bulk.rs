//! What operators do to many requests at a time.

use std::time::SystemTime;

use tokio_postgres::{Row, types::Type};
use uuid::Uuid;

use super::{Sessions, audit, cancel, columns, error::Error, pages, redelivery, session::Session};
use crate::{
    models::{ClientName, Destination, FailureReason, HandlerName, Origin, RequestId},
    services::store::{
        Acted, Applied, Bulk, BulkAction, Scope, Selected, SelectionPage, StoreError,
        audit::Action, cancel::Canceller, list::in_millis,
    },
};

/// Maximum number of rows examined for one page. It bounds how long a read takes.
const EXAMINED: usize = 10_000;

/// Reads a page of the requests to act on.
pub(super) async fn select(
    sessions: &Sessions,
    page: &SelectionPage,
) -> Result<Selected, StoreError> {
    let selection = &page.selection;
    let ids: Vec<Uuid> = selection.ids.iter().map(|id| id.uuid()).collect();
    let at = |at: Option<_>| -> Option<SystemTime> { at.map(in_millis).map(columns::stored) };
    let statuses: Vec<&str> = selection.statuses.iter().map(|it| it.as_str()).collect();
    // Named requests are one page.
    let (after, since, limit) = if ids.is_empty() {
        let since = selection.created_after.map(columns::first_id_since);
        (page.after.map(RequestId::uuid), since, page.limit)
    } else {
        (None, None, ids.len())
    };
    let parameters = [
        (&after as _, Type::UUID),
        (&since as _, Type::UUID),
        (
            &selection.client.as_ref().map(ClientName::as_str) as _,
            Type::TEXT,
        ),
        (&at(selection.created_after) as _, Type::TIMESTAMPTZ),
        (&at(selection.created_before) as _, Type::TIMESTAMPTZ),
        (
            &selection.reason.map(FailureReason::as_str) as _,
            Type::TEXT,
        ),
        (
            &selection.handler.as_ref().map(HandlerName::as_str) as _,
            Type::TEXT,
        ),
        (
            &selection.origin.as_ref().map(Origin::as_str) as _,
            Type::TEXT,
        ),
        (&statuses as _, Type::TEXT_ARRAY),
        (&ids as _, Type::UUID_ARRAY),
    ];
    let sql = pages::sql(&examined(page), EXAMINED, limit);
    let rows = sessions.query(&sql, &parameters).await?;
    let read = |id, row: &Row| Ok((id, destination(row)?));
    let read = pages::page(&rows, EXAMINED, limit, read);
    let (requests, next) = read.map_err(|error| error.into_store(false))?;
    Ok(Selected { requests, next })
}

/// SQL for the rows of a page, in the order of ids. A client's are read by an index of its own: no
/// other is examined.
fn examined(page: &SelectionPage) -> String {
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
            "AND failure_reason IS DISTINCT FROM 'cancelled'"
        }
        _ => "",
    };
    // The planner knows the parameters: what they make true or false is no part of the search.
    format!(
        "SELECT id,
             {can_be_done} {but_cancelled} AND ($9 = '{{}}' OR status = ANY($9))
                 AND ($4::timestamptz IS NULL OR created_at >= $4)
                 AND ($5::timestamptz IS NULL OR created_at < $5)
                 AND ($6::text IS NULL OR (status = 'FAILED' AND failure_reason = $6))
                 AND ($7::text IS NULL OR coalesce(handler, 'report') = $7)
                 AND ($8::text IS NULL OR origin = $8)
                 AS is_wanted,
             created_by, origin
         FROM requests
         WHERE ($3::text IS NULL OR created_by = $3) AND ($10 = '{{}}' OR id = ANY($10))
             AND ($1::uuid IS NULL OR id > $1) AND ($2::uuid IS NULL OR id >= $2)
         ORDER BY id"
    )
}

/// Where the callback of the request in a row goes.
fn destination(row: &Row) -> Result<Option<Destination>, Error> {
    let origin: Option<&str> = row.try_get("origin")?;
    let tenant = columns::client(row.try_get("created_by")?);
    Ok(origin.map(|origin| Destination {
        tenant,
        origin: Origin::stored(origin),
    }))
}

/// Does and records `bulk`.
pub(super) async fn apply(session: &Session, bulk: &Bulk) -> Result<Applied, Error> {
    let mut applied = Applied::default();
    if !bulk.dry_run {
        // Each is checked again: it may have changed since it was read.
        applied = match bulk.action {
            BulkAction::Cancel => cancel(session, &bulk.ids).await?,
            BulkAction::Redeliver => redeliver(session, bulk).await?,
        };
    }
    let action = Action {
        operator: &bulk.operator,
        name: bulk.action.as_str(),
        filter: &bulk.filter,
        matched: bulk.matched,
        changed: applied.changed,
        dry_run: bulk.dry_run,
    };
    audit::record(session, &action).await?;
    Ok(applied)
}

async fn cancel(session: &Session, ids: &[RequestId]) -> Result<Applied, Error> {
    // First all workers, then the requests in the order of their ids, as everybody does.
    cancel::lock_owners(session, ids).await?;
    let mut places: Vec<usize> = (0..ids.len()).collect();
    places.sort_by_key(|at| ids[*at]);
    let mut acted = vec![None; ids.len()];
    let mut changed = 0;
    for at in places {
        let cancelled = cancel::cancel(session, &Scope::All, ids[at], Canceller::Operator);
        acted[at] = Some(match cancelled.await? {
            Ok(cancelled) => {
                changed += usize::from(cancelled.is_new);
                Acted::Cancelled(cancelled)
            }
            Err(why) => Acted::Uncancellable(why),
        });
    }
    let each = ids.iter().copied().zip(acted.into_iter().flatten());
    Ok(Applied {
        changed,
        each: each.collect(),
    })
}

async fn redeliver(session: &Session, bulk: &Bulk) -> Result<Applied, Error> {
    let begun = redelivery::begin(session, &Scope::All, &bulk.ids, bulk.with_cancelled).await?;
    let changed = begun.iter().filter(|begun| begun.is_ok()).count();
    let acted = begun.into_iter().map(|begun| match begun {
        Ok(()) => Acted::Redelivered,
        Err(why) => Acted::Unredeliverable(why),
    });
    Ok(Applied {
        changed,
        each: bulk.ids.iter().copied().zip(acted).collect(),
    })
}
