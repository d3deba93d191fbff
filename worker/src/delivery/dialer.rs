//! A new connection to a URL's origin.

use std::{error::Error, sync::Arc};

use hyper_rustls::HttpsConnector;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use storm_shared::models::Origin;
use tokio::time::{Instant, timeout_at};
use tower_service::Service;

use super::{
    connection::Connection,
    connector::{DialError, Progress, SsrfConnector},
    detail::ErrorDetail,
    error::{AttemptError, Interruption},
    network::Connect,
    permits::TenantPermits,
    shortage::Shortage,
    socket_limit::SocketLimit,
    ssrf::{self, Denial, SsrfFilter},
    tls_failure::TlsFailure,
};

/// Opens connections: TLS (for https) around the SSRF connector.
///
/// TLS wraps the connector, so SNI and certificate verification use the URL's host and not the
/// dialled address.
pub(crate) struct Dialer {
    pub(crate) filter: SsrfFilter,
    pub(crate) sockets: Arc<dyn Connect>,
    pub(crate) limit: SocketLimit,
    pub(crate) tls: Arc<ClientConfig>,
}

impl Dialer {
    /// Opens a connection to `origin` before `deadline`. A second socket at a time needs
    /// one of `permits`, if there are any.
    pub(crate) async fn dial(
        &self,
        origin: &Origin,
        permits: Option<&TenantPermits>,
        deadline: Instant,
    ) -> Result<Connection, AttemptError> {
        let uri =
            ssrf::origin(origin).map_err(|error| AttemptError::Connect(ErrorDetail::of(&error)))?;
        // One connector for each dial: the deadline and the progress are those of one attempt.
        let progress = Progress::default();
        let connector = SsrfConnector {
            filter: self.filter.clone(),
            sockets: Arc::clone(&self.sockets),
            limit: self.limit.clone(),
            deadline,
            permits: permits.cloned(),
            progress: progress.clone(),
        };
        let mut connector = HttpsConnector::from((connector, Arc::clone(&self.tls)));
        let io = timeout_at(deadline, connector.call(uri))
            .await
            .map_err(|_| AttemptError::Timeout {
                stage: progress.stage(),
            })?
            .map_err(classify)?;
        Connection::open(origin, TokioIo::new(io))
            .await
            .map_err(|error| AttemptError::Interrupted {
                kind: Interruption::Closed,
                detail: ErrorDetail::of(&error),
            })
    }
}

/// The TLS connector passes a `DialError` through unchanged; every other error is its own.
fn classify(error: Box<dyn Error + Send + Sync>) -> AttemptError {
    if let Some(shortage) = Shortage::of(&*error) {
        return AttemptError::Shortage(shortage);
    }
    match error.downcast::<DialError>().map(|error| *error) {
        Ok(DialError::Denied(Denial::Refused(refusal))) => AttemptError::Refused(refusal),
        Ok(DialError::Denied(Denial::Unresolved(error))) => {
            AttemptError::Resolve(ErrorDetail::of(&error))
        }
        Ok(DialError::Race(error)) => AttemptError::Connect(ErrorDetail::of(&error)),
        Err(error) => AttemptError::Tls {
            established: false,
            kind: TlsFailure::of(&*error),
            detail: ErrorDetail::of(&*error),
        },
    }
}
