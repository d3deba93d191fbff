//! TCP keep-alive: an endpoint's host that is gone without a word is noticed.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use rustix::net::sockopt;
use tokio::net::TcpStream;

use crate::delivery::Connect;

/// The time without traffic before the first probe. Common NATs forget a connection after some five
/// minutes.
const IDLE: Duration = Duration::from_mins(1);
/// The time between probes.
const INTERVAL: Duration = Duration::from_secs(15);
/// The unanswered probes after which the connection is broken.
const PROBES: u32 = 4;

/// Sockets with TCP keep-alive. The work can take hours, and nothing passes meanwhile.
pub(super) struct KeepAlive(pub(super) Arc<dyn Connect>);

impl Connect for KeepAlive {
    fn connect(&self, address: SocketAddr) -> BoxFuture<'static, io::Result<TcpStream>> {
        let connecting = self.0.connect(address);
        Box::pin(async move {
            let stream = connecting.await?;
            sockopt::set_socket_keepalive(&stream, true)?;
            sockopt::set_tcp_keepidle(&stream, IDLE)?;
            sockopt::set_tcp_keepintvl(&stream, INTERVAL)?;
            sockopt::set_tcp_keepcnt(&stream, PROBES)?;
            Ok(stream)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, sync::Arc};

    use rustix::net::sockopt;

    use super::{IDLE, INTERVAL, KeepAlive, PROBES};
    use crate::delivery::{Connect as _, SystemSockets};

    #[tokio::test]
    async fn a_connection_without_traffic_is_probed() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let sockets = KeepAlive(Arc::new(SystemSockets));
        let connecting = sockets.connect(listener.local_addr().unwrap());
        let stream = connecting.await.unwrap();
        assert!(sockopt::socket_keepalive(&stream).unwrap());
        assert_eq!(sockopt::tcp_keepidle(&stream).unwrap(), IDLE);
        assert_eq!(sockopt::tcp_keepintvl(&stream).unwrap(), INTERVAL);
        assert_eq!(sockopt::tcp_keepcnt(&stream).unwrap(), PROBES);
    }
}
