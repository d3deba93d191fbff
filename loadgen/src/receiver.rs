//! The callback receiver of a run: it records each `POST` to its path in the ledger and refuses
//! everything else.

use std::{convert::Infallible, sync::Arc};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{ALLOW, HeaderValue},
    service::service_fn,
};
use tokio_util::sync::DropGuard;

use crate::{ledger::Ledger, listen::Listener};

/// The size limit of a report's callback, in bytes.
pub const MAX_CALLBACK: usize = 64 * 1024;

/// The size limit of a callback with the result of a handler, in bytes: more than the largest
/// `max_result`, 16 MiB, and than a third of it more, which other content than JSON takes.
pub const MAX_HANDLER_CALLBACK: usize = 24 * 1024 * 1024;

/// Records callbacks of at most `max` bytes to `path` in `ledger` until the guard is dropped.
pub fn receive(listener: Listener, path: &str, ledger: &Ledger, max: usize) -> DropGuard {
    let path: Arc<str> = path.into();
    let ledger = ledger.clone();
    listener.serve(&service_fn(move |request| {
        let (path, ledger) = (Arc::clone(&path), ledger.clone());
        async move { Ok::<_, Infallible>(answer(request, &path, &ledger, max).await) }
    }))
}

async fn answer(
    request: Request<Incoming>,
    path: &str,
    ledger: &Ledger,
    max: usize,
) -> Response<Full<Bytes>> {
    if request.uri().path() != path {
        return status(StatusCode::NOT_FOUND);
    }
    if request.method() != Method::POST {
        return method_not_allowed("POST");
    }
    let (head, body) = request.into_parts();
    let Ok(body) = Limited::new(body, max).collect().await else {
        return status(StatusCode::PAYLOAD_TOO_LARGE);
    };
    // For the worker, every status other than 2xx is a failed attempt.
    match ledger.called_back(&head.headers, &body.to_bytes()) {
        Ok(()) => status(StatusCode::OK),
        Err(_) => status(StatusCode::BAD_REQUEST),
    }
}

/// An empty response.
pub(crate) fn status(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::default();
    *response.status_mut() = status;
    response
}

/// A 405 with its `allow` header.
pub(crate) fn method_not_allowed(allow: &'static str) -> Response<Full<Bytes>> {
    let mut response = status(StatusCode::METHOD_NOT_ALLOWED);
    response
        .headers_mut()
        .insert(ALLOW, HeaderValue::from_static(allow));
    response
}
