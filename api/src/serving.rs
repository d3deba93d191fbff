//! Serves the API's listeners until the graceful shutdown is complete.

use std::sync::Arc;

use hyper::service::{Service as _, service_fn};
use hyper_util::service::TowerToHyperService;
use storm_shared::{
    config::Settings,
    server::{self, ConnectionMetrics, Limits},
    services::readiness::Readiness,
    shutdown::Shutdown,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    app::App, auth::AuthLayer, closing::closing_from, error::Error, metrics::Metrics, routes,
    startup::Gate,
};

/// Serves `app` on `listener` behind `auth` until `shutdown`, then drains: open requests are
/// answered within the drain timeout, and the app is closed.
///
/// # Errors
/// The store stopped before the shutdown.
pub async fn serve(
    app: Arc<App>,
    auth: AuthLayer,
    listener: TcpListener,
    shutdown: impl Into<Shutdown>,
) -> Result<(), Error> {
    let limits = limits(&app.settings);
    let connections = app.metrics.connections.clone();
    let opening = async { Ok(app) };
    let shutdown = shutdown.into();
    serve_opening(opening, auth, listener, limits, connections, shutdown).await
}

/// The same for an app that `opening` opens. Until then, and until its backlog was counted, and if
/// it fails, requests are answered `503`.
pub(crate) async fn serve_opening(
    opening: impl Future<Output = Result<Arc<App>, Error>>,
    auth: AuthLayer,
    listener: TcpListener,
    limits: Limits,
    connections: ConnectionMetrics,
    shutdown: Shutdown,
) -> Result<(), Error> {
    let readiness = Readiness::new(shutdown.begun.clone());
    let gate = Gate::closed();
    let starting = warp::service(routes::starting(&readiness));
    let starting = TowerToHyperService::new(starting);
    let service = auth.before(gate.service(starting, routes::needs_no_database));
    let stop = CancellationToken::new();
    let server = server::serve(
        listener,
        closing_from(shutdown.begun.clone(), service),
        limits,
        connections,
        stop.clone().cancelled_owned(),
    );
    let server = tokio::spawn(server);
    // The opening waits without a limit for a database that is locked or not writable, so a
    // shutdown has to end it.
    let opened = shutdown.begun.run_until_cancelled(opening).await;
    let app = match opened.transpose() {
        Ok(Some(app)) => app,
        // A shutdown before the database was open.
        Ok(None) => {
            stop.cancel();
            let _ = server.await; // a panic was logged
            return Ok(());
        }
        // Told at once: no client may delay the end of a failed start.
        Err(error) => {
            server.abort();
            return Err(error);
        }
    };
    tokio::select! {
        // Before any job is accepted: the backlog may be full.
        () = app.admission.counted() => {
            readiness.opened(&app.store, app.queue.as_ref());
            gate.open(routes::all(&app, &readiness));
        }
        () = shutdown.begun.cancelled() => {}
        () = app.store.ended() => {}
    }
    tokio::select! {
        () = shutdown.closing.cancelled() => {}
        // Without its store the API would refuse every request. When it exits, a supervisor can
        // restart it.
        () = app.store.ended() => {}
    }
    // At once, so that they do not take the time of the drain.
    app.waiters.stop();
    app.overview.stop();
    // Not `close`: that drops work for which open requests still wait.
    app.pool.stop();
    stop.cancel();
    let _ = server.await;
    // It holds the routes, and they the app, whose last handle has to end the notifier.
    drop(gate);
    // Only now: the requests that the drain answers need the store.
    app.close().await;
    if shutdown.begun.is_cancelled() {
        Ok(())
    } else {
        Err(Error::StoreEnded)
    }
}

/// Serves `/metrics` alone on `listener` until the API closes its own.
pub fn serve_metrics<S: Into<Shutdown>>(
    settings: &Settings,
    metrics: Metrics,
    listener: TcpListener,
    shutdown: S,
) -> impl Future<Output = ()> + Send + use<S> {
    let Shutdown { begun, closing } = shutdown.into();
    let limits = limits(settings);
    let auth = AuthLayer::for_metrics(settings, metrics.clone());
    let routes = TowerToHyperService::new(warp::service(routes::metrics_alone(metrics)));
    let service = auth.before(service_fn(move |request| Box::pin(routes.call(request))));
    let service = closing_from(begun, service);
    // `storm_api_connections` is about the other listener.
    let connections = ConnectionMetrics::default();
    async move { server::serve(listener, service, limits, connections, closing.cancelled()).await }
}

/// The limits of the API's listeners.
pub(crate) fn limits(settings: &Settings) -> Limits {
    Limits {
        connections: settings.http.connections,
        refusals: settings.http.refusals,
        header_timeout: settings.http.timeout,
        drain_timeout: settings.drain_timeout,
    }
}
