//! The worker's own listener: `/healthz` and `/metrics`.

use hyper_util::service::TowerToHyperService;
use storm_shared::{
    server,
    services::{health::Health, queue::Queue, store::Store},
};
use tokio::net::TcpListener;
use warp::{
    Filter, Reply,
    http::{StatusCode, header},
};

use crate::metrics::Metrics;

/// What the text format of Prometheus is called on the wire.
const PROMETHEUS_TEXT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Answers on `listener` until `shutdown`.
pub async fn serve(
    listener: TcpListener,
    (store, queue, metrics): (Store, Option<Queue>, Metrics),
    limits: server::Limits,
    shutdown: impl Future<Output = ()>,
) {
    let health = warp::path!("healthz").and(warp::get()).then(move || {
        let (store, queue) = (store.clone(), queue.clone());
        async move { answer_health(&Health::check(&store, queue.as_ref()).await) }
    });
    let scrape = warp::path!("metrics").and(warp::get()).map(move || {
        warp::reply::with_header(metrics.render(), header::CONTENT_TYPE, PROMETHEUS_TEXT)
    });
    let routes = health.or(scrape);
    server::serve(
        listener,
        TowerToHyperService::new(warp::service(routes)),
        limits,
        shutdown,
    )
    .await;
}

fn answer_health(health: &Health) -> impl Reply + use<> {
    let status = if health.is_ok() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    warp::reply::with_status(warp::reply::json(health), status)
}
