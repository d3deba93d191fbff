//! `POST /requests/{id}/redeliver`, `POST /requests/redeliver`: the same callback once more.

use std::{collections::HashMap, sync::Arc};

use storm_shared::{
    models::{CallbackUrl, RequestId},
    services::store::RedeliveryPage,
};
use warp::reply::Response;

use super::refused;
use crate::{
    app::App,
    auth::Caller,
    reply::{self, Problem},
};

/// Begins a new series of attempts for one request of the caller's.
///
/// # Errors
/// There is none, it is not over, it has nothing to deliver; too much waits for its receiver; or the store's
/// refusal.
pub async fn one(id: String, caller: Caller, app: Arc<App>) -> Result<Response, Problem> {
    let id: RequestId = id.parse().map_err(|_| Problem::malformed_id())?;
    let request = app
        .store
        .find_within(caller.scope(), id)
        .await
        .map_err(|error| refused(id, &error))?
        .ok_or_else(Problem::no_such_request)?;
    let url = request.callback_url.as_deref().map(CallbackUrl::parse);
    if let Some(Ok(url)) = url
        && app.backlog_limit.is_before(url.origin())
    {
        return Err(Problem::receiver_overloaded());
    }
    app.store
        .redeliver(caller.scope(), id)
        .await
        .map_err(|error| refused(id, &error))?
        .map_err(Problem::unredeliverable)?;
    Ok(reply::redelivering(id))
}

/// Does so for a page of them. Those for whose receiver too much waits are left out, and counted.
///
/// # Errors
/// The query says no page, or the store's refusal.
pub async fn page(
    page: Result<RedeliveryPage, Problem>,
    caller: Caller,
    app: Arc<App>,
) -> Result<Response, Problem> {
    let found = app
        .store
        .redeliverable(caller.scope(), page?)
        .await
        .map_err(|error| refused(None, &error))?;
    let all = found.requests.len();
    // No page makes a backlog_limit where there was none.
    let most = app.settings.callback.max_parked;
    let mut of_origin = HashMap::new();
    let mut requests = found.requests;
    requests.retain(|(_, origin)| {
        let so_far = of_origin.entry(origin.clone()).or_insert(0);
        *so_far += 1;
        *so_far <= most && !app.backlog_limit.is_before(origin)
    });
    let ids = requests.into_iter().map(|(id, _)| id).collect();
    let begun = app
        .store
        .redeliver_all(caller.scope(), ids)
        .await
        .map_err(|error| refused(None, &error))?;
    Ok(reply::redelivering_page(begun, all - begun, found.next))
}
