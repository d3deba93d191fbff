//! Answers authenticated requests with `503` until the database is open.

use std::{pin::pin, time::Duration};

use hyper_util::service::TowerToHyperService;
use storm_shared::server::{self, Limits};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use warp::{Filter, Reply};

use crate::{auth::AuthLayer, reply::Problem};

/// A database that opens within this time causes no `503`: connections wait in the accept queue.
const GRACE: Duration = Duration::from_secs(1);

/// Awaits `opening` and returns its result. Meanwhile, requests on `listener` that pass `auth` get
/// `503`.
pub(crate) async fn beside<T>(
    listener: &TcpListener,
    limits: Limits,
    auth: AuthLayer,
    opening: impl Future<Output = T>,
) -> T {
    let mut opening = pin!(opening);
    if let Ok(opened) = tokio::time::timeout(GRACE, &mut opening).await {
        return opened;
    }
    let service = warp::service(warp::any().map(|| Problem::not_open_yet().into_response()));
    // A connection stays with the service that accepted it. Without keep-alive, the client's next
    // request opens a new connection and reaches the real service.
    let limits = Limits {
        one_request_per_connection: true,
        ..limits
    };
    let over = CancellationToken::new();
    let opened = async {
        let opened = opening.await;
        over.cancel();
        opened
    };
    // The layer of the real service: without a token nobody learns the state of the database, and
    // what is counted here stays counted.
    let service = auth.before(TowerToHyperService::new(service));
    // The listener is borrowed, so it stays open: a connection that arrives at the switch waits in
    // the accept queue.
    let serving = server::serve(listener, service, limits, over.cancelled());
    tokio::join!(opened, serving).0
}
