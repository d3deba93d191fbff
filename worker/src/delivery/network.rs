//! Access to the network: name look-ups and TCP connections.

use std::{io, net::SocketAddr, sync::Arc};

use futures_util::future::BoxFuture;
use tokio::net::TcpStream;

use super::{
    resolver::{Resolve, SystemResolver},
    socket_limit::SocketLimit,
};

/// Opens TCP connections.
pub trait Connect: Send + Sync {
    /// Connects to exactly `address`.
    ///
    /// Has no timeout of its own; the caller applies the deadline.
    fn connect(&self, address: SocketAddr) -> BoxFuture<'static, io::Result<TcpStream>>;
}

/// The operating system's sockets.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemSockets;

impl Connect for SystemSockets {
    fn connect(&self, address: SocketAddr) -> BoxFuture<'static, io::Result<TcpStream>> {
        Box::pin(TcpStream::connect(address))
    }
}

/// The network of an attempt. Cheap to clone.
#[derive(Clone)]
pub struct Network {
    /// Resolves names.
    pub resolver: Arc<dyn Resolve>,
    /// Opens connections. Every dialled address passes through it.
    pub sockets: Arc<dyn Connect>,
    /// Bounds how many are open.
    pub limit: SocketLimit,
}

impl Network {
    /// The operating system's resolver and sockets, as many as it allows.
    pub fn system() -> Self {
        Self::with_resolver(Arc::new(SystemResolver::new()))
    }

    /// The operating system's sockets with another resolver.
    pub fn with_resolver(resolver: Arc<dyn Resolve>) -> Self {
        Self {
            resolver,
            sockets: Arc::new(SystemSockets),
            limit: SocketLimit::none(),
        }
    }

    /// The same network with `limit`, for its sockets and those of others.
    pub fn within(self, limit: &SocketLimit) -> Self {
        Self {
            limit: limit.clone(),
            ..self
        }
    }
}
