//! An answer whose body is JSON.

use bytes::Bytes;
use serde::Serialize;
use storm_shared::memory::Reservation;
use warp::{
    Reply,
    http::{HeaderValue, StatusCode, header},
    reply::Response,
};

/// The room of a body, in bytes: most need no more, and do not have to grow.
const ROOM: usize = 512;

pub(super) fn json(status: StatusCode, body: &impl Serialize) -> Response {
    let mut text = Vec::with_capacity(ROOM);
    if serde_json::to_writer(&mut text, body).is_err() {
        // None of ours is such a body.
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    answer(status, text.into())
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
        return StatusCode::INTERNAL_SERVER_ERROR.into_response(); // as above
    };
    let held = Held {
        text,
        _memory: memory,
    };
    answer(StatusCode::OK, Bytes::from_owner(held))
}

fn answer(status: StatusCode, body: Bytes) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
