//! A fake API. A script decides how it handles each request.

use std::{
    collections::{HashMap, HashSet},
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode, body::Incoming, header::AUTHORIZATION,
    service::service_fn,
};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use storm_shared::{
    models::{ReportSpec, RequestId},
    server::{ConnectionMetrics, Limits, serve},
    services::{
        report::expected,
        signature::{self, Signer},
    },
};
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::{CancellationToken, DropGuard};

/// How the API handles one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// Correctly: on `/async`, the callback follows the 202.
    Right,
    /// The same; the 202 expects the job this many seconds from now.
    Expects(i64),
    /// The callback comes before the 202, which has no `expected_at`.
    CallsBackFirst,
    /// Two equal callbacks, before the 202, whose `expected_at` is no time.
    CallsBackTwice,
    /// A callback with a wrong checksum, before the 202; on `/sync`, a report with one.
    WrongChecksum,
    /// A callback with the previous job's report, before the 202.
    AnothersReport,
    /// Of a handler: a callback without a result, before the 202.
    WithoutResult,
    /// Of a handler: a callback of a failed job, before the 202.
    CallsBackFailed,
    /// Of a handler: two callbacks with different results, before the 202.
    CallsBackAnew,
    /// A 202 and no callback; the job stays `PROCESSING`.
    NeverCallsBack,
    /// A 202 and no callback; the job is `FAILED`.
    Fails,
    /// A callback without a signature, before the 202.
    Unsigned,
    /// A callback signed with another secret, before the 202.
    Forged,
    /// A callback signed ten minutes ago, before the 202.
    Stale,
    /// A callback signed with another id, before the 202.
    ForAnotherId,
    /// 503.
    Refuses,
    /// 422 for the field `callback_url`, if the request has one; otherwise correctly.
    RefusesCallbackUrl,
    /// 418.
    AnotherStatus,
    /// No answer.
    Hangs,
    /// Blocks its thread for this many milliseconds, then answers correctly.
    Stalls(u64),
    /// The successful status, with an empty object as body.
    Garbage,
}

/// The signing secret of callbacks.
pub(crate) const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const FORGED: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD8VzF3/4b0Qk=";

type Script = dyn Fn(&str) -> Act + Send + Sync;

/// A running API. It stops when dropped.
pub(crate) struct FakeApi {
    address: SocketAddr,
    state: Arc<State>,
    _until_dropped: DropGuard,
}

struct State {
    script: Box<Script>,
    http: Client<HttpConnector, Full<Bytes>>,
    jobs: Mutex<HashMap<RequestId, Value>>,
    requests: watch::Sender<u64>,
    authorizations: Mutex<HashSet<Option<String>>>,
    handler_bodies: Mutex<Vec<Bytes>>,
}

impl FakeApi {
    /// Starts an API with the handler `thumbnails`. `script` maps a report name to an act; the jobs
    /// of the handler are named `thumbnails_1` and so on, in their order.
    pub(crate) async fn start(script: impl Fn(&str) -> Act + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            script: Box::new(script),
            http: Client::builder(TokioExecutor::new()).build_http(),
            jobs: Mutex::default(),
            requests: watch::Sender::new(0),
            authorizations: Mutex::default(),
            handler_bodies: Mutex::default(),
        });
        let service = service_fn({
            let state = Arc::clone(&state);
            move |request| {
                let state = Arc::clone(&state);
                async move { Ok::<_, Infallible>(state.answer(request).await) }
            }
        });
        let stop = CancellationToken::new();
        let limits = Limits {
            drain_timeout: Duration::ZERO,
            ..Limits::default()
        };
        tokio::spawn(serve(
            listener,
            service,
            limits,
            ConnectionMetrics::default(),
            stop.clone().cancelled_owned(),
        ));
        Self {
            address,
            state,
            _until_dropped: stop.drop_guard(),
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The distinct `authorization` headers of the requests so far.
    pub(crate) fn authorizations(&self) -> HashSet<Option<String>> {
        self.state.authorizations.lock().unwrap().clone()
    }

    /// The bodies of the requests for the handler so far.
    pub(crate) fn handler_bodies(&self) -> Vec<Bytes> {
        self.state.handler_bodies.lock().unwrap().clone()
    }

    /// Completes when `count` report requests have arrived.
    pub(crate) async fn has_received(&self, count: u64) {
        let mut requests = self.state.requests.subscribe();
        requests
            .wait_for(|requests| *requests >= count)
            .await
            .unwrap();
    }
}

