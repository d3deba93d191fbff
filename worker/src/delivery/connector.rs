//! Where the guard stands: the place at which a TCP connection is made.

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

/// Opens TCP connections to addresses that the guard allows, and to no other.
///
/// Made for one dial, which may last until `deadline`. The deadline itself is the caller's to
/// keep; here it only divides the time among several addresses.
#[derive(Clone)]
pub(super) struct SsrfConnector {
    /// What judges where the URL leads.
    pub(super) filter: SsrfFilter,
    /// What opens the connections.
    pub(super) sockets: Arc<dyn Connect>,
    /// When the caller gives up.
    pub(super) deadline: Instant,
    /// How far the dial has come.
    pub(super) progress: Progress,
}

/// Why there is no connection.
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

/// How far a dial has come, for whoever cuts it off.
#[derive(Clone, Default)]
pub(super) struct Progress(Arc<AtomicU8>);

impl Progress {
    pub(super) fn stage(&self) -> Stage {
        Stage::ALL[usize::from(self.0.load(Ordering::Relaxed))]
    }

    fn reach(&self, stage: Stage) {
        self.0.store(stage as u8, Ordering::Relaxed);
    }
}

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
    /// The most addresses of one name that are dialled.
    const MAX_DIALLED: usize = 4;

    async fn connect(&self, uri: &Uri) -> Result<TokioIo<TcpStream>, DialError> {
        // Looked up once, judged once, and what was judged is what is dialled.
        let addresses = self.filter.examine(uri).await.verdict()?;
        self.progress.reach(Stage::Connect);
        let stream = self.dial(&addresses).await?;
        self.progress.reach(Stage::Tls);
        Ok(TokioIo::new(stream))
    }

    /// Dials `addresses` one after the other; each gets a fair share of the time that is left, so
    /// that a silent one leaves time for the next.
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

    /// Dials one address of `left` that are still to be tried.
    async fn dial_one(&self, address: SocketAddr, left: usize) -> io::Result<TcpStream> {
        let connecting = self.sockets.connect(address);
        let stream = if left > 1 {
            let now = Instant::now();
            let left = u32::try_from(left).unwrap_or(u32::MAX);
            let share = self.deadline.saturating_duration_since(now) / left;
            timeout_at(now + share, connecting).await??
        } else {
            connecting.await?
        };
        // A request is one small write: waiting to fill a packet would only delay it.
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}
