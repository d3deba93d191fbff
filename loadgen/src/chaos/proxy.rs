//! A TCP proxy before Redis that can be told to be a bad network.

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

/// How the network is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// Everything passes.
    Well,
    /// Each chunk takes so long, in both directions.
    Delayed(Duration),
    /// Connections stay open, and what is sent is swallowed.
    HalfOpen,
    /// Every connection breaks, and new ones are refused.
    Cut,
}

/// How long the proxy waits before it tries again to listen, or to accept.
const PAUSE: Duration = Duration::from_millis(10);

const CHUNK: usize = 16 * 1024;

/// A proxy, until it is dropped.
#[derive(Debug)]
pub struct Proxy {
    addr: SocketAddr,
    network: watch::Sender<Network>,
    _serving: AbortOnDropHandle<()>,
}

impl Proxy {
    /// Forwards what comes to `addr` (port 0 takes a free one) to `upstream`.
    ///
    /// # Errors
    /// The address is taken.
    pub async fn start(addr: SocketAddr, upstream: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(addr)
            .await
            .with_context(|| format!("can't listen on {addr}"))?;
        let addr = listener.local_addr()?;
        let (network, state) = watch::channel(Network::Well);
        let serving = tokio::spawn(serve(listener, addr, upstream, state));
        Ok(Self {
            addr,
            network,
            _serving: AbortOnDropHandle::new(serving),
        })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Changes the network, for the connections that there are too.
    pub fn set(&self, network: Network) {
        self.network.send_replace(network);
    }
}

async fn serve(
    listener: TcpListener,
    addr: SocketAddr,
    upstream: SocketAddr,
    mut network: watch::Receiver<Network>,
) {
    let mut listener = Some(listener);
    loop {
        if is_cut(&network) {
            // Nobody listens: a new connection is refused by the kernel.
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

fn is_cut(network: &watch::Receiver<Network>) -> bool {
    *network.borrow() == Network::Cut
}

/// One connection, until either side ends it, the network is cut or the proxy is dropped.
async fn forward(client: TcpStream, upstream: SocketAddr, mut network: watch::Receiver<Network>) {
    let (to_server, to_client) = (network.clone(), network.clone());
    let connection = async {
        // Behind a half-open connection nobody notices what is at the other end.
        let Ok(server) = TcpStream::connect(upstream).await else {
            return;
        };
        // A delay is ours alone to make.
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let (from_client, into_client) = client.into_split();
        let (from_server, into_server) = server.into_split();
        tokio::select! {
            () = carry(from_client, into_server, to_server) => {}
            () = carry(from_server, into_client, to_client) => {}
        }
    };
    tokio::select! {
        () = connection => {}
        // Or there is no proxy any more.
        _ = network.wait_for(|network| *network == Network::Cut) => {}
    }
}

/// One direction, until it ends or breaks.
async fn carry(
    mut from: OwnedReadHalf,
    mut into: OwnedWriteHalf,
    network: watch::Receiver<Network>,
) {
    let mut chunk = vec![0; CHUNK];
    // What has lost a byte stays silent for good, also when the network is well again: its two ends
    // would talk past each other.
    let mut swallowed = false;
    while let Ok(length @ 1..) = from.read(&mut chunk).await {
        let network = *network.borrow();
        swallowed |= network == Network::HalfOpen;
        if swallowed {
            continue;
        }
        if let Network::Delayed(time) = network {
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

    use super::{Network, Proxy};

    /// What echoes everything, behind a proxy.
    async fn echo_behind_proxy() -> Proxy {
        let echo = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let upstream = echo.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = echo.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut into) = stream.split();
                    tokio::io::copy(&mut from, &mut into).await
                });
            }
        });
        Proxy::start(SocketAddr::from(([127, 0, 0, 1], 0)), upstream)
            .await
            .unwrap()
    }

    async fn echoed(stream: &mut TcpStream, text: &[u8]) -> bool {
        let mut answer = vec![0; text.len()];
        stream.write_all(text).await.is_ok()
            && stream.read_exact(&mut answer).await.is_ok()
            && answer == text
    }

    #[tokio::test]
    async fn a_network_that_is_well_carries_everything() {
        let proxy = echo_behind_proxy().await;
        let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
        assert!(echoed(&mut stream, b"one").await);
        assert!(echoed(&mut stream, &vec![7; 100_000]).await);
    }

    #[tokio::test]
    async fn a_cut_breaks_what_is_open_and_refuses_what_is_new_until_it_heals() {
        let proxy = echo_behind_proxy().await;
        let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
        assert!(echoed(&mut stream, b"one").await);
        proxy.set(Network::Cut);
        assert!(!echoed(&mut stream, b"two").await);
        // The one that was queued up at that moment may still open, and breaks.
        while let Ok(mut stream) = TcpStream::connect(proxy.addr()).await {
            assert!(!echoed(&mut stream, b"three").await);
        }
        proxy.set(Network::Well);
        let mut again = loop {
            if let Ok(stream) = TcpStream::connect(proxy.addr()).await {
                break stream;
            }
            tokio::task::yield_now().await;
        };
        assert!(echoed(&mut again, b"four").await);
    }

    #[tokio::test]
    async fn a_delay_is_taken_in_both_directions() {
        let proxy = echo_behind_proxy().await;
        let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
        proxy.set(Network::Delayed(Duration::from_millis(60)));
        let start = Instant::now();
        assert!(echoed(&mut stream, b"one").await);
        assert!(start.elapsed() >= Duration::from_millis(120));
    }

    #[tokio::test]
    async fn a_half_open_connection_takes_everything_and_answers_nothing_also_when_others_do_again()
    {
        let proxy = echo_behind_proxy().await;
        let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
        assert!(echoed(&mut stream, b"one").await);
        proxy.set(Network::HalfOpen);
        stream.write_all(b"two").await.unwrap();
        let mut another = TcpStream::connect(proxy.addr()).await.unwrap();
        another.write_all(b"two").await.unwrap();
        let silence = Duration::from_millis(100);
        let mut byte = [0];
        for stream in [&mut stream, &mut another] {
            let read = tokio::time::timeout(silence, stream.read_exact(&mut byte));
            assert!(read.await.is_err(), "neither an answer nor an end");
        }

        proxy.set(Network::Well);
        stream.write_all(b"three").await.unwrap();
        let read = tokio::time::timeout(silence, stream.read_exact(&mut byte));
        assert!(read.await.is_err(), "it has lost bytes, and stays silent");
        let mut fresh = TcpStream::connect(proxy.addr()).await.unwrap();
        assert!(echoed(&mut fresh, b"four").await);
    }
}
