//! `/admin`: what operators do.

use std::sync::Arc;

use storm_shared::services::store::{Bulk, BulkAction, Paused, Selected};
use tracing::info;
use warp::reply::Response;

use super::{known_handler, store_problem};
use crate::{
    app::App,
    auth::Operator,
    backlog_limit::PageLimit,
    metrics::Canceller,
    repeat::until_known,
    reply::{self, Bulked, Problem},
    validation::{AuditPage, BulkForm},
};

/// The pauses in force.
///
/// # Errors
/// The store failed.
pub async fn pauses(_: Operator, app: Arc<App>) -> Result<Response, Problem> {
    let pauses = app.store.pauses().await;
    let pauses = pauses.map_err(|error| store_problem(None, &error))?;
    Ok(reply::pauses(&pauses))
}

/// Pauses everything, or the callbacks to one origin.
///
/// # Errors
/// The body is invalid, too many origins are paused, or the store failed.
pub async fn pause(
    operator: Operator,
    app: Arc<App>,
    what: Result<Paused, Problem>,
) -> Result<Response, Problem> {
    let what = what?;
    // A repeat changes nothing.
    let pause = || app.store.pause(what.clone(), operator.name.clone());
    let paused = until_known(app.settings.http.timeout, pause).await;
    let paused = paused.map_err(|error| store_problem(None, &error))?;
    let changed = paused.map_err(Problem::too_many_pauses)?;
    let (name, on) = (&operator.name, described(&what));
    info!(operator = %name, on, changed, "an operator has paused work");
    app.pauses.look().await;
    Ok(reply::pause_changed(&what, true, changed))
}

/// Resumes everything, or the callbacks to one origin.
///
/// # Errors
/// The body is invalid, or the store failed.
pub async fn resume(
    operator: Operator,
    app: Arc<App>,
    what: Result<Paused, Problem>,
) -> Result<Response, Problem> {
    let what = what?;
    let resume = || app.store.resume(what.clone(), operator.name.clone());
    let resumed = until_known(app.settings.http.timeout, resume).await;
    let changed = resumed.map_err(|error| store_problem(None, &error))?;
    let (name, on) = (&operator.name, described(&what));
    info!(operator = %name, on, changed, "an operator has resumed work");
    app.pauses.look().await;
    Ok(reply::pause_changed(&what, false, changed))
}

/// Does something to a page of the requests that match a filter, or tries it out. Redeliveries
/// whose receiver's backlog is full are skipped.
///
/// # Errors
/// The body is invalid, there is no such handler, or the store failed.
pub async fn bulk(
    operator: Operator,
    app: Arc<App>,
    form: Result<BulkForm, Problem>,
) -> Result<Response, Problem> {
    let BulkForm {
        page,
        filter,
        dry_run,
    } = form?;
    if page.after.is_none() {
        known_handler(page.selection.handler.as_ref(), &app)?;
    }
    let action = page.action;
    let with_cancelled = page.selection.names_cancelled();
    let selected = app.store.select(page).await;
    let Selected { mut requests, next } = selected.map_err(|error| store_problem(None, &error))?;
    let matched = requests.len();
    if action == BulkAction::Redeliver {
        let mut limit = PageLimit::of(&app);
        requests.retain(|(_, to)| to.as_ref().is_some_and(|to| limit.has_room(to)));
    }
    let ids: Vec<_> = requests.into_iter().map(|(id, _)| id).collect();
    let would_change = ids.len();
    let bulk = Bulk {
        action,
        ids: ids.clone(),
        with_cancelled,
        dry_run,
        matched,
        filter,
        operator: operator.name,
    };
    let (name, of, filter) = (bulk.operator.clone(), action.as_str(), bulk.filter.clone());
    // Not repeated if the outcome is unknown: a redelivery may have begun and ended.
    let applied = app.store.apply(bulk).await;
    let changed = applied
        .map_err(|error| store_problem(None, &error))?
        .changed;
    if action == BulkAction::Cancel {
        app.metrics.cancelled(Canceller::Operator, changed);
    }
    info!(
        operator = %name, action = of, filter, matched, changed, dry_run,
        "an operator has acted on requests"
    );
    Ok(reply::bulk(&Bulked {
        dry_run,
        matched,
        changed,
        // The transaction checks each again: a request may have changed since it was read.
        skipped: matched - if dry_run { would_change } else { changed },
        ids: dry_run.then_some(ids),
        cursor: next,
    }))
}

/// What operators have done, newest first.
///
/// # Errors
/// The query is invalid, or the store failed.
pub async fn audit(
    page: Result<AuditPage, Problem>,
    _: Operator,
    app: Arc<App>,
) -> Result<Response, Problem> {
    let AuditPage { before, limit } = page?;
    let records = app.store.audit(before, limit).await;
    let records = records.map_err(|error| store_problem(None, &error))?;
    Ok(reply::audit(&records, limit))
}

fn described(what: &Paused) -> &str {
    match what {
        Paused::Everything => "everything",
        Paused::Origin(origin) => origin.as_str(),
    }
}
