//! `GET /handlers`: the handlers that jobs can be submitted for.

use std::sync::Arc;

use warp::reply::Response;

use crate::{app::App, reply};

/// All handlers, the built-in one first. It reads memory only.
#[expect(
    clippy::needless_pass_by_value,
    reason = "the routes pass each controller an app of its own"
)]
pub fn list(app: Arc<App>) -> Response {
    let load = app.handler_watch.current();
    reply::handlers(&app.handlers.current(), load.as_ref().as_ref())
}
