//! Where the guard stands: the place at which a TCP connection is made.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll},
};

use futures_util::future::BoxFuture;
use hyper::Uri;
use hyper_util::rt::TokioIo;
use storm_shared::services::guard::{Policy, Refusal, localhost_addresses};
use thiserror::Error;
use tokio::{
    net::TcpStream,
    time::{Instant, timeout_at},
};
use tower_service::Service;

use super::{error::Stage, resolver::Resolve};

/// Opens TCP connections to addresses that the policy allows, and to no other.
///
/// Made for one dial, which may last until `deadline`. The deadline itself is the caller's to
/// keep; here it only divides the time among several addresses.
#[derive(Clone)]
pub(super) struct GuardedConnector {
    /// What judges every address.
    pub(super) policy: Policy,
    /// What looks names up.
    pub(super) resolver: Arc<dyn Resolve>,
    /// When the caller gives up.
    pub(super) deadline: Instant,
    /// How far the dial has come.
    pub(super) progress: Progress,
}

/// Why there is no connection.
#[derive(Debug, Error)]
pub(super) enum DialError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("{0}")]
    Resolve(io::Error),
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

impl Service<Uri> for GuardedConnector {
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

impl GuardedConnector {
    /// The most addresses of one name that are dialled.
    const MAX_DIALLED: usize = 4;

    async fn connect(&self, uri: &Uri) -> Result<TokioIo<TcpStream>, DialError> {
        let https = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if https { 443 } else { 80 });
        let addresses = self
            .judged_addresses(uri.host().unwrap_or_default())
            .await?;
        self.progress.reach(Stage::Connect);
        let stream = self.dial(&addresses, port).await?;
        self.progress.reach(Stage::Tls);
        Ok(TokioIo::new(stream))
    }

    /// The addresses of `host`, every one of them judged: a single refused one refuses all.
    async fn judged_addresses(&self, host: &str) -> Result<Vec<IpAddr>, DialError> {
        let addresses = if let Some(literal) = literal(host) {
            vec![literal]
        } else if let Some(both) = localhost_addresses(host) {
            both.to_vec()
        } else {
            self.resolver
                .resolve(host)
                .await
                .map_err(DialError::Resolve)?
        };
        // What is judged is the canonical form, so that is what is dialled.
        let addresses: Vec<_> = addresses.iter().map(IpAddr::to_canonical).collect();
        for address in &addresses {
            self.policy.judge(*address)?;
        }
        Ok(addresses)
    }

    /// Dials `addresses` one after the other; each gets a fair share of the time that is left, so
    /// that a silent one leaves time for the next.
    async fn dial(&self, addresses: &[IpAddr], port: u16) -> Result<TcpStream, DialError> {
        let addresses = &addresses[..addresses.len().min(Self::MAX_DIALLED)];
        let mut failure = DialError::Resolve(io::Error::other("the name has no address"));
        for (index, address) in addresses.iter().enumerate() {
            let address = SocketAddr::new(*address, port);
            match self.dial_one(address, addresses.len() - index).await {
                Ok(stream) => return Ok(stream),
                Err(error) => failure = DialError::Connect { address, error },
            }
        }
        Err(failure)
    }

    /// Dials one address of `left` that are still to be tried.
    async fn dial_one(&self, address: SocketAddr, left: usize) -> io::Result<TcpStream> {
        let connecting = TcpStream::connect(address);
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

/// The address that `host` spells, in brackets or not.
fn literal(host: &str) -> Option<IpAddr> {
    let inner = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    inner.unwrap_or(host).parse().ok()
}
