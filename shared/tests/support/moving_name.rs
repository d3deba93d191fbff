//! An address that stands for a name whose target can move, as in a failover.

use std::net::SocketAddr;

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

/// Forwards each connection to the server that was the target when it was made. Open connections
/// stay with the old server when the target moves. Dropping it closes them.
pub(crate) struct MovingName {
    addr: SocketAddr,
    target: watch::Sender<u16>,
    _forwarding: JoinSet<()>,
}

#[allow(dead_code, reason = "not every test crate uses every method")]
impl MovingName {
    /// Leads to `port` on loopback.
    pub(crate) async fn of(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (target, now) = watch::channel(port);
        let mut forwarding = JoinSet::new();
        forwarding.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let port = *now.borrow();
                connections.spawn(forward(client, port));
            }
        });
        Self {
            addr,
            target,
            _forwarding: forwarding,
        }
    }

    /// Leads new connections to `port`.
    pub(crate) fn move_to(&self, port: u16) {
        self.target.send_replace(port);
    }

    /// The Redis URL of the name.
    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.addr)
    }
}

async fn forward(mut client: TcpStream, port: u16) {
    if let Ok(mut server) = TcpStream::connect(("127.0.0.1", port)).await {
        let _ = copy_bidirectional(&mut client, &mut server).await;
    }
}
