//! The API as a client sees it: three requests, over connections that are kept alive.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode, Uri,
    body::Incoming,
    header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue},
};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use jiff::Timestamp;
use serde::Deserialize;
use storm_shared::{
    models::{Mode, RequestId, Status},
    services::report::Report,
};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout, timeout_at},
};

use crate::{answers::RequestFailure, http_url::HttpUrl, ledger::JobEnd};

/// The longest answer that is read.
const MAX_ANSWER: usize = 64 * 1024;

/// An idle connection is closed before the server's own limit of 30 s: it never closes one that a
/// request is just being written to.
const IDLE: Duration = Duration::from_secs(20);

/// How long the first connection may take.
const FIRST_CONNECT: Duration = Duration::from_secs(5);

/// Where a report is asked for, and the status of a good answer.
const fn endpoint(mode: Mode) -> (&'static str, StatusCode) {
    match mode {
        Mode::Sync => ("/sync", StatusCode::OK),
        Mode::Async => ("/async", StatusCode::ACCEPTED),
    }
}

/// One API. Clones share the connections.
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
    /// Finds out where the API is, once: a storm that looks its name up for each connection would
    /// measure the resolver. The API may ask for an `authorization` with each request.
    ///
    /// # Errors
    /// Nothing listens there.
    pub async fn connect(url: &HttpUrl, authorization: Option<HeaderValue>) -> Result<Self> {
        let address = first_listening(url).await.with_context(|| {
            format!("no API listens at {url}; start one, or name another with --api")
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

    /// Asks for a report, and gives the body of a good answer.
    ///
    /// # Errors
    /// No good answer by the deadline.
    pub async fn submit(
        &self,
        mode: Mode,
        body: Bytes,
        deadline: Instant,
    ) -> Result<Bytes, RequestFailure> {
        let uri = match mode {
            Mode::Sync => self.sync.clone(),
            Mode::Async => self.background.clone(),
        };
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri;
        let json = HeaderValue::from_static("application/json");
        request.headers_mut().insert(CONTENT_TYPE, json);
        self.send(request, endpoint(mode).1, deadline).await
    }

    /// How a job ended; none while it has not.
    ///
    /// # Errors
    /// No good answer by the deadline.
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

    /// What the API says about a job.
    ///
    /// # Errors
    /// No good answer by the deadline.
    pub async fn job(&self, id: RequestId, deadline: Instant) -> Result<Job, RequestFailure> {
        let mut request = Request::new(Full::default());
        *request.uri_mut() = format!("{}/requests/{id}", self.base)
            .parse()
            .map_err(|error| RequestFailure::Connection(format!("{error}")))?;
        let body = self.send(request, StatusCode::OK, deadline).await?;
        serde_json::from_slice(&body)
            .map_err(|error| RequestFailure::WrongAnswer(format!("not a job: {error}")))
    }

    async fn send(
        &self,
        mut request: Request<Full<Bytes>>,
        good: StatusCode,
        deadline: Instant,
    ) -> Result<Bytes, RequestFailure> {
        let headers = request.headers_mut();
        headers.insert(HOST, self.host.clone());
        if let Some(authorization) = &self.authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        let exchange = async {
            let response = self.http.request(request).await.map_err(broken)?;
            read(response).await
        };
        let (status, body) = timeout_at(deadline, exchange)
            .await
            .map_err(|_| RequestFailure::Timeout)??;
        match status {
            status if status == good => Ok(body),
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
                Err(RequestFailure::Refused(status))
            }
            other => Err(RequestFailure::Status(other, words_of_problem(&body))),
        }
    }
}

async fn read(response: Response<Incoming>) -> Result<(StatusCode, Bytes), RequestFailure> {
    let (head, body) = response.into_parts();
    let body = Limited::new(body, MAX_ANSWER).collect().await;
    let body = body.map_err(|error| RequestFailure::Connection(error.to_string()))?;
    Ok((head.status, body.to_bytes()))
}

fn broken(error: hyper_util::client::legacy::Error) -> RequestFailure {
    RequestFailure::Connection(format!("{:#}", anyhow::Error::new(error)))
}

/// The whole problem, for its faults name the fields; shortened where it is long.
fn words_of_problem(body: &[u8]) -> String {
    const ENOUGH: usize = 400;
    String::from_utf8_lossy(body).chars().take(ENOUGH).collect()
}

async fn first_listening(url: &HttpUrl) -> Result<SocketAddr> {
    let (host, port) = (url.host().trim_matches(['[', ']']).to_owned(), url.port());
    let look_up = move || std::net::ToSocketAddrs::to_socket_addrs(&(host, port));
    let mut failure = None;
    for address in tokio::task::spawn_blocking(look_up).await?? {
        match timeout(FIRST_CONNECT, TcpStream::connect(address)).await {
            Ok(Ok(_)) => return Ok(address),
            Ok(Err(error)) => failure = Some(anyhow::Error::new(error)),
            Err(elapsed) => failure = Some(elapsed.into()),
        }
    }
    match failure {
        Some(error) => Err(error),
        None => bail!("the name has no address"),
    }
}

/// A job as `GET /requests/{id}` tells it.
#[derive(Clone, Debug, Deserialize)]
pub struct Job {
    /// Where it stands.
    pub status: Status,
    /// Why it failed, if it did.
    pub failure: Option<serde_json::Value>,
    result_payload: Option<Report>,
    created_at: Timestamp,
    completed_at: Option<Timestamp>,
}

impl Job {
    fn end(self) -> Result<Option<JobEnd>, &'static str> {
        match (self.status, self.result_payload, self.completed_at) {
            (Status::Completed, Some(report), Some(completed_at)) => {
                let took = completed_at.duration_since(self.created_at);
                Ok(Some(JobEnd::Completed {
                    report,
                    took: took.unsigned_abs(),
                }))
            }
            (Status::Completed, ..) => Err("a completed job without a report or a time"),
            (Status::Failed, ..) => Ok(Some(JobEnd::Failed)),
            (Status::Pending | Status::Processing, ..) => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::{Job, JobEnd};

    fn end(job: Value) -> Result<Option<JobEnd>, &'static str> {
        serde_json::from_value::<Job>(job).unwrap().end()
    }

    #[test]
    fn a_job_ends_with_its_report_or_with_its_failure() {
        let report = json!({"report_id": "3eebd0ea-44d7-531b-b660-ca91c206c5e6", "checksum": "a6"});
        let (from, to) = ("2026-01-01T00:00:00.000Z", "2026-01-01T00:00:00.510Z");
        let completed = json!({"status": "COMPLETED", "result_payload": report, "failure": null,
            "created_at": from, "completed_at": to});
        let Ok(Some(JobEnd::Completed { took, .. })) = end(completed) else {
            panic!("it ended")
        };
        assert_eq!(took, Duration::from_millis(510));

        let with_status = |status| json!({"status": status, "result_payload": null, "failure": null, "created_at": from, "completed_at": null});
        assert_eq!(end(with_status("FAILED")), Ok(Some(JobEnd::Failed)));
        assert_eq!(end(with_status("PROCESSING")), Ok(None));
        assert!(end(with_status("COMPLETED")).is_err());
    }
}
