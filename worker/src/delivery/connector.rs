//! The TCP connector that enforces the SSRF policy.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll},
};

use futures_util::future::BoxFuture;
use hyper::Uri;
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::time::{Instant, timeout};
use tower_service::Service;

use super::{
    error::Stage,
    network::Connect,
    permits::TenantPermits,
    race::{Race, RaceError},
    shortage::Shortage,
    socket::Socket,
    socket_limit::SocketLimit,
    ssrf::{Denial, SsrfFilter},
};

/// Opens TCP connections only to addresses that the SSRF policy allows.
///
/// One value serves one attempt's connection. The caller enforces `deadline`; the connector uses it
/// only to divide the remaining time: between the wait for a socket and the receiver, and among
/// several addresses.
#[derive(Clone)]
pub(super) struct SsrfConnector {
    /// Resolves the host and checks its addresses.
    pub(super) filter: SsrfFilter,
    /// Opens the connections.
    pub(super) sockets: Arc<dyn Connect>,
    /// Bounds how many are open.
    pub(super) limit: SocketLimit,
    /// When the caller times out.
    pub(super) deadline: Instant,
    /// The permits of the origin, one of which the attempt holds; `None`: not limited.
    pub(super) permits: Option<TenantPermits>,
    /// What the dial is doing.
    pub(super) progress: Progress,
}

/// Why the dial failed.
#[derive(Debug, Error)]
pub(super) enum DialError {
    #[error(transparent)]
    Denied(#[from] Denial),
    #[error(transparent)]
    Race(#[from] RaceError),
}

/// The current stage of a dial, read by the caller after a timeout.
#[derive(Clone, Default)]
pub(super) struct Progress(Arc<AtomicU8>);

/// A dial waits for a socket for one part in so many of its time, at most. The rest is the
/// receiver's: with less, it would fail for what this worker lacks.
const WAITING_PART: u32 = 4;

impl Progress {
    pub(super) fn stage(&self) -> Stage {
        // In bounds: `reach` stores nothing but discriminants. Relaxed: the value stands alone.
        Stage::ALL[usize::from(self.0.load(Ordering::Relaxed))]
    }

    fn reach(&self, stage: Stage) {
        self.0.store(stage as u8, Ordering::Relaxed);
    }
}

// Not hyper-util's `HttpConnector` with a resolver that checks: it never shows a literal address to
// its resolver.
impl Service<Uri> for SsrfConnector {
    type Response = TokioIo<Socket>;
    type Error = DialError;
    type Future = BoxFuture<'static, Result<Self::Response, DialError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), DialError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move { connector.connect(&uri).await })
    }
}

impl SsrfConnector {
    async fn connect(self, uri: &Uri) -> Result<TokioIo<Socket>, DialError> {
        // Resolve once, check every address, dial the checked addresses. A second look-up here
        // would allow DNS rebinding.
        let addresses = self.filter.resolve(uri).await.into_allowed()?;
        // Not before: a look-up that hangs should close no idle connection.
        let time = self.deadline.saturating_duration_since(Instant::now());
        let permit = timeout(time / WAITING_PART, self.limit.acquire())
            .await
            .map_err(|_elapsed| RaceError::Shortage(Shortage::Descriptors))?;
        self.progress.reach(Stage::Connect);
        let race = Race {
            sockets: self.sockets,
            limit: self.limit,
            deadline: self.deadline,
            permits: self.permits,
        };
        let stream = race.run(&addresses).await?;
        self.progress.reach(Stage::Tls);
        Ok(TokioIo::new(Socket::new(stream, permit)))
    }
}
