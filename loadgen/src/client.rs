//! The HTTP client of the API: `POST /sync`, `POST /async` and `/async/{handler}`, `GET` and
//! `DELETE /requests/{id}`, `POST /requests/{id}/redeliver` and `/erase`, over keep-alive
//! connections. `admin`: the same for operators.

mod admin;

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode, Uri,
    body::Incoming,
    header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderName, HeaderValue},
};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use storm_shared::models::{HandlerName, Mode, RequestId, Status};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout, timeout_at},
};

use crate::{answers::RequestFailure, http_url::HttpUrl, ledger::JobEnd};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The size limit of an answer, in bytes: more than a job with the largest payload and result, and
/// its attempts, as `GET /requests/{id}` shows it.
const MAX_ANSWER: usize = 24 * 1024 * 1024;

/// The limit of a connection's idle time. It is below the server's limit of 30 s; otherwise the
/// server could close a connection while a request is being written to it.
const IDLE: Duration = Duration::from_secs(20);

/// The timeout of the first connection.
const FIRST_CONNECT: Duration = Duration::from_secs(5);

/// The path of an endpoint, and the status of its successful answers.
const fn endpoint(mode: Mode) -> (&'static str, StatusCode) {
    match mode {
        Mode::Sync => ("/sync", StatusCode::OK),
        Mode::Async => ("/async", StatusCode::ACCEPTED),
    }
}

/// A client of one API. Clones share the connections.
#[derive(Clone, Debug)]
pub struct Api {
    http: Client<HttpConnector, Full<Bytes>>,
    /// `http://<address>/<base path>`
    base: String,
    sync: Uri,
    background: Uri,
    host: HeaderValue,
    authorization: Option<HeaderValue>,
}

impl Api {
    /// Resolves the API's address and tests it with one connection. The name is resolved only once:
    /// a look-up for each connection would measure the resolver. Each request carries
    /// `authorization`, if given.
    ///
    /// # Errors
    /// Nothing listens at the address.
    pub async fn connect(url: &HttpUrl, authorization: Option<HeaderValue>) -> Result<Self> {
        let address = first_listening(url).await.with_context(|| {
            format!("no API listens at {url}; start it, or set --api to its URL")
        })?;
        let base = format!("http://{address}{}", url.path().trim_end_matches('/'));
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let http = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .build(connector);
        Ok(Self {
            http,
            sync: format!("{base}{}", endpoint(Mode::Sync).0).parse()?,
            background: format!("{base}{}", endpoint(Mode::Async).0).parse()?,
            base,
            host: HeaderValue::from_str(url.authority())?,
            authorization,
        })
    }

    /// Requests a report, and returns the body of a successful answer.
    ///
    /// # Errors
    /// There was no successful answer before the deadline.
    pub async fn submit(
        &self,
        mode: Mode,
        body: Bytes,
        deadline: Instant,
    ) -> Result<Bytes, RequestFailure> {
        let request = self.submission(mode, body);
        self.send(request, endpoint(mode).1, deadline).await
    }

    /// Submits an async job with an idempotency key, as the first or once more.
    ///
    /// # Errors
    /// There was no successful answer before the deadline.
    pub async fn submit_keyed(
        &self,
        key: HeaderValue,
        body: Bytes,
        deadline: Instant,
    ) -> Result<Bytes, RequestFailure> {
        let mut request = self.submission(Mode::Async, body);
        request.headers_mut().insert(IDEMPOTENCY_KEY, key);
        self.send(request, endpoint(Mode::Async).1, deadline).await
    }

    /// Submits a job for a handler, with an idempotency key if there is one.
    ///
    /// # Errors
    /// There was no successful answer before the deadline.
    pub async fn submit_work(
        &self,
        handler: &str,
        key: Option<HeaderValue>,
        body: Bytes,
        deadline: Instant,
    ) -> Result<Bytes, RequestFailure> {
        let mut request = self.submission(Mode::Async, body);
        *request.uri_mut() = format!("{}/{handler}", self.background)
            .parse()
            .map_err(|error| RequestFailure::Connection(format!("{error}")))?;
        if let Some(key) = key {
            request.headers_mut().insert(IDEMPOTENCY_KEY, key);
        }
        self.send(request, endpoint(Mode::Async).1, deadline).await
    }

    fn submission(&self, mode: Mode, body: Bytes) -> Request<Full<Bytes>> {
        let uri = match mode {
            Mode::Sync => self.sync.clone(),
            Mode::Async => self.background.clone(),
        };
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri;
        let json = HeaderValue::from_static("application/json");
        request.headers_mut().insert(CONTENT_TYPE, json);
        request
    }

