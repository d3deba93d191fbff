//! Kept-alive connections close after their next answer, once the shutdown has begun.
//!
//! A client's next request then opens a connection, which leads it to another instance. Without
//! this, the end of the drain would cut a connection on which a request may be on its way.

use std::{convert::Infallible, sync::Arc};

use futures_util::TryFutureExt as _;
use hyper::{
    Request,
    body::Incoming,
    header::{CONNECTION, HeaderValue},
    service::{Service, service_fn},
};
use tokio_util::sync::CancellationToken;
use warp::reply::Response;

/// Wraps `inner`, the whole service of a listener: refusals close their connection, too.
pub(crate) fn closing_from<S>(
    shutdown: CancellationToken,
    inner: S,
) -> impl Service<Request<Incoming>, Response = Response, Error = Infallible, Future: Send> + Clone
where
    S: Service<Request<Incoming>, Response = Response, Error = Infallible, Future: Send> + Clone,
{
    // In an `Arc`: each clone and each drop of a token takes its lock.
    let shutdown = Arc::new(shutdown);
    service_fn(move |request: Request<Incoming>| {
        let shutdown = Arc::clone(&shutdown);
        inner.call(request).map_ok(move |mut answer| {
            // Now, and not when the request came: the shutdown may have begun meanwhile.
            if shutdown.is_cancelled() {
                let close = HeaderValue::from_static("close");
                answer.headers_mut().insert(CONNECTION, close);
            }
            answer
        })
    })
}
