//! An answer whose body is JSON.

use bytes::Bytes;
use serde::Serialize;
use storm_shared::memory::Reservation;
use warp::{
    Reply,
    http::{HeaderValue, StatusCode, header},
    reply::Response,
};

pub(super) fn json(status: StatusCode, body: &impl Serialize) -> Response {
    let mut response = warp::reply::json(body).into_response();
    // warp answers 500 itself if a body cannot be serialised, which none of ours is.
    if response.status().is_success() {
        *response.status_mut() = status;
    }
    response
}

/// A text, and the memory that is reserved for it.
struct Held {
    text: Vec<u8>,
    _memory: Reservation,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.text
    }
}

/// The same with `200`. It holds `memory` until its body was written.
pub(super) fn json_holding(body: &impl Serialize, memory: Reservation) -> Response {
    let Ok(text) = serde_json::to_vec(body) else {
        return json(StatusCode::OK, body); // answered as above
    };
    let held = Held {
        text,
        _memory: memory,
    };
    let mut response = Response::new(Bytes::from_owner(held).into());
    let kind = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
