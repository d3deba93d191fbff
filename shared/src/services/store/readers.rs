//! Connections that only read, so that a look-up never waits for a commit.

use std::sync::atomic::{AtomicUsize, Ordering};

use rusqlite::Connection;
use tokio::sync::Semaphore;

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
    places: Semaphore,
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
            places: Semaphore::new(CONNECTIONS + WAITING),
        })
    }

    /// Runs one query. It must end with a page of results: an open read stops the log's checkpoint.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let _place = self
            .places
            .try_acquire()
            .map_err(|_| StoreError::QueueFull)?;
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % CONNECTIONS;
        Ok(self.connections[turn]
            .call(|db| read(db).map_err(StoreError::from))
            .await?)
    }

    pub(super) async fn close(&self) {
        self.places.close();
        for connection in &self.connections {
            let _ = connection.clone().close().await; // nothing was written through it
        }
    }
}
