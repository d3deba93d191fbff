//! Serves the API's listeners until the graceful shutdown is complete.

use std::sync::Arc;

use hyper_util::service::TowerToHyperService;
use storm_shared::{
    config::Settings,
    server::{self, Limits},
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{app::App, auth::AuthLayer, error::Error, metrics::Metrics, routes};

/// Serves `app` on `listener` behind `auth` until `shutdown` is cancelled, then drains: open
/// requests are answered within the drain timeout, and the app is closed.
///
/// # Errors
/// The store stopped before the shutdown.
pub async fn serve(
    app: Arc<App>,
    auth: AuthLayer,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let limits = limits(&app.settings);
    let service = TowerToHyperService::new(warp::service(routes::all(&app)));
    let stopping = async {
        tokio::select! {
            () = shutdown.cancelled() => {}
            // Without its store the API would refuse every request. When it exits, a supervisor can
            // restart it.
            () = app.store.ended() => {}
        }
        // Not `close`: that drops work for which open requests still wait.
        app.pool.stop();
    };
    server::serve(listener, auth.before(service), limits, stopping).await;
    // Only now: the requests that the drain answers need the store.
    app.close().await;
    if shutdown.is_cancelled() {
        Ok(())
    } else {
        Err(Error::StoreEnded)
    }
}

/// Serves `/metrics` alone on `listener` until `shutdown` is cancelled.
pub fn serve_metrics(
    settings: &Settings,
    metrics: Metrics,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> impl Future<Output = ()> + Send + use<> {
    let limits = limits(settings);
    let auth = AuthLayer::for_metrics(settings, metrics.clone());
    let routes = warp::service(routes::metrics_alone(metrics));
    let service = auth.before(TowerToHyperService::new(routes));
    async move { server::serve(listener, service, limits, shutdown.cancelled()).await }
}

/// The limits of the API's listeners.
pub(crate) fn limits(settings: &Settings) -> Limits {
    Limits {
        connections: settings.http.connections,
        header_timeout: settings.http.timeout,
        drain_timeout: settings.drain_timeout,
        one_request_per_connection: false,
    }
}
