//! The endpoint of the HTTP handler. It answers as the order of the job says, and records every
//! request.

use std::{
    collections::HashMap,
    convert::Infallible,
    net::Ipv4Addr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    HeaderMap, Request, Response,
    body::Incoming,
    header::{CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use storm_shared::{models::RequestId, services::report::hex};
use tokio::{
    net::{TcpListener, TcpStream},
    time::sleep,
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    clock,
    history::WorkRequest,
    orders::{ChaosOrders, WorkAnswer},
    serve::serve,
    wall_clock::WallClock,
};
use crate::signatures::{SignatureCheck, Signatures};

/// The largest payload that is read, in bytes.
const MAX_PAYLOAD: usize = 64 * 1024;

/// The running endpoint. Dropping it stops it.
#[derive(Debug)]
pub(super) struct Endpoint {
    url: String,
    log: WorkLog,
    _serving: AbortOnDropHandle<Infallible>,
}

/// A request that was read, without the check against the job's id.
#[derive(Debug)]
pub(super) struct ReadRequest {
    request: WorkRequest,
    /// The name of the job in the payload.
    name: String,
}

impl Endpoint {
    /// Starts the endpoint on a free port for the jobs of `orders`. A request with an invalid
    /// signature counts as wrong; its clock is the services'.
    pub(super) async fn start(
        orders: ChaosOrders,
        signatures: Signatures,
        wall_clock: WallClock,
    ) -> Result<Self> {
        let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let socket = socket.context("can't listen for the work of the handler")?;
        let url = format!("http://{}/work", socket.local_addr()?);
        let log = WorkLog {
            orders,
            signatures,
            wall_clock,
            counts: Arc::default(),
            read: Arc::default(),
            unexpected: Arc::default(),
        };
        let serving = tokio::spawn(serve(socket, {
            let log = log.clone();
            move |stream| serve_connection(stream, log.clone())
        }));
        Ok(Self {
            url,
            log,
            _serving: AbortOnDropHandle::new(serving),
        })
    }

    /// The handler's `url`.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Takes the recorded requests.
    pub(super) fn take_requests(&self) -> Vec<ReadRequest> {
        std::mem::take(&mut *lock(&self.log.read))
    }

    /// Takes the requests that are for no job of the run, as text.
    pub(super) fn take_unexpected(&self) -> Vec<String> {
        std::mem::take(&mut *lock(&self.log.unexpected))
    }
}

impl ReadRequest {
    /// The record, given the name of each id.
    pub(super) fn recorded(self, names: &HashMap<RequestId, String>) -> WorkRequest {
        let for_this_id = names.get(&self.request.id) == Some(&self.name);
        WorkRequest {
            right: self.request.right && for_this_id,
            ..self.request
        }
    }
}

/// The log of the endpoint. Clones share it.
#[derive(Clone, Debug)]
struct WorkLog {
    orders: ChaosOrders,
    signatures: Signatures,
    wall_clock: WallClock,
    /// The number of requests for each job so far.
    counts: Arc<Mutex<HashMap<String, usize>>>,
    read: Arc<Mutex<Vec<ReadRequest>>>,
    unexpected: Arc<Mutex<Vec<String>>>,
}

/// A request that has been read. It is recorded on drop, without a response unless one was set: so
/// a connection that the worker aborts is recorded too.
struct RequestGuard<'a> {
    log: &'a WorkLog,
    read: Option<ReadRequest>,
    answer: WorkAnswer,
    result: String,
}

impl WorkLog {
    /// Starts the record of a request that was just read; none if it is for no job of the run.
    fn begin(&self, headers: &HeaderMap, body: &[u8]) -> Option<RequestGuard<'_>> {
        let guard = self.parse(headers, body);
        if guard.is_none() {
            let text = String::from_utf8_lossy(body);
            lock(&self.unexpected).push(format!("{headers:?} {text}"));
        }
        guard
    }

    fn parse(&self, headers: &HeaderMap, body: &[u8]) -> Option<RequestGuard<'_>> {
        let text = |name: &str| headers.get(name)?.to_str().ok();
        let id = text("idempotency-key")?.parse().ok()?;
        let attempt = text("storm-attempt")?.parse().ok()?;
        let payload: Value = serde_json::from_slice(body).ok()?;
        let name = payload["report_name"].as_str()?.to_owned();
        let work = self.orders.by_name(&name)?.work?;
        // The worker signed by the services' clock, which may have been stepped since.
        let mut readings = self.wall_clock.readings().into_iter();
        let is_signed = readings.any(|now| {
            let check = self.signatures.check_at(now, headers, body, id);
            !matches!(check, SignatureCheck::Invalid(_))
        });
        let number = {
            let mut counts = lock(&self.counts);
            let count = counts.entry(name.clone()).or_default();
            *count += 1;
            *count - 1
        };
        Some(RequestGuard {
            log: self,
            answer: work.answer(number),
            result: work.result(&name, number),
            read: Some(ReadRequest {
                request: WorkRequest {
                    at: clock::now(),
                    id,
                    attempt,
                    right: is_signed && work.payload(&name).as_bytes() == body,
                    answered: None,
                    result_sha256: None,
                },
                name,
            }),
        })
    }
}

