//! The accept loop of the run's own servers.

use std::{convert::Infallible, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::sleep,
};

/// Pause after a failed `accept`, for example when file descriptors have run out.
const PAUSE: Duration = Duration::from_millis(10);

/// Serves each connection to `socket` by a future of `connection`. Dropping this aborts them all.
pub(super) async fn serve<F>(socket: TcpListener, connection: impl Fn(TcpStream) -> F) -> Infallible
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = socket.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(stream));
                }
                Err(_) => sleep(PAUSE).await,
            },
            // Without this the set would keep every connection that has ended.
            Some(_) = connections.join_next() => {}
        }
    }
}
