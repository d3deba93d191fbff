//! The two ways in which an attempt reaches the network: it looks names up, and it connects.

use std::{io, net::SocketAddr, sync::Arc};

use futures_util::future::BoxFuture;
use tokio::net::TcpStream;

use super::resolver::{Resolve, SystemResolver};

/// What opens TCP connections.
pub trait Connect: Send + Sync {
    /// A connection to `address`, and to nothing else.
    ///
    /// Not bounded in time: the caller's deadline is.
    fn connect(&self, address: SocketAddr) -> BoxFuture<'static, io::Result<TcpStream>>;
}

/// The system's own sockets.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemSockets;

impl Connect for SystemSockets {
    fn connect(&self, address: SocketAddr) -> BoxFuture<'static, io::Result<TcpStream>> {
        Box::pin(TcpStream::connect(address))
    }
}

/// The network as an attempt sees it; cheap to clone.
#[derive(Clone)]
pub struct Network {
    /// What looks names up.
    pub resolver: Arc<dyn Resolve>,
    /// What opens connections: every address that is ever dialled goes through it.
    pub sockets: Arc<dyn Connect>,
}

impl Network {
    /// The system's.
    pub fn system() -> Self {
        Self::with_resolver(Arc::new(SystemResolver::new()))
    }

    /// The system's, but for its names.
    pub fn with_resolver(resolver: Arc<dyn Resolve>) -> Self {
        Self {
            resolver,
            sockets: Arc::new(SystemSockets),
        }
    }
}
