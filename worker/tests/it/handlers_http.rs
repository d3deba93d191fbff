//! The HTTP handler against scripted endpoints on real sockets.

mod connections;
mod failures;
mod hostile;
mod requests;
mod results;
mod room;
mod sockets;

use std::{io::Write as _, time::Duration};

use bytes::Bytes;
use hyper::HeaderMap;
use storm_shared::{live::Live, memory::MemoryBudget, services::signature::Signer};
use storm_worker::{
    delivery::Network,
    handler::{Context, Failure, Handler as _, Job, Output},
    handlers::http::{HttpClient, HttpEndpoint, HttpHandler},
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::delivery::{
    names::Names,
    scripted::{Receiver, read_request},
};

/// Longer than any attempt here needs; no test depends on it.
const PATIENT: Duration = Duration::from_mins(1);
/// The time of attempts that must time out.
const HASTY: Duration = Duration::from_millis(200);

const ID: &str = "019dbbf8-6a35-7f02-a9f4-5e1f9c1b7c53";
const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// What must be in no text about a failure.
const SECRET: &str = "s3cret";
const MAX_RESULT: usize = 1000;
/// Attempts at a time.
const CONCURRENCY: usize = 4;

fn endpoint(url: &str) -> HttpEndpoint {
    let mut headers = HeaderMap::new();
    headers.insert("authorization", SECRET.parse().unwrap());
    HttpEndpoint {
        url: format!("{url}?{SECRET}").parse().unwrap(),
        headers,
        signer: Signer::none(),
        max_result: MAX_RESULT,
    }
}

fn handler(endpoint: HttpEndpoint) -> HttpHandler {
    handler_with(Network::with_resolver(Names::none()), endpoint)
}

fn handler_with(network: Network, endpoint: HttpEndpoint) -> HttpHandler {
    let client = HttpClient::new(network, None).unwrap();
    handler_in(client, endpoint, MemoryBudget::new(1 << 20))
}

fn handler_in(client: HttpClient, endpoint: HttpEndpoint, memory: MemoryBudget) -> HttpHandler {
    HttpHandler::new(client, Live::new(endpoint), CONCURRENCY, memory)
}

fn job(payload: &'static str) -> Job {
    Job {
        id: ID.parse().unwrap(),
        handler: "thumbnails".parse().unwrap(),
        payload: Bytes::from_static(payload.as_bytes()),
        client: None,
    }
}

fn context(time: Duration) -> Context {
    Context {
        attempt: 2,
        deadline: Instant::now() + time,
        traceparent: TRACEPARENT.parse().unwrap(),
        over: CancellationToken::new(),
    }
}

/// One attempt of `handler` at a job. No text about a failure has a secret or an address of the
/// endpoint; only operators see more.
async fn attempt(handler: &HttpHandler, time: Duration) -> Result<Output, Failure> {
    let result = handler.run(&job("{}"), &context(time)).await;
    if let Err(failure) = &result {
        let internal = failure.internal_detail.as_deref().unwrap_or_default();
        assert!(!internal.contains(SECRET), "{internal}");
        for hidden in [SECRET, "127.0.0.1", "localhost", "hook"] {
            assert!(!failure.detail.contains(hidden), "{}", failure.detail);
        }
    }
    result
}

/// A patient attempt at `receiver`.
async fn attempt_at(receiver: &Receiver) -> Result<Output, Failure> {
    attempt(&handler(endpoint(&receiver.url())), PATIENT).await
}

/// The result of an attempt at `receiver`, as JSON.
async fn result_of(receiver: &Receiver) -> String {
    attempt_at(receiver).await.unwrap().as_str().to_owned()
}

/// Answers every request with `status_line_and_headers`, the length of `body`, and `body`.
fn answering(head: &str, body: impl AsRef<[u8]>) -> Receiver {
    let body = body.as_ref();
    let mut answer = format!("HTTP/1.1 {head}\r\ncontent-length: {}\r\n\r\n", body.len());
    answer.reserve(body.len());
    let mut answer = answer.into_bytes();
    answer.extend_from_slice(body);
    Receiver::start(
        move |_, mut stream| {
            while read_request(stream).is_some() && stream.write_all(&answer).is_ok() {}
        },
    )
}
