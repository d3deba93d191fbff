//! Read-only connections, so that a read never waits for a commit.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use rusqlite::Connection;
use tokio::sync::{Semaphore, TryAcquireError};
use tokio_util::sync::CancellationToken;

use super::trouble;
use crate::services::store::{StoreError, metrics::QueueLevel};

/// The number of concurrent reads. In WAL mode, readers and the writer don't block each other.
pub(super) const CONNECTIONS: usize = 2;

/// Reads that may be queued. A limit of our own, because the connections' channels are unbounded.
const QUEUE: usize = 1024;

/// What a long read weighs: more than all short ones that can be queued.
const LONG: usize = CONNECTIONS + QUEUE + 1;

/// A few connections. A read goes to the one that has the least to do.
pub(super) struct Readers {
    each: [Reader; CONNECTIONS],
    slots: Arc<Semaphore>,
    long_turn: Arc<Semaphore>,
    ended: CancellationToken,
}

struct Reader {
    connection: tokio_rusqlite::Connection,
    /// The number of its queued reads, of which a long one counts as [`LONG`].
    load: Arc<AtomicUsize>,
}

impl Readers {
    pub(super) fn start(connections: [Connection; CONNECTIONS]) -> Self {
        Self {
            each: connections.map(|connection| Reader {
                connection: connection.into(),
                load: Arc::default(),
            }),
            slots: Arc::new(Semaphore::new(CONNECTIONS + QUEUE)),
            long_turn: Arc::new(Semaphore::new(1)),
            ended: CancellationToken::new(),
        }
    }

    /// Runs one short query. It must return a bounded page: an open read blocks the WAL's
    /// checkpoint.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.run(1, read).await
    }

    /// Runs one query that examines many rows. One of these runs at a time, and no short one waits
    /// for it.
    pub(super) async fn read_long<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let turn = Arc::clone(&self.long_turn).acquire_owned().await;
        let turn = turn.map_err(|_| StoreError::Closed)?;
        let read = move |db: &Connection| {
            let _until_it_is_read = turn;
            read(db)
        };
        self.run(LONG, read).await
    }

    async fn run<T: Send + 'static>(
        &self,
        weight: usize,
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
        let reader = self.least_loaded();
        let load = Load::add(&reader.load, weight);
        let read = reader.connection.call(move |db| {
            // The queued read owns the slot. If the caller owned it, cancelled callers would free
            // slots while their reads still sat in the unbounded channel.
            let _held = (slot, load);
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

    fn least_loaded(&self) -> &Reader {
        let [first, others @ ..] = &self.each;
        // Relaxed, here and below: the counts order nothing else.
        let load = |reader: &&Reader| reader.load.load(Ordering::Relaxed);
        std::iter::once(first)
            .chain(others)
            .min_by_key(load)
            .unwrap_or(first)
    }

    /// How many reads wait or run, and how many may.
    pub(super) fn queue_level(&self) -> QueueLevel {
        let capacity = CONNECTIONS + QUEUE;
        QueueLevel {
            depth: capacity.saturating_sub(self.slots.available_permits()),
            capacity,
        }
    }

    /// Completes when a reader thread has ended unexpectedly.
    pub(super) async fn ended(&self) {
        self.ended.cancelled().await;
    }

    pub(super) async fn close(&self) {
        // First: from here on, reads fail as `Closed`. Those already queued still run.
        self.slots.close();
        for reader in &self.each {
            let _ = reader.connection.clone().close().await; // nothing was written through it
        }
    }
}

/// What a queued read adds to the load of its reader, until it is dropped.
struct Load {
    of: Arc<AtomicUsize>,
    weight: usize,
}

impl Load {
    fn add(of: &Arc<AtomicUsize>, weight: usize) -> Self {
        of.fetch_add(weight, Ordering::Relaxed);
        Self {
            of: Arc::clone(of),
            weight,
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.of.fetch_sub(self.weight, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use rusqlite::Connection;
    use tokio::sync::oneshot;

    use super::{Readers, StoreError};

    fn readers() -> Readers {
        Readers::start([(); 2].map(|()| Connection::open_in_memory().unwrap()))
    }

    #[tokio::test]
    async fn no_short_read_waits_for_a_long_one_and_long_ones_take_turns() {
        let readers = readers();
        let (begun, has_begun) = oneshot::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let long = readers.read_long(move |_| {
            begun.send(()).unwrap();
            ended.recv().unwrap();
            Ok(())
        });
        let short = async {
            has_begun.await.unwrap();
            for _ in 0..9 {
                readers.read(|_| Ok(())).await.unwrap();
            }
            let mut next = Box::pin(readers.read_long(|_| Ok(())));
            assert!((&mut next).now_or_never().is_none());
            readers.read(|_| Ok(())).await.unwrap();
            assert!((&mut next).now_or_never().is_none());
            end.send(()).unwrap();
            next.await.unwrap();
        };
        let (long, ()) = tokio::join!(long, short);
        long.unwrap();
    }

    #[tokio::test]
    async fn a_reader_thread_that_ends_is_reported() {
        let readers = readers();
        let result = readers.read(|_| -> rusqlite::Result<()> { panic!("expected by this test") });
        assert!(matches!(result.await, Err(StoreError::Closed)));
        readers.ended().await;
    }
}
