//! `GET /healthz`: whether the database and Redis answer.

use std::sync::Arc;

use storm_shared::services::health::Health;
use warp::reply::Response;

use crate::{app::App, reply};

/// Asks both.
pub async fn check(app: Arc<App>) -> Response {
    reply::health(&Health::check(&app.store, app.queue.as_ref()).await)
}