impl RequestGuard<'_> {
    /// Records the response, which is about to be sent.
    fn answered(mut self, status: u16, result: Option<&str>) {
        if let Some(read) = &mut self.read {
            read.request.answered = Some(status);
            read.request.result_sha256 = result.map(|it| hex(&Sha256::digest(it)));
        }
    }
}

impl Drop for RequestGuard<'_> {
    fn drop(&mut self) {
        lock(&self.log.read).extend(self.read.take());
    }
}

async fn serve_connection(stream: TcpStream, log: WorkLog) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request| answer(request, &log));
    // Broken connections are expected: workers are killed.
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn answer(
    request: Request<Incoming>,
    log: &WorkLog,
) -> std::io::Result<Response<Full<Bytes>>> {
    let (head, body) = request.into_parts();
    let body = Limited::new(body, MAX_PAYLOAD).collect().await;
    let body = body.map_err(std::io::Error::other)?.to_bytes();
    let Some(read) = log.begin(&head.headers, &body) else {
        return Ok(response(400, None));
    };
    match read.answer {
        WorkAnswer::Result(after) => {
            sleep(after).await;
            let result = read.result.clone();
            read.answered(200, Some(&result));
            Ok(response(200, Some(result)))
        }
        WorkAnswer::Status(status) => {
            read.answered(status, None);
            Ok(response(status, None))
        }
        WorkAnswer::Nothing => {
            // Recorded now. The connection may stay open until the end of the run.
            drop(read);
            std::future::pending().await
        }
    }
}

fn response(status: u16, result: Option<String>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(result.unwrap_or_default()));
    // Never an error: all of them are valid.
    *response.status_mut() = status.try_into().unwrap_or_default();
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

/// An insertion either happens or not, so the data stays valid if a holder panics.
fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use storm_shared::models::RequestId;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
    };

    use super::{Endpoint, WorkAnswer};
    use crate::{
        chaos::{history::WorkRequest, orders::ChaosOrders, wall_clock::WallClock},
        signatures::Signatures,
    };

    async fn start() -> Endpoint {
        let (signatures, clock) = (Signatures::default(), WallClock::default());
        Endpoint::start(ChaosOrders::new(9), signatures, clock)
            .await
            .unwrap()
    }

    /// Sends a payload, and returns the answer.
    async fn ask(endpoint: &Endpoint, id: RequestId, payload: &str) -> String {
        let address = endpoint.url().trim_start_matches("http://");
        let mut stream = TcpStream::connect(address.trim_end_matches("/work"))
            .await
            .unwrap();
        let request = format!(
            "POST /work HTTP/1.1\r\nhost: a\r\nconnection: close\r\nidempotency-key: {id}\r\n\
             storm-attempt: 1\r\ncontent-length: {}\r\n\r\n{payload}",
            payload.len()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    fn recorded(endpoint: &Endpoint, names: &HashMap<RequestId, String>) -> WorkRequest {
        endpoint.take_requests().pop().unwrap().recorded(names)
    }

    #[tokio::test]
    async fn it_answers_as_the_order_says_and_records_each_request() {
        let orders = ChaosOrders::new(9);
        let orders = (0..1000).map(|number| orders.order(number));
        let retried = orders.into_iter().find(|order| {
            let work = order.work.as_ref();
            work.is_some_and(|work| {
                work.answer(0) == WorkAnswer::Status(429)
                    && matches!(work.answer(1), WorkAnswer::Result(_))
            })
        });
        let (endpoint, id, retried) = (start().await, RequestId::generate(), retried.unwrap());
        let (name, work) = (retried.name(), retried.work.as_ref().unwrap());
        let names = [(id, name.to_owned())].into();
        let payload = work.payload(name);

        assert!(
            ask(&endpoint, id, &payload)
                .await
                .starts_with("HTTP/1.1 429")
        );
        let refused = recorded(&endpoint, &names);
        assert_eq!(
            (refused.right, refused.answered, refused.attempt),
            (true, Some(429), 1)
        );
        assert_eq!(refused.result_sha256, None);

        let answer = ask(&endpoint, id, &payload).await;
        assert!(answer.ends_with(&work.result(name, 1)), "{answer}");
        let answered = recorded(&endpoint, &names);
        assert_eq!((answered.right, answered.answered), (true, Some(200)));
        assert!(answered.result_sha256.is_some());

        // Not byte for byte, and under the id of another job.
        ask(&endpoint, id, &payload.replace("1.50", "1.5")).await;
        assert!(!recorded(&endpoint, &names).right);
        ask(&endpoint, RequestId::generate(), &payload).await;
        assert!(!recorded(&endpoint, &names).right);

        ask(&endpoint, id, r#"{"report_name":"another"}"#).await;
        assert!(endpoint.take_requests().is_empty());
        assert_eq!(endpoint.take_unexpected().len(), 1);
    }
}
