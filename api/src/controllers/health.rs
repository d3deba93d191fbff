//! `GET /healthz`: checks the database and Redis. `GET /livez` and `GET /readyz`: probes for
//! orchestrators.

use std::sync::Arc;

use storm_shared::services::{health::Health, readiness::Readiness};
use warp::reply::Response;

use crate::{app::App, reply};

/// Checks both concurrently.
pub async fn check(app: Arc<App>) -> Response {
    let health = Health::check(&app.store, app.queue.as_ref()).await;
    reply::health(&health.showing(&app.pauses.current()))
}

/// The process runs.
pub fn live() -> Response {
    reply::live()
}

/// Whether the API can accept requests.
pub async fn ready(readiness: Readiness) -> Response {
    reply::ready(&readiness.check().await)
}
