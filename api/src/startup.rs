//! Answers every request with `503` while the database is not open yet.

use std::{pin::pin, time::Duration};

use hyper_util::service::TowerToHyperService;
use storm_shared::server::{self, Limits};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use warp::{Filter, Reply};

use crate::{auth::AuthLayer, reply::Problem};

/// Within this time clients are left waiting in the accept queue rather than refused.
const GRACE: Duration = Duration::from_secs(1);

/// The result of `opening`. Until then, requests on `listener` that `auth` admits get a `503`.
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
    // A connection accepted here stays with this responder, so it must not be kept alive: the
    // client's next request has to reach the real service.
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
    let service = auth.before(TowerToHyperService::new(service));
    let serving = server::serve(listener, service, limits, over.cancelled());
    tokio::join!(opened, serving).0
}
