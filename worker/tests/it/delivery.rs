//! One delivery attempt, against receivers on real sockets that behave as a script says.

mod addresses;
mod answers;
mod names;
mod reuse;
mod scripted;
mod tls;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use hyper::StatusCode;
use storm_shared::{models::CallbackUrl, services::guard::Policy};
use storm_worker::delivery::{AttemptError, CallbackClient};

use names::Names;

/// Far beyond what any attempt here needs: no test depends on it.
const PATIENT: Duration = Duration::from_mins(1);
/// For the attempts that have to time out.
const HASTY: Duration = Duration::from_millis(200);

/// A client that may call `allow`, and knows `names`.
fn client(allow: &str, names: &Arc<Names>, timeout: Duration) -> CallbackClient {
    let policy = Policy::parse(allow).unwrap();
    CallbackClient::new(policy, names.clone(), timeout, None).unwrap()
}

/// A client that may call `127.0.0.0/8`.
fn loopback_client(timeout: Duration) -> CallbackClient {
    client("127.0.0.0/8", &Names::none(), timeout)
}

async fn attempt(client: &CallbackClient, url: &str) -> Result<StatusCode, AttemptError> {
    let url = CallbackUrl::parse(url).unwrap();
    client
        .attempt(&url, Bytes::from_static(b"{\"request_id\":1}"))
        .await
}

/// `attempt`, with the error as its class.
async fn class(client: &CallbackClient, url: &str) -> Result<u16, &'static str> {
    let answer = attempt(client, url).await;
    answer
        .map(|status| status.as_u16())
        .map_err(|error| error.name())
}