/// The number at the end of a report's name.
pub(crate) fn number(report_name: &str) -> u32 {
    report_name.rsplit('_').next().unwrap().parse().unwrap()
}

impl State {
    async fn answer(self: &Arc<Self>, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let authorization = request.headers().get(AUTHORIZATION);
        let authorization = authorization.map(|value| value.to_str().unwrap().to_owned());
        self.authorizations.lock().unwrap().insert(authorization);
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let body = request.into_body().collect().await.unwrap().to_bytes();
        if method == Method::GET {
            let id = path.strip_prefix("/requests/").unwrap().parse().unwrap();
            return reply(200, &self.jobs.lock().unwrap()[&id]);
        }
        self.requests.send_modify(|requests| *requests += 1);
        let bytes = body;
        let body: Value = serde_json::from_slice(&bytes).unwrap();
        let act = if path == "/async/thumbnails" {
            let mut bodies = self.handler_bodies.lock().unwrap();
            bodies.push(bytes);
            (self.script)(&format!("thumbnails_{}", bodies.len()))
        } else if path.starts_with("/async/") {
            return reply(404, &json!({"detail": "no handler has this name"}));
        } else {
            (self.script)(body["report_name"].as_str().unwrap())
        };
        match act {
            Act::Refuses => reply(503, &json!({"detail": "busy"})),
            Act::AnotherStatus => reply(418, &json!({"detail": "a teapot"})),
            Act::Hangs => std::future::pending().await,
            Act::RefusesCallbackUrl if body.get("callback_url").is_some() => {
                reply(422, &json!({"errors": [{"field": "callback_url"}]}))
            }
            Act::Garbage if path == "/sync" => reply(200, &json!({})),
            Act::Garbage => reply(202, &json!({})),
            _ if path == "/sync" => sync(act, body),
            _ => self.accept(act, body).await,
        }
    }

    async fn accept(self: &Arc<Self>, act: Act, body: Value) -> Response<Full<Bytes>> {
        // A blocking sleep on purpose: nothing else may run on this thread.
        if let Act::Stalls(millis) = act {
            std::thread::sleep(Duration::from_millis(millis));
        }
        let id = RequestId::generate();
        let url = body
            .get("callback_url")
            .and_then(Value::as_str)
            .map(ToOwned::to_owned);
        self.jobs.lock().unwrap().insert(id, row(act, &body));
        if let Some(url) = url {
            let callback = callback(act, id, body);
            match act {
                Act::NeverCallsBack | Act::Fails => {}
                Act::Right | Act::Expects(_) | Act::Stalls(_) => {
                    let state = Arc::clone(self);
                    tokio::spawn(async move { state.call_back(&url, &callback, act).await });
                }
                Act::CallsBackTwice => {
                    self.call_back(&url, &callback, act).await;
                    self.call_back(&url, &callback, act).await;
                }
                Act::CallsBackAnew => {
                    self.call_back(&url, &callback, act).await;
                    let another = handler_callback(act, id, "another");
                    self.call_back(&url, &another, act).await;
                }
                // Awaited here, so the callback is answered before the 202 is sent.
                _ => self.call_back(&url, &callback, act).await,
            }
        }
        let mut body = json!({"request_id": id, "status": "pending", "message": "…"});
        match act {
            Act::CallsBackFirst => {}
            Act::CallsBackTwice => body["expected_at"] = 7.into(),
            act => body["expected_at"] = expected_at(act).to_string().into(),
        }
        reply(202, &body)
    }

