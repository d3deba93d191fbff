//! Kept-alive connections close after their next answer, once the shutdown has begun.
//!
//! A client's next request then opens a connection, which leads it to another instance. Without
//! this, the end of the drain would cut a connection on which a request may be on its way.

use std::convert::Infallible;

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
    service_fn(move |request: Request<Incoming>| {
        let answer = inner.call(request);
        let shutdown = shutdown.clone();
        async move {
            let mut answer = answer.await?;
            // Now, and not when the request came: the shutdown may have begun meanwhile.
            if shutdown.is_cancelled() {
                let close = HeaderValue::from_static("close");
                answer.headers_mut().insert(CONNECTION, close);
            }
            Ok(answer)
        }
    })
}
