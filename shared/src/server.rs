//! The accept loop of every HTTP listener.
//!
//! warp's own server has no connection limit and no header timeout, and its graceful shutdown waits
//! without a limit. This one bounds all three, and a request's head. It serves any hyper service.
//! To serve a warp filter, wrap it: `TowerToHyperService::new(warp::service(filter))`.

mod linger;

use std::{
    borrow::Borrow,
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
    server::graceful::GracefulShutdown,
};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_io_timeout::TimeoutStream;
use tracing::{debug, info, warn};

use self::linger::Lingering;

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
    /// Time for a request's head, which includes idle time before it. Also the time for which a
    /// client may read nothing of a response, and for the rest of a refused head.
    pub header_timeout: Duration,
    /// Time for open connections to finish after the shutdown begins.
    pub drain_timeout: Duration,
    /// Whether a connection closes after its first response. The shutdown then does not wait for
    /// open connections and closes none of them, so a client that is still sending its request gets
    /// its response.
    pub one_request_per_connection: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            header_timeout: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(10),
            one_request_per_connection: false,
        }
    }
}

/// Connections over the limit that are being answered 503. Beyond these, a connection is closed
/// without an answer.
const MAX_REFUSALS: usize = 64;

/// Time for writing a refusal and for the client to close its side.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);

/// The problem type of the response to a connection over the limit.
pub(crate) const TOO_MANY_CONNECTIONS: &str = "urn:storm:problem:too-many-connections";

/// The response to a connection over the limit.
const REFUSAL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\
    content-type: application/problem+json\r\n\
    content-length: 154\r\n\
    retry-after: 1\r\n\
    connection: close\r\n\r\n\
    {\"type\":\"urn:storm:problem:too-many-connections\",\
    \"title\":\"Too many connections\",\"status\":503,\
    \"detail\":\"Close idle connections, or try again in a second.\"}";

/// The pause after a failed `accept`. Without it, the loop would spin while the process has no file
/// descriptor left.
const ACCEPT_ERROR_PAUSE: Duration = Duration::from_millis(50);

/// Listens on `addr`, the value of the setting `setting`.
///
/// # Errors
/// The address is in use or not one of this host. The error names the setting.
pub async fn bind(setting: &str, addr: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(addr).await.map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("{setting}={addr}: cannot listen on this address: {error}"),
        )
    })
}

/// Serves HTTP/1.1 on `listener` until `shutdown` completes. Then open requests may finish within
/// the drain timeout.
///
/// A listener that is passed by value is closed when the shutdown begins. One that is passed by
/// reference stays open, and the kernel keeps queueing connections for its next user.
pub async fn serve<S, B>(
    listener: impl Borrow<TcpListener>,
    service: S,
    limits: Limits,
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
        .max_header_size(MAX_HEAD)
        .keep_alive(!limits.one_request_per_connection);
    let connections = Arc::new(Semaphore::new(limits.connections));
    let refusals = Arc::new(Semaphore::new(MAX_REFUSALS));
    let graceful = GracefulShutdown::new();
    let mut shutdown = pin!(shutdown);

    loop {
        let accepted = tokio::select! {
            // `accept` is cancel-safe: no connection is lost to the other branch.
            accepted = listener.borrow().accept() => accepted,
            () = &mut shutdown => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                pause_after(&error).await;
                continue;
            }
        };
        // Waiting for a permit here would leave clients without an answer in the kernel's queue.
        let Ok(permit) = Arc::clone(&connections).try_acquire_owned() else {
            if let Ok(permit) = Arc::clone(&refusals).try_acquire_owned() {
                tokio::spawn(refuse(stream, permit));
            }
            continue;
        };
        let stream = configure(stream, limits.header_timeout);
        let connection = http.serve_connection(stream, service.clone());
        if limits.one_request_per_connection {
            // Not watched: a graceful shutdown closes a connection on which no byte has come yet,
            // and its client would get no response.
            tokio::spawn(drive(connection, permit));
        } else {
            tokio::spawn(drive(graceful.watch(connection), permit));
        }
    }

    // Before the drain: a new client is then refused at once and does not wait in the queue.
    drop(listener);
    let drained = tokio::time::timeout(limits.drain_timeout, graceful.shutdown());
    if drained.await.is_err() {
        warn!(after = ?limits.drain_timeout, "drain timeout: busy connections are closed");
    } else {
        info!("all connections closed");
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
async fn drive(connection: impl Future<Output = hyper::Result<()>>, slot: OwnedSemaphorePermit) {
    if let Err(error) = connection.await {
        debug!(%error, "a connection ended early");
    }
    drop(slot);
}

/// `accept` fails for one connection, which was reset, or for lack of file descriptors. The
/// listener itself stays usable.
async fn pause_after(error: &io::Error) {
    if matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
    ) {
        return;
    }
    warn!(%error, "a connection could not be accepted");
    tokio::time::sleep(ACCEPT_ERROR_PAUSE).await;
}

/// Answers a connection over the limit with 503, and then frees its slot.
async fn refuse(mut stream: TcpStream, slot: OwnedSemaphorePermit) {
    let refused = async {
        stream.write_all(REFUSAL).await?;
        stream.shutdown().await?;
        // Closing a socket with unread input resets the connection, and the client may then lose
        // the response. So read until the client closes.
        tokio::io::copy(&mut stream, &mut tokio::io::sink()).await
    };
    let _ = tokio::time::timeout(REFUSAL_TIMEOUT, refused).await;
    drop(slot);
}

#[cfg(test)]
mod tests {
    use super::{REFUSAL, TOO_MANY_CONNECTIONS};

    #[test]
    fn the_refusal_states_the_length_of_its_body() {
        let text = std::str::from_utf8(REFUSAL).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(
            head.contains(&format!("content-length: {}\r\n", body.len())),
            "{}",
            body.len()
        );
        let problem: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(problem["type"], TOO_MANY_CONNECTIONS);
    }
}
