//! The TCP connector that enforces the SSRF policy.

use std::{
    io,
    net::SocketAddr,
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
use tokio::{
    net::TcpStream,
    time::{Instant, timeout_at},
};
use tower_service::Service;

use super::{
    error::Stage,
    network::Connect,
    ssrf::{Denial, SsrfFilter},
};

/// Opens TCP connections only to addresses that the SSRF policy allows.
///
/// One value serves one dial. The caller enforces `deadline`; the connector uses it only to divide
/// the remaining time among several addresses.
#[derive(Clone)]
pub(super) struct SsrfConnector {
    /// Resolves the host and checks its addresses.
    pub(super) filter: SsrfFilter,
    /// Opens the connections.
    pub(super) sockets: Arc<dyn Connect>,
    /// When the caller times out.
    pub(super) deadline: Instant,
    /// The current stage of the dial.
    pub(super) progress: Progress,
}

/// Why the dial failed.
#[derive(Debug, Error)]
pub(super) enum DialError {
    #[error(transparent)]
    Denied(#[from] Denial),
    #[error("{address}: {error}")]
    Connect {
        address: SocketAddr,
        error: io::Error,
    },
}

/// The current stage of a dial, read by the caller after a timeout.
#[derive(Clone, Default)]
pub(super) struct Progress(Arc<AtomicU8>);

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
    type Response = TokioIo<TcpStream>;
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
    /// The most addresses of one name to dial.
    const MAX_DIALLED: usize = 4;

    async fn connect(&self, uri: &Uri) -> Result<TokioIo<TcpStream>, DialError> {
        // Resolve once, check every address, dial the checked addresses. A second look-up here
        // would allow DNS rebinding.
        let addresses = self.filter.resolve(uri).await.into_allowed()?;
        self.progress.reach(Stage::Connect);
        let stream = self.dial(&addresses).await?;
        self.progress.reach(Stage::Tls);
        Ok(TokioIo::new(stream))
    }

    /// Dials `addresses` one after the other; each gets an equal share of the remaining time, so
    /// an unresponsive address leaves time for the next. (Sequential, without the overlap of Happy
    /// Eyeballs.)
    async fn dial(&self, addresses: &[SocketAddr]) -> Result<TcpStream, DialError> {
        let addresses = &addresses[..addresses.len().min(Self::MAX_DIALLED)];
        let none = io::Error::other("the name has no address");
        let mut failure = DialError::Denied(Denial::Unresolved(none));
        for (index, address) in addresses.iter().copied().enumerate() {
            match self.dial_one(address, addresses.len() - index).await {
                Ok(stream) => return Ok(stream),
                Err(error) => failure = DialError::Connect { address, error },
            }
        }
        Err(failure)
    }

    /// Dials one address. `left` counts the addresses still to try, this one included.
    async fn dial_one(&self, address: SocketAddr, left: usize) -> io::Result<TcpStream> {
        let connecting = self.sockets.connect(address);
        let stream = if left > 1 {
            let now = Instant::now();
            let left = u32::try_from(left).unwrap_or(u32::MAX);
            let share = self.deadline.saturating_duration_since(now) / left;
            timeout_at(now + share, connecting).await??
        } else {
            // The last one has the rest of the time: the caller's deadline ends it.
            connecting.await?
        };
        // A request is one small write, which Nagle's algorithm would only delay.
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}
