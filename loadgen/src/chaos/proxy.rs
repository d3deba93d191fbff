//! A TCP proxy in front of Redis that injects network faults.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    time::sleep,
};
use tokio_util::task::AbortOnDropHandle;

/// The state of the simulated network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyMode {
    /// All traffic is forwarded.
    Normal,
    /// Each chunk is delayed by this much, in both directions.
    Delayed(Duration),
    /// Connections stay open, and all data is dropped.
    HalfOpen,
    /// All connections break, and new ones are refused.
    Cut,
}

/// Pause before another try to listen or to accept.
const PAUSE: Duration = Duration::from_millis(10);

const CHUNK: usize = 16 * 1024;

/// A running proxy. Dropping it stops it.
#[derive(Debug)]
pub struct Proxy {
    addr: SocketAddr,
    network: watch::Sender<ProxyMode>,
    upstream: watch::Sender<SocketAddr>,
    _serving: AbortOnDropHandle<()>,
}

impl Proxy {
    /// Forwards connections to `addr` (port 0: a free port) to `upstream`.
    ///
    /// # Errors
    /// The address is in use.
    pub async fn start(addr: SocketAddr, upstream: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(addr)
            .await
            .with_context(|| format!("can't listen on {addr}"))?;
        let addr = listener.local_addr()?;
        let (network, state) = watch::channel(ProxyMode::Normal);
        let (upstream, target) = watch::channel(upstream);
        let serving = tokio::spawn(serve(listener, addr, target, state));
        Ok(Self {
            addr,
            network,
            upstream,
            _serving: AbortOnDropHandle::new(serving),
        })
    }

    /// The address that it listens on.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Changes the network for new and existing connections.
    pub fn set(&self, network: ProxyMode) {
        self.network.send_replace(network);
    }

    /// Forwards new connections to another server, as when a name has moved. Existing ones stay.
    pub fn redirect(&self, upstream: SocketAddr) {
        self.upstream.send_replace(upstream);
    }
}

async fn serve(
    listener: TcpListener,
    addr: SocketAddr,
    upstream: watch::Receiver<SocketAddr>,
    mut network: watch::Receiver<ProxyMode>,
) {
    let mut listener = Some(listener);
    loop {
        if is_cut(&network) {
            // Without a listener the kernel refuses new connections.
            listener = None;
            if network.changed().await.is_err() {
                return;
            }
            continue;
        }
        let Some(listening) = &listener else {
            listener = TcpListener::bind(addr).await.ok();
            if listener.is_none() {
                sleep(PAUSE).await;
            }
            continue;
        };
        tokio::select! {
            accepted = listening.accept() => match accepted {
                Ok((client, _)) => {
                    let upstream = *upstream.borrow();
                    tokio::spawn(forward(client, upstream, network.clone()));
                }
                Err(_) => sleep(PAUSE).await,
            },
            changed = network.changed() => if changed.is_err() {
                return;
            },
        }
    }
}

fn is_cut(network: &watch::Receiver<ProxyMode>) -> bool {
    *network.borrow() == ProxyMode::Cut
}

/// Forwards one connection until either side closes it, the network is cut or the proxy is dropped.
async fn forward(client: TcpStream, upstream: SocketAddr, mut network: watch::Receiver<ProxyMode>) {
    let (to_server, to_client) = (network.clone(), network.clone());
    let connection = async {
        // A failed upstream connection closes the client's connection.
        let Ok(server) = TcpStream::connect(upstream).await else {
            return;
        };
        // No Nagle delay in addition to the injected one.
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let (from_client, into_client) = client.into_split();
        let (from_server, into_server) = server.into_split();
        tokio::select! {
            () = forward_one_way(from_client, into_server, to_server) => {}
            () = forward_one_way(from_server, into_client, to_client) => {}
        }
    };
    tokio::select! {
        () = connection => {}
        // Resolves with an error, too, when the proxy is dropped.
        _ = network.wait_for(|network| *network == ProxyMode::Cut) => {}
    }
}

