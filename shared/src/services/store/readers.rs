//! Connections that only read, so that a look-up never waits for a commit.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use rusqlite::Connection;
use tokio::sync::{Semaphore, TryAcquireError};

use super::{StoreError, connection};
use crate::config::StoreSettings;

/// Two read at the same time; with WAL they disturb neither each other nor the writer.
const CONNECTIONS: usize = 2;

/// Reads that may wait for a connection. The connections' own queues have no bound.
const WAITING: usize = 1024;

/// A few connections, taken in turn.
pub(super) struct Readers {
    connections: [tokio_rusqlite::Connection; CONNECTIONS],
    next: AtomicUsize,
    places: Arc<Semaphore>,
}

impl Readers {
    pub(super) async fn open(settings: &StoreSettings) -> Result<Self, StoreError> {
        let path = settings.path.clone();
        let opened = tokio::task::spawn_blocking(move || {
            let one = connection::open_reader(&path)?;
            let other = connection::open_reader(&path)?;
            Ok::<_, StoreError>([one.into(), other.into()])
        });
        Ok(Self {
            connections: opened.await.map_err(|_| StoreError::Closed)??,
            next: AtomicUsize::new(0),
            places: Arc::new(Semaphore::new(CONNECTIONS + WAITING)),
        })
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
        Ok(result?)
    }

    pub(super) async fn close(&self) {
        self.places.close();
        for connection in &self.connections {
            let _ = connection.clone().close().await; // nothing was written through it
        }
    }
}
