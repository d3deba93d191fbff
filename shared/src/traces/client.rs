//! The HTTP client of the exporter.

use std::{
    error::Error,
    fmt, fs,
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
    last_error: Arc<Mutex<String>>,
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
            last_error: Arc::default(),
        })
    }

    /// Why the last exchange that failed did. The exporter does not pass it on.
    pub(super) fn last_error(&self) -> String {
        let last = self.last_error.lock();
        last.unwrap_or_else(PoisonError::into_inner).clone()
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
        let problem = match &exchanged {
            Ok(response) if response.status().is_success() => None,
            Ok(response) => Some(format!("the collector answered {}", response.status())),
            Err(error) => Some(with_causes(error.as_ref())),
        };
        if let Some(problem) = problem {
            let last = self.last_error.lock();
            *last.unwrap_or_else(PoisonError::into_inner) = problem;
        }
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
