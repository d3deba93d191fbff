//! `GET /requests/{id}`, `DELETE /requests/{id}`, `POST /requests/{id}/erase` and `GET /requests`:
//! the state of a request, its cancellation and erasure, and a list of requests.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use storm_shared::{
    models::RequestId,
    services::store::{ListPage, Uncancellable},
};
use tokio::time::Instant;
use warp::reply::Response;

use super::{
    known, known_handler, store_problem,
    waiting::{end_of, look_up},
};
use crate::{
    app::App,
    auth::Caller,
    metrics::Canceller,
    repeat::until_known,
    reply::{self, Problem},
};

/// The request with this id, if it is within the caller's scope; with a `wait`, once it is over or
/// that time has passed.
///
/// # Errors
/// The request does not exist or belongs to another tenant (the same answer, so that a caller
/// cannot tell which), `id` is not a UUID, the wait is invalid or finds no permit, its payload and
/// result don't fit into the memory budget, or the store failed.
pub async fn find(
    id: String,
    wait: Result<Option<Duration>, Problem>,
    caller: Caller,
    app: Arc<App>,
) -> Result<Response, Problem> {
    let id: RequestId = id.parse().map_err(|_| Problem::malformed_id())?;
    match wait?.filter(|wait| !wait.is_zero()) {
        None => {
            let (request, memory) = look_up(id, &caller, &app).await?;
            Ok(reply::request(&request, memory))
        }
        Some(wait) => end_of(id, Instant::now() + wait, &caller, &app).await,
    }
}

/// A page of the requests within the caller's scope, newest first.
///
/// # Errors
/// The query is invalid, there is no such handler, or the store failed.
pub async fn list(
    page: Result<ListPage, Problem>,
    caller: Caller,
    app: Arc<App>,
) -> Result<Response, Problem> {
    let page = page?;
    if page.before.is_none() {
        known_handler(page.filter.handler.as_ref(), &app)?;
    }
    let filter = page.filter.clone();
    let found = app
        .store
        .list(caller.scope(), page)
        .await
        .map_err(|error| store_problem(None, &error))?;
    let next = found.next.map(|next| filter.cursor(next));
    Ok(reply::requests(&found.requests, next))
}

/// Cancels the unfinished job, or the redelivery, of a request within the caller's scope.
///
/// # Errors
/// A body was sent; the request does not exist or is over; or the store failed.
pub async fn cancel(
    id: String,
    caller: Caller,
    app: Arc<App>,
    no_body: Result<(), Problem>,
) -> Result<Response, Problem> {
    no_body?;
    let (id, _) = known(&id, &caller, &app).await?;
    let tries = AtomicU32::new(0);
    let cancel = || {
        tries.fetch_add(1, Ordering::Relaxed);
        app.store.cancel(caller.scope(), id)
    };
    let cancelled = until_known(app.settings.http.timeout, cancel).await;
    let cancelled = cancelled.map_err(|error| store_problem(id, &error))?;
    let cancelled = cancelled.map_err(|why| match why {
        // The first try may have cancelled a redelivery, of which nothing is left.
        Uncancellable::Over(_) if tries.load(Ordering::Relaxed) > 1 => {
            Problem::outcome_unknown(Some(id))
        }
        why => Problem::uncancellable(why),
    })?;
    app.metrics
        .cancelled(Canceller::Client, cancelled.is_new.into());
    Ok(reply::cancelled(id, &cancelled))
}

/// Erases a finished request within the caller's scope: its payload, result and URL.
///
/// # Errors
/// A body was sent; the request does not exist, is not finished or is being redelivered; or the
/// store failed.
pub async fn erase(
    id: String,
    caller: Caller,
    app: Arc<App>,
    no_body: Result<(), Problem>,
) -> Result<Response, Problem> {
    no_body?;
    let (id, _) = known(&id, &caller, &app).await?;
    let erase = || app.store.erase(caller.scope(), id);
    let erased = until_known(app.settings.http.timeout, erase).await;
    let erased = erased.map_err(|error| store_problem(id, &error))?;
    let erased = erased.map_err(Problem::unerasable)?;
    Ok(reply::erased(id, &erased))
}
