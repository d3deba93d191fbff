//! One delivery attempt against scripted receivers on real sockets.

mod addresses;
mod answers;
mod fuzz;
mod heads;
pub(crate) mod names;
pub(crate) mod reuse;
pub(crate) mod scripted;
mod sockets;
pub(crate) mod tls;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use hyper::StatusCode;
use storm_shared::{models::CallbackUrl, services::ssrf::Policy};
use storm_worker::delivery::{AttemptError, CallbackClient, Message, Network};

use names::Names;

/// Longer than any attempt here needs; no test depends on it.
const PATIENT: Duration = Duration::from_mins(1);
/// The timeout of attempts that must time out.
const HASTY: Duration = Duration::from_millis(200);

const ID: &str = "019dbbf8-6a35-7f02-a9f4-5e1f9c1b7c53";
const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// A client with `allow` in its SSRF policy and `names` as its resolver.
fn client(allow: &str, names: &Arc<Names>, timeout: Duration) -> CallbackClient {
    let policy = Policy::parse(allow).unwrap();
    CallbackClient::new(policy, Network::with_resolver(names.clone()), timeout, None).unwrap()
}

/// A client with `127.0.0.0/8` allowed.
fn loopback_client(timeout: Duration) -> CallbackClient {
    client("127.0.0.0/8", &Names::none(), timeout)
}

fn message() -> Message {
    Message {
        id: ID.parse().unwrap(),
        body: Bytes::from_static(b"{\"request_id\":1}"),
        traceparent: TRACEPARENT.parse().unwrap(),
    }
}

async fn attempt(client: &CallbackClient, url: &str) -> Result<StatusCode, AttemptError> {
    let url = CallbackUrl::parse(url).unwrap();
    client.attempt(&url, &message()).await
}

/// Like `attempt`, with the error reduced to its class.
async fn class(client: &CallbackClient, url: &str) -> Result<u16, &'static str> {
    let answer = attempt(client, url).await;
    answer
        .map(|status| status.as_u16())
        .map_err(|error| error.class().as_str())
}
