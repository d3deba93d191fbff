//! A new connection to a URL's origin.

use std::{error::Error, io::ErrorKind, sync::Arc};

use hyper_rustls::HttpsConnector;
use rustls::ClientConfig;
use storm_shared::models::CallbackUrl;
use tokio::time::{Instant, timeout_at};
use tower_service::Service;

use super::{
    connection::Connection,
    connector::{DialError, Progress, SsrfConnector},
    error::{AttemptError, ErrorDetail, TlsFailure},
    network::Connect,
    ssrf::{self, Denial, SsrfFilter},
};

/// Opens connections: TLS (for https) around the SSRF connector.
///
/// TLS wraps the connector, so SNI and certificate verification use the URL's host and not the
/// dialled address.
pub(super) struct Dialer {
    pub(super) filter: SsrfFilter,
    pub(super) sockets: Arc<dyn Connect>,
    pub(super) tls: Arc<ClientConfig>,
}

impl Dialer {
    /// Opens a connection to the origin of `url` before `deadline`.
    pub(super) async fn dial(
        &self,
        url: &CallbackUrl,
        deadline: Instant,
    ) -> Result<Connection, AttemptError> {
        let origin =
            ssrf::origin(url).map_err(|error| AttemptError::Connect(ErrorDetail::of(&error)))?;
        // One connector for each dial: the deadline and the progress are those of one attempt.
        let progress = Progress::default();
        let connector = SsrfConnector {
            filter: self.filter.clone(),
            sockets: Arc::clone(&self.sockets),
            deadline,
            progress: progress.clone(),
        };
        let mut connector = HttpsConnector::from((connector, Arc::clone(&self.tls)));
        let io = timeout_at(deadline, connector.call(origin))
            .await
            .map_err(|_| AttemptError::Timeout {
                stage: progress.stage(),
            })?
            .map_err(classify)?;
        Connection::open(url.origin(), io)
            .await
            .map_err(|error| AttemptError::Interrupted(ErrorDetail::of(&error)))
    }
}

/// The TLS connector passes a `DialError` through unchanged; every other error is its own.
fn classify(error: Box<dyn Error + Send + Sync>) -> AttemptError {
    match error.downcast::<DialError>().map(|error| *error) {
        Ok(DialError::Denied(Denial::Refused(refusal))) => AttemptError::Refused(refusal),
        Ok(DialError::Denied(Denial::Unresolved(error)))
            // The resolver had no free thread: our shortage, which must not cost the job an
            // attempt.
            if error.kind() == ErrorKind::ResourceBusy =>
        {
            AttemptError::LookupsBusy
        }
        Ok(DialError::Denied(error)) => AttemptError::Resolve(ErrorDetail::of(&error)),
        Ok(error @ DialError::Connect { .. }) => AttemptError::Connect(ErrorDetail::of(&error)),
        Err(error) => AttemptError::Tls {
            kind: TlsFailure::of(&*error),
            detail: ErrorDetail::of(&*error),
        },
    }
}
