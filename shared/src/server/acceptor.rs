//! Accepts connections, in spite of errors.

use std::{
    io::{self, ErrorKind},
    time::Duration,
};

use rustix::io::Errno;
use tokio::{
    net::{TcpListener, TcpStream},
    task::yield_now,
    time::{Instant, sleep},
};
use tracing::{info, warn};

use super::ACCEPT_QUEUE;
use crate::outage::Outage;

/// The pause after a failed `accept`. Without it, the loop would spin while the process has no file
/// descriptor left.
const ERROR_PAUSE: Duration = Duration::from_millis(50);

/// The same while the listener closes, when the queue should be empty soon.
const CLOSE_PAUSE: Duration = Duration::from_millis(10);

/// How many connections the close accepts before it lets the others go on: answering them frees
/// their descriptors.
const CLOSE_BATCH: usize = 8;

/// A failure this long after the last one is a new outage. While descriptors run out again and
/// again, some connections are accepted in between, and the log would have a line for each.
const QUIET_PERIOD: Duration = Duration::from_secs(10);

/// The most connections that wait in the accept queue: `listen` allows one more.
const BACKLOG: usize = ACCEPT_QUEUE as usize + 1;

/// A listener, and whether it could accept the last connection.
pub(super) struct Acceptor {
    listener: TcpListener,
    outage: Outage,
}

impl Acceptor {
    pub(super) fn new(listener: TcpListener) -> Self {
        Self {
            listener,
            outage: Outage::with_quiet_period(QUIET_PERIOD),
        }
    }

    /// The next connection. Cancel-safe: a connection is accepted only when this returns it.
    pub(super) async fn next(&mut self) -> TcpStream {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    self.accepted();
                    return stream;
                }
                // The client has given up while it waited.
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    self.failed(&error);
                    sleep(ERROR_PAUSE).await;
                }
            }
        }
    }

    /// Closes the listener. The connections in the accept queue are passed to `serve` first:
    /// their clients are connected already and may have sent a request, and would see a reset.
    ///
    /// While the process lacks descriptors or memory, it waits for connections to end, for up to
    /// `patience` in all.
    pub(super) async fn close(self, patience: Duration, mut serve: impl FnMut(TcpStream)) {
        // Not tokio's `accept`, which knows of a connection only after epoll has reported it.
        let Ok(listener) = self.listener.into_std() else {
            return;
        };
        let deadline = Instant::now() + patience;
        let mut taken = 0;
        while taken < BACKLOG {
            match listener.accept() {
                Ok((stream, _)) => {
                    taken += 1;
                    if taken % CLOSE_BATCH == 0 {
                        yield_now().await;
                    }
                    if stream.set_nonblocking(true).is_ok()
                        && let Ok(stream) = TcpStream::from_std(stream)
                    {
                        serve(stream);
                    }
                }
                Err(error) if is_of_one_connection(&error) => taken += 1,
                Err(error) if is_shortage(&error) && Instant::now() < deadline => {
                    sleep(CLOSE_PAUSE).await;
                }
                // The listener is non-blocking: the queue is empty.
                Err(_) => return,
            }
        }
    }

    fn accepted(&mut self) {
        if self.outage.recovered() {
            info!("connections are accepted again");
        }
    }

    /// Lack of file descriptors or of memory. The listener itself stays usable.
    fn failed(&mut self, error: &io::Error) {
        if self.outage.failed() {
            warn!(%error, "connections cannot be accepted; they wait");
        }
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::Interrupted
    )
}

/// Lack of file descriptors or of memory, by accept(2).
fn is_shortage(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)
    )
}
