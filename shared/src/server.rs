//! The accept loop of every HTTP listener.
//!
//! warp's own server has no connection limit and no header timeout, and its graceful shutdown waits
//! without a limit. This one bounds all three, and a request's head. It serves any hyper service.
//! To serve a warp filter, wrap it: `TowerToHyperService::new(warp::service(filter))`.

mod acceptor;
mod linger;
mod metrics;
mod refusal;

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use hyper::{
    Request, Response,
    body::{Body, Incoming},
    server::conn::http1,
    service::Service,
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulConnection,
};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::{Instant, timeout_at},
};
use tokio_io_timeout::TimeoutStream;
use tracing::{debug, info, warn};

use self::{acceptor::Acceptor, linger::Lingering, refusal::Refusals};

pub use self::metrics::ConnectionMetrics;
pub(crate) use self::refusal::TOO_MANY_CONNECTIONS;

type Connection = TokioIo<Lingering<Pin<Box<TimeoutStream<TcpStream>>>>>;

/// The largest head of a request, and the largest trailer section of its body, in bytes.
///
/// A head is buffered before anything is known about its client, so this bounds the memory that a
/// connection can take without a token. hyper's own bound is 400 KiB.
pub const MAX_HEAD: usize = 16 << 10;

/// The limits of one listener.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Open connections. One more is answered 503 and closed.
    pub connections: usize,
    /// Connections over that limit that are kept open at a time until their clients have read the
    /// 503. Past it, the oldest of them is closed.
    pub refusals: usize,
    /// Time for a request's head, which includes idle time before it. Also the time for which a
    /// client may read nothing of a response, and for the rest of a refused head.
    pub header_timeout: Duration,
    /// Time for open connections to finish after the shutdown begins.
    pub drain_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            refusals: MAX_REFUSALS,
            header_timeout: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(10),
        }
    }
}

/// The usual value of [`Limits::refusals`].
pub const MAX_REFUSALS: usize = 64;

/// How many connections wait in the kernel until they are accepted, at most `net.core.somaxconn`
/// (4096 by default). A client beyond them has to try again after a second, or sees a reset.
const ACCEPT_QUEUE: u32 = 4096;

/// At the shutdown, a connection stays open for this long after it was accepted. A new connection
/// brings a request within a moment, which must not meet a closed socket. Never longer than half of
/// the drain timeout.
const GRACE: Duration = Duration::from_secs(1);

/// Listens on `addr`, the value of the setting `setting`.
///
/// # Errors
/// The address is in use or not one of this host. The error names the setting.
pub fn bind(setting: &str, addr: SocketAddr) -> io::Result<TcpListener> {
    listen(addr).map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("{setting}={addr}: cannot listen on this address: {error}"),
        )
    })
}

/// Listens on `addr`, as [`TcpListener::bind`] does. But the accept queue of that has 128 places,
/// too few for a storm.
///
/// # Errors
/// The address is in use or not one of this host.
pub fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = match addr {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    // A restart must not wait until the connections of the last process have left the kernel.
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    socket.listen(ACCEPT_QUEUE)
}

/// Serves HTTP/1.1 on `listener` until `shutdown` completes, and counts the connections in
/// `metrics`. Then it accepts the connections that wait in the accept queue, closes the listener,
/// and lets open requests finish within the drain timeout.
pub async fn serve<S, B>(
    listener: TcpListener,
    service: S,
    limits: Limits,
    metrics: ConnectionMetrics,
    shutdown: impl Future<Output = ()>,
) where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send + 'static,
    B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
{
    let mut http = http1::Builder::new();
    // hyper panics if a header timeout has no timer.
    http.timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_buf_size(MAX_HEAD)
        .max_header_size(MAX_HEAD);
    let connections = Arc::new(Semaphore::new(limits.connections));
    metrics.open.watch(&connections, limits.connections);
    let mut refusals = Refusals::new(limits.refusals);
    let (closing, _) = watch::channel(());
    let grace = GRACE.min(limits.drain_timeout / 2);
    let watched = &closing;
    // By value: a reference to a service that is not `Sync` would make this future not `Send`.
    let mut admit = move |stream: TcpStream| {
        // Waiting for a permit here would leave clients without an answer in the accept queue.
        let Ok(permit) = Arc::clone(&connections).try_acquire_owned() else {
            metrics.refused.inc();
            return refusals.refuse(stream);
        };
        let stream = configure(stream, limits.header_timeout);
        let connection = http.serve_connection(stream, service.clone());
        tokio::spawn(drive(connection, watched.subscribe(), grace, permit));
    };
    let mut acceptor = Acceptor::new(listener);
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            // Cancel-safe: no connection is lost to the other branch.
            stream = acceptor.next() => admit(stream),
            () = &mut shutdown => break,
        }
    }

    let deadline = Instant::now() + limits.drain_timeout;
    // The open connections end first: where descriptors are few, those in the queue need theirs.
    closing.send_replace(());
    // Before the drain: a new client is then refused at once and does not wait in the queue.
    acceptor.close(grace, &mut admit).await;
    // To the connections of the queue, whose receivers have not seen the first.
    closing.send_replace(());
    // Each connection holds a receiver until it has ended.
    if timeout_at(deadline, closing.closed()).await.is_ok() {
        info!("all connections closed");
    } else {
        warn!(after = ?limits.drain_timeout, "drain timeout: busy connections are closed");
    }
}

/// Sets the options of an accepted connection.
fn configure(stream: TcpStream, client_timeout: Duration) -> Connection {
    // A response is one small write. Nagle's algorithm would only delay it.
    let _ = stream.set_nodelay(true);
    // Without a write timeout, a client that sends requests and never reads a response would keep
    // its connection open without a limit.
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(client_timeout));
    TokioIo::new(Lingering::new(Box::pin(stream), client_timeout))
}

/// Runs a connection to its end, and then frees its slot.
async fn drive(
    connection: impl GracefulConnection<Error = hyper::Error>,
    mut closing: watch::Receiver<()>,
    grace: Duration,
    slot: OwnedSemaphorePermit,
) {
    let fresh_until = Instant::now() + grace;
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        biased;
        ended = connection.as_mut() => ended,
        // The sender is dropped if nobody waits for the drain any more.
        _ = closing.changed() => finish(connection, fresh_until).await,
    };
    if let Err(error) = ended {
        debug!(%error, "a connection ended early");
    }
    drop(slot);
}

/// Lets the open request finish, and closes the connection. On a new connection it waits for the
/// first request, because hyper closes one on which no byte has come yet.
async fn finish(
    mut connection: Pin<&mut impl GracefulConnection<Error = hyper::Error>>,
    fresh_until: Instant,
) -> hyper::Result<()> {
    if let Ok(ended) = timeout_at(fresh_until, connection.as_mut()).await {
        return ended;
    }
    connection.as_mut().graceful_shutdown();
    connection.await
}
