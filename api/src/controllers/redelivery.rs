//! `POST /requests/{id}/redeliver` and `POST /requests/redeliver`: redeliver callbacks.

use std::sync::Arc;

use storm_shared::services::store::RedeliveryPage;
use warp::reply::Response;

use super::{known, store_problem};
use crate::{
    app::App,
    auth::Caller,
    backlog_limit::PageLimit,
    reply::{self, Problem},
};

/// Starts a new series of attempts for one request within the caller's scope.
///
/// # Errors
/// A body was sent; the request does not exist, is not finished or has no callback; the receiver's
/// backlog is full; or the store failed.
pub async fn one(
    id: String,
    caller: Caller,
    app: Arc<App>,
    no_body: Result<(), Problem>,
) -> Result<Response, Problem> {
    no_body?;
    let (id, origin) = known(&id, &caller, &app).await?;
    if let Some(origin) = origin
        && app.backlog_limit.is_full(&caller.destination(&origin))
    {
        return Err(Problem::receiver_overloaded());
    }
    // Not repeated if the outcome is unknown: the first redelivery may have begun and ended, and
    // the repeat would be a second one.
    app.store
        .redeliver(caller.scope(), id)
        .await
        .map_err(|error| store_problem(id, &error))?
        .map_err(Problem::unredeliverable)?;
    Ok(reply::redelivering(id))
}

/// Redelivers a page of requests. Those whose receiver's backlog is full are skipped and counted.
///
/// # Errors
/// A body was sent, the query is invalid, or the store failed.
pub async fn page(
    page: Result<RedeliveryPage, Problem>,
    caller: Caller,
    app: Arc<App>,
    no_body: Result<(), Problem>,
) -> Result<Response, Problem> {
    no_body?;
    let found = app
        .store
        .redeliverable(caller.scope(), page?)
        .await
        .map_err(|error| store_problem(None, &error))?;
    let all = found.requests.len();
    let mut limit = PageLimit::of(&app);
    let mut requests = found.requests;
    requests.retain(|(_, origin)| limit.has_room(&caller.destination(origin)));
    let ids = requests.into_iter().map(|(id, _)| id).collect();
    let started = app
        .store
        .redeliver_all(caller.scope(), ids)
        .await
        .map_err(|error| store_problem(None, &error))?;
    // `started` counts what the transaction began: a request may have changed since it was read.
    Ok(reply::redelivering_page(started, all - started, found.next))
}
