//! An answer whose body is JSON.

use serde::Serialize;
use warp::{Reply, http::StatusCode, reply::Response};

pub(super) fn json(status: StatusCode, body: &impl Serialize) -> Response {
    let mut response = warp::reply::json(body).into_response();
    // warp answers 500 itself if a body cannot be serialised, which none of ours is.
    if response.status().is_success() {
        *response.status_mut() = status;
    }
    response
}
