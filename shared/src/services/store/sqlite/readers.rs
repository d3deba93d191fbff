//! Read-only connections, so that a read never waits for a commit.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use rusqlite::Connection;
use tokio::sync::{Semaphore, TryAcquireError};
use tokio_util::sync::CancellationToken;

use super::trouble;
use crate::services::store::StoreError;

/// The number of concurrent reads. In WAL mode, readers and the writer don't block each other.
pub(super) const CONNECTIONS: usize = 2;

/// Reads that may be queued. A limit of our own, because the connections' channels are unbounded.
const QUEUE: usize = 1024;

/// A few connections, used round-robin.
pub(super) struct Readers {
    connections: [tokio_rusqlite::Connection; CONNECTIONS],
    next: AtomicUsize,
    slots: Arc<Semaphore>,
    ended: CancellationToken,
}

impl Readers {
    pub(super) fn start(connections: [Connection; CONNECTIONS]) -> Self {
        Self {
            connections: connections.map(Into::into),
            next: AtomicUsize::new(0),
            slots: Arc::new(Semaphore::new(CONNECTIONS + QUEUE)),
            ended: CancellationToken::new(),
        }
    }

    /// Runs one query. It must return a bounded page: an open read blocks the WAL's checkpoint.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let slot = Arc::clone(&self.slots)
            .try_acquire_owned()
            .map_err(|error| match error {
                TryAcquireError::NoPermits => StoreError::QueueFull,
                TryAcquireError::Closed => StoreError::Closed,
            })?;
        // Dropped with this future, which tells the queued read that nobody waits for it any more.
        let caller = Arc::new(());
        let caller_alive = Arc::downgrade(&caller);
        // Relaxed: the counter orders nothing else.
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % CONNECTIONS;
        let read = self.connections[turn].call(move |db| {
            // The queued read owns the slot. If the caller owned it, cancelled callers would free
            // slots while their reads still sat in the unbounded channel.
            let _slot = slot;
            if caller_alive.strong_count() == 0 {
                return Err(StoreError::Closed);
            }
            read(db).map_err(|error| trouble::failed(&error))
        });
        let result = read.await;
        drop(caller);
        // `close` shuts the semaphore first, so a closed connection before that is a dead thread.
        if matches!(result, Err(tokio_rusqlite::Error::ConnectionClosed)) && !self.slots.is_closed()
        {
            tracing::error!("a database reader thread ended");
            self.ended.cancel();
        }
        result.map_err(trouble::call_failed)
    }

    /// Completes when a reader thread has ended unexpectedly.
    pub(super) async fn ended(&self) {
        self.ended.cancelled().await;
    }

    pub(super) async fn close(&self) {
        // First: from here on, reads fail as `Closed`. Those already queued still run.
        self.slots.close();
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
    async fn a_reader_thread_that_ends_is_reported() {
        let connections = [(); 2].map(|()| Connection::open_in_memory().unwrap());
        let readers = Readers::start(connections);
        let result = readers.read(|_| -> rusqlite::Result<()> { panic!("expected by this test") });
        assert!(matches!(result.await, Err(StoreError::Closed)));
        readers.ended().await;
    }
}