    /// The end of a job; none while it is pending or processing.
    ///
    /// # Errors
    /// There was no successful answer before the deadline.
    pub async fn job_end(
        &self,
        id: RequestId,
        deadline: Instant,
    ) -> Result<Option<JobEnd>, RequestFailure> {
        self.job(id, deadline)
            .await?
            .end()
            .map_err(|what| RequestFailure::WrongAnswer(what.to_owned()))
    }

    /// Fetches a job.
    ///
    /// # Errors
    /// There was no successful answer before the deadline.
    pub async fn job(&self, id: RequestId, deadline: Instant) -> Result<JobView, RequestFailure> {
        let mut request = Request::new(Full::default());
        *request.uri_mut() = self.uri_of(id, "")?;
        let body = self.send(request, StatusCode::OK, deadline).await?;
        serde_json::from_slice(&body)
            .map_err(|error| RequestFailure::WrongAnswer(format!("not a job: {error}")))
    }

    /// Asks for a redelivery of a job.
    ///
    /// # Errors
    /// There was no successful answer before the deadline.
    pub async fn redeliver(&self, id: RequestId, deadline: Instant) -> Result<(), RequestFailure> {
        let mut request = Request::new(Full::default());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri_of(id, "/redeliver")?;
        let sent = self.send(request, StatusCode::ACCEPTED, deadline);
        sent.await.map(drop)
    }

    /// Cancels a job, or the redelivery that is in progress. Returns the answer's sentence.
    ///
    /// # Errors
    /// There was no successful answer before the deadline.
    pub async fn cancel(&self, id: RequestId, deadline: Instant) -> Result<String, RequestFailure> {
        #[derive(Deserialize)]
        struct Cancelled {
            message: String,
        }
        let mut request = Request::new(Full::default());
        *request.method_mut() = Method::DELETE;
        *request.uri_mut() = self.uri_of(id, "")?;
        let body = self.send(request, StatusCode::OK, deadline).await?;
        let cancelled: Cancelled = serde_json::from_slice(&body)
            .map_err(|error| RequestFailure::WrongAnswer(format!("not cancelled: {error}")))?;
        Ok(cancelled.message)
    }

    /// Erases a finished request. Returns when it was erased first, as the answer has it.
    ///
    /// # Errors
    /// There was no successful answer before the deadline.
    pub async fn erase(&self, id: RequestId, deadline: Instant) -> Result<String, RequestFailure> {
        #[derive(Deserialize)]
        struct Erased {
            erased_at: String,
        }
        let mut request = Request::new(Full::default());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri_of(id, "/erase")?;
        let body = self.send(request, StatusCode::OK, deadline).await?;
        let erased: Erased = serde_json::from_slice(&body)
            .map_err(|error| RequestFailure::WrongAnswer(format!("not erased: {error}")))?;
        Ok(erased.erased_at)
    }

    /// The same API, as another caller. Both share the connections.
    #[must_use]
    pub fn authorized_by(&self, authorization: HeaderValue) -> Self {
        Self {
            authorization: Some(authorization),
            ..self.clone()
        }
    }

    /// The same API for jobs of a handler: `submit` sends async jobs to `/async/{handler}`. Both
    /// share the connections.
    ///
    /// # Errors
    /// The base path of the API makes no URL.
    pub fn for_handler(&self, handler: &HandlerName) -> Result<Self> {
        Ok(Self {
            background: format!("{}/{handler}", self.background).parse()?,
            ..self.clone()
        })
    }

    fn uri_of(&self, id: RequestId, action: &str) -> Result<Uri, RequestFailure> {
        format!("{}/requests/{id}{action}", self.base)
            .parse()
            .map_err(|error| RequestFailure::Connection(format!("{error}")))
    }

    async fn send(
        &self,
        mut request: Request<Full<Bytes>>,
        success: StatusCode,
        deadline: Instant,
    ) -> Result<Bytes, RequestFailure> {
        // The URI contains the resolved address, so hyper can't derive the Host header from it.
        let headers = request.headers_mut();
        headers.insert(HOST, self.host.clone());
        if let Some(authorization) = &self.authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        // The deadline covers the body too: an answer that is not complete is no answer.
        let exchange = async {
            let response = self.http.request(request).await.map_err(connection_error)?;
            read(response).await
        };
        let (status, body) = timeout_at(deadline, exchange)
            .await
            .map_err(|_| RequestFailure::Timeout)??;
        // Load shedding and rate limits are expected under load, so they are counted separately.
        match status {
            status if status == success => Ok(body),
            StatusCode::SERVICE_UNAVAILABLE if is_outcome_unknown(&body) => {
                Err(RequestFailure::OutcomeUnknown)
            }
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
                Err(RequestFailure::Refused(status))
            }
            other => Err(RequestFailure::Status(other, problem_text(&body))),
        }
    }
}

