//! Connections that only read, so that a look-up never waits for a commit.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use rusqlite::Connection;
use tokio::sync::{Semaphore, TryAcquireError};
use tokio_util::sync::CancellationToken;

use super::StoreError;

/// Two read at the same time; with WAL they disturb neither each other nor the writer.
pub(super) const CONNECTIONS: usize = 2;

/// Reads that may wait for a connection. The connections' own queues have no bound.
const WAITING: usize = 1024;

/// A few connections, taken in turn.
pub(super) struct Readers {
    connections: [tokio_rusqlite::Connection; CONNECTIONS],
    next: AtomicUsize,
    places: Arc<Semaphore>,
    ended: CancellationToken,
}

impl Readers {
    pub(super) fn start(connections: [Connection; CONNECTIONS]) -> Self {
        Self {
            connections: connections.map(Into::into),
            next: AtomicUsize::new(0),
            places: Arc::new(Semaphore::new(CONNECTIONS + WAITING)),
            ended: CancellationToken::new(),
        }
    }

    /// Runs one query. It must end with a page of results: an open read stops the log's checkpoint.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let place = Arc::clone(&self.places)
            .try_acquire_owned()
            .map_err(|error| match error {
                TryAcquireError::NoPermits => StoreError::QueueFull,
                TryAcquireError::Closed => StoreError::Closed,
            })?;
        let caller = Arc::new(());
        let waits = Arc::downgrade(&caller);
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % CONNECTIONS;
        let read = self.connections[turn].call(move |db| {
            // The place is the queued read's, not the caller's, who may go away before its turn.
            let _place = place;
            if waits.strong_count() == 0 {
                return Err(StoreError::Closed);
            }
            read(db).map_err(StoreError::from)
        });
        let result = read.await;
        drop(caller);
        if matches!(result, Err(tokio_rusqlite::Error::ConnectionClosed))
            && !self.places.is_closed()
        {
            tracing::error!("a thread that reads the database has ended");
            self.ended.cancel();
        }
        Ok(result?)
    }

    /// Completes when one of the connections' threads has ended by itself.
    pub(super) async fn ended(&self) {
        self.ended.cancelled().await;
    }

    pub(super) async fn close(&self) {
        self.places.close();
        for connection in &self.connections {
            let _ = connection.clone().close().await; // nothing was written through it
        }
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::{Readers, StoreError};

    #[tokio::test]
    async fn a_thread_that_dies_is_told_of() {
        let connections = [(); 2].map(|()| Connection::open_in_memory().unwrap());
        let readers = Readers::start(connections);
        let died = readers.read(|_| -> rusqlite::Result<()> { panic!("as this test wants") });
        assert!(matches!(died.await, Err(StoreError::Closed)));
        readers.ended().await;
    }
}
