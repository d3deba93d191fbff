//! The accept loop behind every listener of ours.
//!
//! warp's own server has no limit on connections, no timeout for headers, and a graceful shutdown
//! that waits for ever; this one has all three bounds. It serves any hyper service; a warp filter
//! becomes one by `TowerToHyperService::new(warp::service(filter))`.

use std::{
    borrow::Borrow, convert::Infallible, io, net::SocketAddr, pin::pin, sync::Arc, time::Duration,
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

/// The bounds of one listener.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections open at a time; one more is answered 503 and closed.
    pub connections: usize,
    /// How long a connection may take for a request's head or idle before it, and how long a client
    /// may read nothing of an answer.
    pub header_timeout: Duration,
    /// How long open connections may take to finish after the shutdown.
    pub drain_timeout: Duration,
    /// Whether a connection ends with its first answer. The shutdown then leaves those that are open to
    /// themselves: none of them is closed on a client whose request is still on its way.
    pub one_answer_each: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            header_timeout: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(10),
            one_answer_each: false,
        }
    }
}

/// Connections over the limit that are being told so; past these, one is closed without a word.
const REFUSALS_AT_ONCE: usize = 64;

/// The problem's type in what a connection over the limit hears.
pub(crate) const TOO_MANY_CONNECTIONS: &str = "urn:storm:problem:too-many-connections";

/// What it hears.
const REFUSAL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\
    content-type: application/problem+json\r\n\
    content-length: 154\r\n\
    retry-after: 1\r\n\
    connection: close\r\n\r\n\
    {\"type\":\"urn:storm:problem:too-many-connections\",\"title\":\"Too many connections\",\"status\":503,\
    \"detail\":\"Close idle connections, or try again in a second.\"}";

/// How long the kernel gets to free a descriptor when the process has none left for `accept`.
const PAUSE_AFTER_ACCEPT_ERROR: Duration = Duration::from_millis(50);

/// Listens on `addr`, which the setting called `setting` names.
///
/// # Errors
/// The address is taken, or not this machine's; the error names the setting.
pub async fn bind(setting: &str, addr: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(addr).await.map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("{setting}={addr}: can't listen there: {error}"),
        )
    })
}

/// Serves HTTP/1.1 on `listener` until `shutdown` completes, then lets open requests finish within
/// the limit's drain timeout. A listener that is given is closed then, one that is lent is not.
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
    http.timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .keep_alive(!limits.one_answer_each);
    let connections = Arc::new(Semaphore::new(limits.connections));
    let refusals = Arc::new(Semaphore::new(REFUSALS_AT_ONCE));
    let graceful = GracefulShutdown::new();
    let mut shutdown = pin!(shutdown);

    loop {
        let accepted = tokio::select! {
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
        let Ok(permit) = Arc::clone(&connections).try_acquire_owned() else {
            if let Ok(permit) = Arc::clone(&refusals).try_acquire_owned() {
                tokio::spawn(async move {
                    refuse(stream).await;
                    drop(permit);
                });
            }
            continue;
        };
        // An answer is one small write: waiting to fill a packet would only delay it.
        let _ = stream.set_nodelay(true);
        // A client that sends requests and reads no answers would hold its connection for ever.
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(limits.header_timeout));
        let stream = TokioIo::new(Box::pin(stream));
        let connection = http.serve_connection(stream, service.clone());
        if limits.one_answer_each {
            tokio::spawn(see_through(connection, permit));
        } else {
            tokio::spawn(see_through(graceful.watch(connection), permit));
        }
    }

    drop(listener);
    if tokio::time::timeout(limits.drain_timeout, graceful.shutdown())
        .await
        .is_err()
    {
        warn!(after = ?limits.drain_timeout, "connections were still busy and are cut");
    } else {
        info!("every connection ended");
    }
}

/// Sees a connection to its end; `permit` is its place.
async fn see_through(
    connection: impl Future<Output = hyper::Result<()>>,
    permit: OwnedSemaphorePermit,
) {
    if let Err(error) = connection.await {
        debug!(%error, "a connection ended early");
    }
    drop(permit);
}

/// `accept` fails for one connection (it was reset) or for lack of descriptors, never for good.
async fn pause_after(error: &io::Error) {
    if matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
    ) {
        return;
    }
    warn!(%error, "a connection could not be accepted");
    tokio::time::sleep(PAUSE_AFTER_ACCEPT_ERROR).await;
}

async fn refuse(mut stream: TcpStream) {
    let told = async {
        stream.write_all(REFUSAL).await?;
        stream.shutdown().await?;
        // A connection that is closed on a client in the middle of sending is reset, and the client
        // may never see why.
        tokio::io::copy(&mut stream, &mut tokio::io::sink()).await
    };
    let _ = tokio::time::timeout(Duration::from_secs(1), told).await;
}

#[cfg(test)]
mod tests {
    use super::{REFUSAL, TOO_MANY_CONNECTIONS};

    #[test]
    fn the_refusals_length_is_its_bodys() {
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
