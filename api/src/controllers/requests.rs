//! `GET /requests/{id}` and `GET /requests`: the state of a request, and a list of requests.

use std::sync::Arc;

use storm_shared::{models::RequestId, services::store::ListPage};
use warp::reply::Response;

use super::store_problem;
use crate::{
    app::App,
    auth::Caller,
    reply::{self, Problem},
};

/// The request with this id, if it is within the caller's scope.
///
/// # Errors
/// The request does not exist or belongs to another tenant (the same answer, so that a caller
/// cannot tell which), `id` is not a UUID, or the store failed.
pub async fn find(id: String, caller: Caller, app: Arc<App>) -> Result<Response, Problem> {
    let id: RequestId = id.parse().map_err(|_| Problem::malformed_id())?;
    let request = app
        .store
        .find_within(caller.scope(), id)
        .await
        .map_err(|error| store_problem(id, &error))?;
    request
        .map(|request| reply::request(&request))
        .ok_or_else(Problem::no_such_request)
}

/// A page of the requests within the caller's scope, newest first.
///
/// # Errors
/// The query is invalid, or the store failed.
pub async fn list(
    page: Result<ListPage, Problem>,
    caller: Caller,
    app: Arc<App>,
) -> Result<Response, Problem> {
    let page = page?;
    let found = app
        .store
        .list(caller.scope(), page)
        .await
        .map_err(|error| store_problem(None, &error))?;
    let next = found.next.map(|next| page.filter.cursor(next));
    Ok(reply::requests(&found.requests, next))
}
