//! `GET /requests/{id}`: where a request stands.

use std::sync::Arc;

use storm_shared::models::RequestId;
use warp::reply::Response;

use super::refused;
use crate::{
    app::App,
    auth::Caller,
    reply::{self, Problem},
};

/// The caller's request of that id, as the table has it.
///
/// # Errors
/// There is none, which is also said of others' requests; `id` is no UUID; or the store's refusal.
pub async fn find(id: String, caller: Caller, app: Arc<App>) -> Result<Response, Problem> {
    let id: RequestId = id.parse().map_err(|_| Problem::malformed_id())?;
    let request = app
        .store
        .find_within(caller.scope(), id)
        .await
        .map_err(|error| refused(id, &error))?;
    request
        .map(|request| reply::request(&request))
        .ok_or_else(Problem::no_such_request)
}
