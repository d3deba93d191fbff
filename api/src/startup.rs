//! What is answered while the database can't be opened: a 503 that says so, whatever is asked.

use std::{pin::pin, time::Duration};

use hyper_util::service::TowerToHyperService;
use storm_shared::server::{self, Limits};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use warp::{Filter, Reply};

use crate::{auth::AuthLayer, reply::Problem};

/// A database that is opened by then keeps nobody waiting for long.
const AT_ONCE: Duration = Duration::from_secs(1);

/// What `opening` gives. As long as it takes, every request on `listener` that `door` lets in is told to try again.
pub(crate) async fn beside<T>(
    listener: &TcpListener,
    limits: Limits,
    auth: AuthLayer,
    opening: impl Future<Output = T>,
) -> T {
    let mut opening = pin!(opening);
    if let Ok(opened) = tokio::time::timeout(AT_ONCE, &mut opening).await {
        return opened;
    }
    let service = warp::service(warp::any().map(|| Problem::not_open_yet().into_response()));
    // Who came in here is told so even after the service has begun its work, and then comes to that.
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
