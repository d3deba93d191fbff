//! The service of the start: until the database is open, requests wait or are answered `503`.

use std::{
    convert::Infallible,
    sync::{Arc, OnceLock},
    time::Duration,
};

use futures_util::future::Either;
use hyper::{
    Request,
    body::Incoming,
    service::{Service, service_fn},
};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use warp::reply::Response;

/// A database that opens within this time causes no `503`: requests wait for it.
const GRACE: Duration = Duration::from_secs(1);

/// Passes requests to the routes once they are set, and until then to the start-up's service.
pub(crate) struct Gate<S> {
    shared: Arc<Shared<S>>,
    /// Until when requests wait for the routes.
    patience: Instant,
}

struct Shared<S> {
    routes: OnceLock<S>,
    opened: CancellationToken,
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
            shared: Arc::new(Shared {
                routes: OnceLock::new(),
                opened: CancellationToken::new(),
            }),
            patience: Instant::now() + GRACE,
        }
    }

    /// Passes requests to `routes` from now on.
    pub(crate) fn open(&self, routes: S) {
        // It is set once: the API opens its database once.
        let _ = self.shared.routes.set(routes);
        self.shared.opened.cancel();
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
        let shared = Arc::clone(&self.shared);
        let patience = self.patience;
        service_fn(move |request: Request<Incoming>| {
            if let Some(routes) = shared.routes.get() {
                return Either::Left(routes.call(request));
            }
            let (shared, starting) = (Arc::clone(&shared), starting.clone());
            Either::Right(async move {
                if !at_once(&request) {
                    // On a timeout the routes are still missing.
                    let _ = timeout_at(patience, shared.opened.cancelled()).await;
                }
                match shared.routes.get() {
                    Some(routes) => routes.call(request).await,
                    None => starting.call(request).await,
                }
            })
        })
    }
}
