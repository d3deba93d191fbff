//! `GET /healthz`: checks the database and Redis.

use std::sync::Arc;

use storm_shared::services::health::Health;
use warp::reply::Response;

use crate::{app::App, reply};

/// Checks both concurrently.
pub async fn check(app: Arc<App>) -> Response {
    reply::health(&Health::check(&app.store, app.queue.as_ref()).await)
}
