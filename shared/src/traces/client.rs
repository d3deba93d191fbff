//! The HTTP client of the exporter.

use std::{
    error::Error,
    fmt, fs, mem,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::TokioExecutor,
};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message as _;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use thiserror::Error;
use tokio::{runtime::Handle, time::timeout};

use super::resolver::Resolver;

/// A longer answer is no collector's: a success has some bytes, and a failure a message.
const MAX_ANSWER: usize = 64 << 10;

/// Why there is no TLS.
#[derive(Debug, Error)]
pub enum TlsError {
    /// The built-in configuration is invalid.
    #[error("TLS: {0}")]
    Config(#[from] rustls::Error),
    /// The file with certificates of authorities is none.
    #[error("{name}={}: {problem}; expected a file of PEM certificates", .file.display())]
    Certificates {
        /// The variable that names it.
        name: &'static str,
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

/// A file with certificates of authorities, and the variable that names it.
pub(super) type Authorities = (&'static str, PathBuf);

/// Sends from the service's runtime, whatever thread asks. Clones share connections.
#[derive(Clone)]
pub(super) struct Client {
    http: legacy::Client<HttpsConnector<HttpConnector<Resolver>>, Full<Bytes>>,
    runtime: Handle,
    timeout: Duration,
    losses: Arc<Mutex<Losses>>,
}

/// What the collector has not taken of one export. The exporter does not pass it on.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Losses {
    /// The spans that it has rejected in its answer to the rest.
    pub(super) rejected: u64,
    /// Why it has not taken all.
    pub(super) error: Option<String>,
}

impl Losses {
    /// Of all spans.
    fn all(error: String) -> Self {
        Self {
            rejected: u64::MAX,
            error: Some(error),
        }
    }

    fn in_answer(answer: &Response<Bytes>) -> Self {
        if !answer.status().is_success() {
            return Self::all(format!("the collector answered {}", answer.status()));
        }
        let Ok(decoded) = ExportTraceServiceResponse::decode(answer.body().as_ref()) else {
            return Self::all("the answer is no collector's".to_owned());
        };
        let partial = decoded.partial_success.unwrap_or_default();
        match u64::try_from(partial.rejected_spans) {
            // A message without rejected spans is a warning.
            Err(_) | Ok(0) => Self::default(),
            Ok(rejected) => Self {
                rejected,
                error: Some(format!(
                    "the collector rejected spans: {}",
                    partial.error_message
                )),
            },
        }
    }
}

impl Client {
    /// A client that trusts Mozilla's roots and `authorities`. An exchange takes at most `timeout`.
    ///
    /// # Errors
    /// There is no TLS.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub(super) fn new(
        timeout: Duration,
        authorities: Option<&Authorities>,
    ) -> Result<Self, TlsError> {
        let mut roots: RootCertStore = webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect();
        if let Some((name, file)) = authorities {
            add_roots(file, &mut roots).map_err(|problem| TlsError::Certificates {
                name,
                file: file.clone(),
                problem,
            })?;
        }
        // The provider is named: a process-wide default could be another crate's choice.
        let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut tcp = HttpConnector::new_with_resolver(Resolver::default());
        tcp.enforce_http(false);
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        Ok(Self {
            // One export runs at a time.
            http: legacy::Client::builder(TokioExecutor::new())
                .pool_max_idle_per_host(1)
                .build(connector),
            runtime: Handle::current(),
            timeout,
            losses: Arc::default(),
        })
    }

    /// The losses since it was last asked, in the last exchange.
    pub(super) fn take_losses(&self) -> Losses {
        let losses = self.losses.lock();
        mem::take(&mut *losses.unwrap_or_else(PoisonError::into_inner))
    }

    async fn exchange(self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let exchange = async {
            let response = self.http.request(request.map(Full::new)).await?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, MAX_ANSWER).collect().await?.to_bytes();
            Ok(Response::from_parts(head, body))
        };
        let exchanged: Result<_, HttpError> = match timeout(self.timeout, exchange).await {
            Ok(exchanged) => exchanged,
            Err(_elapsed) => Err(format!("no answer within {:?}", self.timeout).into()),
        };
        let lost = match &exchanged {
            Ok(answer) => Losses::in_answer(answer),
            Err(error) => Losses::all(with_causes(error.as_ref())),
        };
        *self.losses.lock().unwrap_or_else(PoisonError::into_inner) = lost;
        exchanged
    }
}

/// Adds the certificates in `file`, at least one.
fn add_roots(file: &Path, roots: &mut RootCertStore) -> Result<(), String> {
    let pem = fs::read(file).map_err(|error| error.to_string())?;
    let known = roots.len();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| error.to_string())?;
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    if roots.len() == known {
        return Err("contains no certificate".to_owned());
    }
    Ok(())
}

/// hyper's errors leave their causes to be asked for.
fn with_causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

impl HttpClient for Client {
    fn send_bytes<'a, 'b>(
        &'a self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        // The thread of the exporter has no runtime.
        let exchange = self.runtime.spawn(self.clone().exchange(request));
        Box::pin(async move { exchange.await? })
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_http::{Bytes, Response};
    use opentelemetry_proto::tonic::collector::trace::v1::{
        ExportTracePartialSuccess, ExportTraceServiceResponse,
    };
    use prost::Message as _;

    use super::Losses;

    fn losses(status: u16, body: impl Into<Bytes>) -> Losses {
        let answer = Response::builder().status(status).body(body.into());
        Losses::in_answer(&answer.unwrap())
    }

    fn partial(rejected_spans: i64) -> Vec<u8> {
        let partial_success = Some(ExportTracePartialSuccess {
            rejected_spans,
            error_message: "too large".to_owned(),
        });
        ExportTraceServiceResponse { partial_success }.encode_to_vec()
    }

    #[test]
    fn an_answer_can_reject_some_spans_and_a_page_takes_none() {
        assert_eq!(losses(200, ""), Losses::default());
        assert_eq!(losses(200, partial(0)), Losses::default());
        let some = losses(200, partial(3));
        assert_eq!(some.rejected, 3);
        assert!(some.error.unwrap().contains("too large"));
        for (status, body) in [(200, "<html>welcome</html>"), (200, "{}"), (503, "")] {
            let all = losses(status, body);
            assert_eq!(all.rejected, u64::MAX);
            assert!(all.error.is_some());
        }
    }
}
