//! The service of the start: until the database is open, requests wait or are answered `503`.

use std::{convert::Infallible, sync::Arc, time::Duration};

use futures_util::future::Either;
use hyper::{
    Request,
    body::Incoming,
    service::{Service, service_fn},
};
use tokio::{
    sync::SetOnce,
    time::{Instant, timeout_at},
};
use warp::reply::Response;

/// A database that opens within this time causes no `503`: requests wait for it.
const GRACE: Duration = Duration::from_secs(1);

/// Passes requests to the routes once they are set, and until then to the start-up's service.
pub(crate) struct Gate<S> {
    routes: Arc<SetOnce<S>>,
    /// Until when requests wait for the routes.
    patience: Instant,
}

/// Whether a request is answered by the start-up's service at once.
pub(crate) type AtOnce = fn(&Request<Incoming>) -> bool;

impl<S> Gate<S>
where
    S: Service<Request<Incoming>, Response = Response, Error = Infallible, Future: Send>
        + Send
        + Sync
        + 'static,
{
    /// A gate that is closed.
    pub(crate) fn closed() -> Self {
        Self {
            routes: Arc::new(SetOnce::new()),
            patience: Instant::now() + GRACE,
        }
    }

    /// Passes requests to `routes` from now on.
    pub(crate) fn open(&self, routes: S) {
        // It is set once: the API opens its database once.
        let _ = self.routes.set(routes);
    }

    /// The service: `starting` while the gate is closed. Requests wait for its opening for a
    /// moment, except those that `at_once` names.
    pub(crate) fn service<T>(
        &self,
        starting: T,
        at_once: AtOnce,
    ) -> impl Service<Request<Incoming>, Response = Response, Error = Infallible, Future: Send>
    + Clone
    + Send
    + 'static
    where
        T: Service<Request<Incoming>, Response = Response, Error = Infallible, Future: Send>
            + Clone
            + Send
            + Sync
            + 'static,
    {
        let routes = Arc::clone(&self.routes);
        let patience = self.patience;
        service_fn(move |request: Request<Incoming>| {
            if let Some(routes) = routes.get() {
                return Either::Left(routes.call(request));
            }
            let (routes, starting) = (Arc::clone(&routes), starting.clone());
            // Boxed: by value, it would take kilobytes of each connection, for the start alone.
            Either::Right(Box::pin(async move {
                if !at_once(&request) {
                    // On a timeout the routes are still missing.
                    let _ = timeout_at(patience, routes.wait()).await;
                }
                match routes.get() {
                    Some(routes) => routes.call(request).await,
                    None => starting.call(request).await,
                }
            }))
        })
    }
}