/// Forwards one direction until it ends or breaks.
async fn forward_one_way(
    mut from: OwnedReadHalf,
    mut into: OwnedWriteHalf,
    network: watch::Receiver<ProxyMode>,
) {
    let mut chunk = vec![0; CHUNK];
    // A connection that has lost data stays silent even after the network heals: forwarding the
    // rest would desynchronise the two ends' protocol.
    let mut swallowed = false;
    while let Ok(length @ 1..) = from.read(&mut chunk).await {
        // Copied: a borrow that is held across an await would block `Proxy::set`.
        let network = *network.borrow();
        swallowed |= network == ProxyMode::HalfOpen;
        if swallowed {
            continue;
        }
        if let ProxyMode::Delayed(time) = network {
            sleep(time).await;
        }
        if into.write_all(&chunk[..length]).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{net::SocketAddr, time::Duration};

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, TcpStream},
        time::Instant,
    };

    use super::{Proxy, ProxyMode};

    async fn echo_server() -> SocketAddr {
        let echo = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = echo.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = echo.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut into) = stream.split();
                    tokio::io::copy(&mut from, &mut into).await
                });
            }
        });
        addr
    }

    /// An echo server behind a proxy.
    async fn echo_behind_proxy() -> Proxy {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        Proxy::start(any, echo_server().await).await.unwrap()
    }

    async fn echoed(stream: &mut TcpStream, text: &[u8]) -> bool {
        let mut answer = vec![0; text.len()];
        stream.write_all(text).await.is_ok()
            && stream.read_exact(&mut answer).await.is_ok()
            && answer == text
    }

    #[tokio::test]
    async fn a_normal_network_forwards_everything() {
        let proxy = echo_behind_proxy().await;
        let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
        assert!(echoed(&mut stream, b"one").await);
        assert!(echoed(&mut stream, &vec![7; 100_000]).await);
    }

    #[tokio::test]
    async fn redirection_concerns_new_connections_only() {
        let proxy = echo_behind_proxy().await;
        let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
        assert!(echoed(&mut stream, b"one").await);
        let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
        proxy.redirect(other.local_addr().unwrap());
        let _new = TcpStream::connect(proxy.addr()).await.unwrap();
        other.accept().await.unwrap();
        assert!(echoed(&mut stream, b"two").await);
    }

    #[tokio::test]
    async fn a_cut_breaks_open_connections_and_refuses_new_ones_until_it_heals() {
        let proxy = echo_behind_proxy().await;
        let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
        assert!(echoed(&mut stream, b"one").await);
        proxy.set(ProxyMode::Cut);
        assert!(!echoed(&mut stream, b"two").await);
        // A connection in the accept queue may still open; it then breaks.
        while let Ok(mut stream) = TcpStream::connect(proxy.addr()).await {
            assert!(!echoed(&mut stream, b"three").await);
        }
        proxy.set(ProxyMode::Normal);
        let mut again = loop {
            if let Ok(stream) = TcpStream::connect(proxy.addr()).await {
                break stream;
            }
            tokio::task::yield_now().await;
        };
        assert!(echoed(&mut again, b"four").await);
    }

    #[tokio::test]
    async fn a_delay_applies_to_both_directions() {
        let proxy = echo_behind_proxy().await;
        let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
        proxy.set(ProxyMode::Delayed(Duration::from_millis(60)));
        let start = Instant::now();
        assert!(echoed(&mut stream, b"one").await);
        assert!(start.elapsed() >= Duration::from_millis(120));
    }

    #[tokio::test]
    async fn a_half_open_connection_drops_all_data_even_after_the_network_heals() {
        let proxy = echo_behind_proxy().await;
        let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
        assert!(echoed(&mut stream, b"one").await);
        proxy.set(ProxyMode::HalfOpen);
        stream.write_all(b"two").await.unwrap();
        let mut another = TcpStream::connect(proxy.addr()).await.unwrap();
        another.write_all(b"two").await.unwrap();
        let silence = Duration::from_millis(100);
        let mut byte = [0];
        for stream in [&mut stream, &mut another] {
            let read = tokio::time::timeout(silence, stream.read_exact(&mut byte));
            assert!(read.await.is_err(), "neither a response nor a close");
        }

        proxy.set(ProxyMode::Normal);
        stream.write_all(b"three").await.unwrap();
        let read = tokio::time::timeout(silence, stream.read_exact(&mut byte));
        assert!(
            read.await.is_err(),
            "a connection that lost data stays silent"
        );
        let mut fresh = TcpStream::connect(proxy.addr()).await.unwrap();
        assert!(echoed(&mut fresh, b"four").await);
    }
}