async fn read(response: Response<Incoming>) -> Result<(StatusCode, Bytes), RequestFailure> {
    let (head, body) = response.into_parts();
    let body = Limited::new(body, MAX_ANSWER).collect().await;
    let body = body.map_err(|error| RequestFailure::Connection(error.to_string()))?;
    Ok((head.status, body.to_bytes()))
}

fn connection_error(error: hyper_util::client::legacy::Error) -> RequestFailure {
    RequestFailure::Connection(format!("{:#}", anyhow::Error::new(error)))
}

/// Whether a problem body says that the request was neither accepted nor refused.
fn is_outcome_unknown(body: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct ProblemBody {
        r#type: String,
    }
    serde_json::from_slice(body)
        .is_ok_and(|problem: ProblemBody| problem.r#type == "urn:storm:problem:outcome-unknown")
}

/// The beginning of a problem body. It includes `errors`, which names the invalid fields.
fn problem_text(body: &[u8]) -> String {
    const MAX_CHARS: usize = 400;
    String::from_utf8_lossy(body)
        .chars()
        .take(MAX_CHARS)
        .collect()
}

async fn first_listening(url: &HttpUrl) -> Result<SocketAddr> {
    // A URL has an IPv6 address in brackets, which the resolver does not accept.
    let (host, port) = (url.host().trim_matches(['[', ']']).to_owned(), url.port());
    // getaddrinfo blocks, so it must not run on a runtime thread.
    let resolve = move || std::net::ToSocketAddrs::to_socket_addrs(&(host, port));
    // The run uses the first address that accepts a connection.
    let mut last_error = None;
    for address in tokio::task::spawn_blocking(resolve).await?? {
        match timeout(FIRST_CONNECT, TcpStream::connect(address)).await {
            Ok(Ok(_)) => return Ok(address),
            Ok(Err(error)) => last_error = Some(anyhow::Error::new(error)),
            Err(elapsed) => last_error = Some(elapsed.into()),
        }
    }
    match last_error {
        Some(error) => Err(error),
        None => bail!("the host name has no address"),
    }
}

/// A job as `GET /requests/{id}` returns it.
#[derive(Clone, Debug, Deserialize)]
pub struct JobView {
    /// The status.
    pub status: Status,
    /// The failure of a `FAILED` job.
    pub failure: Option<Value>,
    // Raw: a handler's JSON may have what no `Value` can hold, such as 1e999.
    #[serde(default)]
    result_payload: Option<Box<RawValue>>,
    created_at: Timestamp,
    completed_at: Option<Timestamp>,
    #[serde(default)]
    erased_at: Option<Timestamp>,
    #[serde(default)]
    input_payload: Option<Box<RawValue>>,
    #[serde(default)]
    callback_url: Option<String>,
    #[serde(default)]
    attempts: Vec<AttemptView>,
    #[serde(default)]
    events: Vec<EventView>,
}

#[derive(Clone, Debug, Deserialize)]
struct AttemptView {
    #[serde(default)]
    error: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
struct EventView {
    #[serde(default)]
    detail: Option<String>,
}

impl JobView {
    /// Whether it was erased.
    pub fn is_erased(&self) -> bool {
        self.erased_at.is_some()
    }

    /// Which of its contents it shows: `payload`, `result`, `callback_url`, `attempts.error`,
    /// `events.detail`.
    pub fn contents(&self) -> Vec<&'static str> {
        let is_named = |it: &AttemptView| it.error.is_some();
        let shown = [
            ("payload", !self.has_erased_payload()),
            ("result", self.result_payload.is_some()),
            ("callback_url", self.callback_url.is_some()),
            ("attempts.error", self.attempts.iter().any(is_named)),
            (
                "events.detail",
                self.events.iter().any(|it| it.detail.is_some()),
            ),
        ];
        let shown = shown.into_iter().filter(|(_, is_shown)| *is_shown);
        shown.map(|(what, _)| what).collect()
    }

    fn has_erased_payload(&self) -> bool {
        let payload = self.input_payload.as_ref();
        payload.is_some_and(|json| {
            serde_json::from_str::<Value>(json.get()).is_ok_and(|it| it == json!({"erased": true}))
        })
    }

    fn end(self) -> Result<Option<JobEnd>, &'static str> {
        match (self.status, self.completed_at) {
            (Status::Completed, Some(completed_at)) => {
                let took = completed_at.duration_since(self.created_at);
                Ok(Some(JobEnd::Completed {
                    result: self
                        .result_payload
                        .map_or_else(|| "null".to_owned(), |json| json.get().to_owned()),
                    took: took.unsigned_abs(),
                    completed_at,
                }))
            }
            (Status::Completed, None) => Err("a completed job without a completion time"),
            (Status::Failed, ..) => Ok(Some(JobEnd::Failed)),
            (Status::Pending | Status::Processing, ..) => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::{JobEnd, JobView, is_outcome_unknown};

    fn end(job: Value) -> Result<Option<JobEnd>, &'static str> {
        serde_json::from_value::<JobView>(job).unwrap().end()
    }

    #[test]
    fn an_unknown_outcome_is_told_by_the_type_of_its_problem() {
        for (body, is_unknown) in [
            (
                r#"{"type":"urn:storm:problem:outcome-unknown","status":503}"#,
                true,
            ),
            (
                r#"{"type":"urn:storm:problem:database-full","status":503}"#,
                false,
            ),
            (r#"{"status":"unavailable"}"#, false),
            ("", false),
        ] {
            assert_eq!(is_outcome_unknown(body.as_bytes()), is_unknown, "{body}");
        }
    }

    #[test]
    fn a_job_ends_with_its_report_or_its_failure() {
        let report = json!({"report_id": "3eebd0ea-44d7-531b-b660-ca91c206c5e6", "checksum": "a6"});
        let (from, to) = ("2026-01-01T00:00:00.000Z", "2026-01-01T00:00:00.510Z");
        let completed = json!({"status": "COMPLETED", "result_payload": report, "failure": null,
            "created_at": from, "completed_at": to});
        let Ok(Some(JobEnd::Completed { took, .. })) = end(completed) else {
            panic!("not completed")
        };
        assert_eq!(took, Duration::from_millis(510));

        let with_status = |status| json!({"status": status, "result_payload": null, "failure": null, "created_at": from, "completed_at": null});
        assert_eq!(end(with_status("FAILED")), Ok(Some(JobEnd::Failed)));
        assert_eq!(end(with_status("PROCESSING")), Ok(None));
        assert!(end(with_status("COMPLETED")).is_err());
    }

    #[test]
    fn a_job_of_a_handler_may_have_json_that_no_value_can_hold() {
        let odd = r#"{"n": 1e999, "s": "\ud800", "s": 1}"#;
        let at = "2026-01-01T00:00:00.000Z";
        let job = format!(
            r#"{{"status": "COMPLETED", "failure": null, "input_payload": {odd},
                "result_payload": {odd}, "created_at": "{at}", "completed_at": "{at}"}}"#
        );
        let job: JobView = serde_json::from_str(&job).unwrap();
        assert!(job.contents().contains(&"payload"));
        let Ok(Some(JobEnd::Completed { result, .. })) = job.end() else {
            panic!("not completed")
        };
        assert_eq!(result, odd);
    }

    #[test]
    fn an_erased_job_shows_what_is_left_of_its_contents() {
        let at = "2026-01-01T00:00:00.000Z";
        let job = |payload, result, url: Option<&str>, error: Option<&str>| {
            serde_json::from_value::<JobView>(json!({"status": "COMPLETED", "failure": null,
                "input_payload": payload, "result_payload": result, "callback_url": url,
                "created_at": at, "completed_at": at, "erased_at": at,
                "attempts": [{"class": "success", "error": error}],
                "events": [{"event": "claim_lost", "detail": error}]}))
            .unwrap()
        };
        let erased = job(json!({"erased": true}), Value::Null, None, None);
        assert!(erased.is_erased() && erased.contents().is_empty());
        let report = json!({"report_id": "3eebd0ea-44d7-531b-b660-ca91c206c5e6", "checksum": "a6"});
        let whole = job(
            json!({"records": 1}),
            report,
            Some("http://a/"),
            Some("why"),
        );
        let contents = [
            "payload",
            "result",
            "callback_url",
            "attempts.error",
            "events.detail",
        ];
        assert_eq!(whole.contents(), contents);
    }
}