    async fn call_back(&self, url: &str, body: &Value, act: Act) {
        let text = body.to_string();
        let mut request = Request::post(url).body(Full::from(text.clone())).unwrap();
        sign(
            request.headers_mut(),
            body["request_id"].as_str().unwrap(),
            text.as_bytes(),
            act,
        );
        let response = self.http.request(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
    }
}

/// When the 202 expects the job.
fn expected_at(act: Act) -> Timestamp {
    let seconds = if let Act::Expects(seconds) = act {
        seconds
    } else {
        0
    };
    Timestamp::now() + SignedDuration::from_secs(seconds)
}

/// Adds the signature headers. They are valid unless `act` requires otherwise.
fn sign(headers: &mut HeaderMap, id: &str, body: &[u8], act: Act) {
    let secret = if act == Act::Forged { FORGED } else { SECRET };
    let mut at = Timestamp::now();
    if act == Act::Stale {
        at -= SignedDuration::from_mins(10);
    }
    let another = RequestId::generate().to_string();
    let id = if act == Act::ForAnotherId {
        &another
    } else {
        id
    };
    headers.insert(signature::ID, id.parse().unwrap());
    headers.insert(signature::TIMESTAMP, at.as_second().into());
    if act != Act::Unsigned {
        let signed = Signer::parse(secret).unwrap().sign(id, at, body);
        headers.insert(signature::SIGNATURE, signed.unwrap().parse().unwrap());
    }
}

fn spec(body: Value) -> ReportSpec {
    serde_json::from_value(body).unwrap()
}

fn sync(act: Act, body: Value) -> Response<Full<Bytes>> {
    let report = expected(&spec(body));
    let checksum = if act == Act::WrongChecksum {
        "0".repeat(64)
    } else {
        report.checksum
    };
    reply(
        200,
        &json!({"report_id": report.report_id, "status": "completed", "checksum": checksum}),
    )
}

/// The job as `GET /requests/{id}` returns it.
fn row(act: Act, body: &Value) -> Value {
    let (status, failure) = match act {
        Act::NeverCallsBack => ("PROCESSING", Value::Null),
        Act::Fails => (
            "FAILED",
            json!({"reason": "scripted", "detail": "scripted failure"}),
        ),
        _ => ("COMPLETED", Value::Null),
    };
    let result = match body.get("payload") {
        Some(_) => json!({"done": "first"}),
        None => json!(expected(&spec(body.clone()))),
    };
    json!({
        "status": status, "failure": failure, "result_payload": result,
        "created_at": "2026-01-01T00:00:00.000Z", "completed_at": "2026-01-01T00:00:00.250Z",
    })
}

fn callback(act: Act, id: RequestId, mut body: Value) -> Value {
    if body.get("payload").is_some() {
        return handler_callback(act, id, "first");
    }
    if act == Act::AnothersReport {
        let name = body["report_name"].as_str().unwrap();
        body["report_name"] = format!("Async_{:04}", number(name) - 1).into();
    }
    let spec = spec(body);
    let report = expected(&spec);
    let checksum = if act == Act::WrongChecksum {
        "0".repeat(64)
    } else {
        report.checksum
    };
    json!({
        "request_id": id, "report_id": report.report_id, "status": "completed", "checksum": checksum,
        "report_name": spec.report_name, "records": spec.records,
    })
}

fn handler_callback(act: Act, id: RequestId, result: &str) -> Value {
    let handler = match act {
        Act::AnothersReport => "report",
        _ => "thumbnails",
    };
    let mut callback = json!({"request_id": id, "handler": handler, "status": "completed"});
    match act {
        Act::WithoutResult => {}
        Act::CallsBackFailed => {
            callback["status"] = "failed".into();
            callback["failure"] = json!({"reason": "work_failed", "detail": "scripted"});
        }
        // A result of null is one, too.
        Act::CallsBackTwice => callback["result"] = Value::Null,
        // Longer than a report's callback may be.
        Act::Right => callback["result"] = json!({"done": "first", "more": "a".repeat(100_000)}),
        _ => callback["result"] = json!({"done": result}),
    }
    callback
}

fn reply(status: u16, body: &Value) -> Response<Full<Bytes>> {
    Response::builder()
        .status(status)
        .body(Full::from(body.to_string()))
        .unwrap()
}
