//! The embedded engine: `SQLite` in WAL mode, on a local disk of one host.
//!
//! Each process has one writer, which commits all queued writes in one transaction (group commit,
//! `writer`) and syncs the log (`durability`), and a few read-only connections (`readers`).
//! `verbs/` says which of them runs each verb; the other files hold the SQL.

mod accept;
mod attempts;
mod audit;
pub(super) mod backup;
mod bodies;
mod breakers;
mod bulk;
mod cancel;
mod checkpoint;
mod claim;
mod clock;
mod columns;
mod connection;
mod durability;
mod erase;
mod events;
mod files;
mod find;
mod handlers;
mod health;
mod idempotency;
mod lanes;
mod lease;
mod list;
mod load;
mod look;
mod moved;
#[cfg(feature = "postgres")]
pub(super) mod moving;
mod oldest_due;
mod open;
mod overview;
mod pause;
mod private;
mod progress;
mod readers;
mod redelivery;
mod retention;
mod schema;
mod settle;
mod sizes;
mod state;
mod stats;
mod suspects;
mod trouble;
mod unpark;
pub(super) mod vacuum;
mod verbs;
mod writer;

use std::{path::PathBuf, sync::Arc, time::Duration};

use rusqlite::Connection;
use tokio::sync::Semaphore;

use self::{
    clock::{Clock, StoreTime},
    connection::{Opened, Opener},
    look::Turn,
    readers::Readers,
    writer::Writer,
};
use super::{
    StoreError, Trouble,
    metrics::{Connections, Measures, OwnGauge, QueueLevel},
    recent::Recent,
};
use crate::config::{SqliteSettings, StoreSettings};

/// The file descriptors of an open database: the file and its write-ahead log for the writer and
/// each reader, the log that is synced, their shared memory, and, for moments, a folder that is
/// synced and a file that is inspected or copied.
pub(super) const DESCRIPTORS: usize = 2 * (1 + readers::CONNECTIONS) + 2 + 2;

/// The threads of an open database: one for each connection.
pub(super) const THREADS: usize = 1 + readers::CONNECTIONS;

/// The most pages of lists that wait to be read, with the one that is read. Each takes some 20 ms
/// at most.
const LIST_QUEUE: usize = 64;

/// The same for pages of operators' actions, which clients' lists do not crowd out.
const SELECTION_QUEUE: usize = 16;

/// An open database.
pub(super) struct Sqlite {
    path: PathBuf,
    id: String,
    clock: Arc<Clock>,
    turn: Arc<Turn>,
    list_queue: Semaphore,
    selection_queue: Semaphore,
    operator_patience: Duration,
    writer: Writer,
    readers: Readers,
    recent_read: Recent,
    recent_write: Recent,
    idempotency_window: Duration,
}

impl Sqlite {
    pub(super) async fn open(
        sqlite: &SqliteSettings,
        settings: &StoreSettings,
    ) -> Result<Self, StoreError> {
        Ok(Self::start(open::open(sqlite).await?, sqlite, settings))
    }

    fn start(opened: Opened, sqlite: &SqliteSettings, settings: &StoreSettings) -> Self {
        let clock = Arc::new(opened.clock);
        let writer = Writer::start(
            opened.writer.into(),
            opened.files,
            Arc::clone(&clock),
            opened.durability,
            settings.write_queue,
        );
        writer.measures().measured(opened.sizes);
        if opened.opener == Opener::Service {
            // A process before this one may have ended before it truncated the log. One truncation
            // after each start is cheap.
            writer.erases()();
        }
        Self {
            path: sqlite.path.clone(),
            id: opened.id,
            writer,
            clock,
            turn: Arc::default(),
            list_queue: Semaphore::new(LIST_QUEUE),
            selection_queue: Semaphore::new(SELECTION_QUEUE),
            operator_patience: settings.operator_patience,
            readers: Readers::start(opened.readers),
            recent_read: Recent::with_period(Duration::ZERO),
            recent_write: Recent::with_period(Duration::from_secs(1)),
            idempotency_window: settings.idempotency_window,
        }
    }

    /// `act` with the store time at which it runs.
    fn timed<T>(
        &self,
        mut act: impl FnMut(&Connection, StoreTime) -> T + Send + 'static,
    ) -> impl FnMut(&Connection) -> T + Send + 'static {
        let clock = Arc::clone(&self.clock);
        move |connection| act(connection, clock.now())
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Runs a read that examines many rows, with a place in `queue`.
    async fn read_many<T: Send + 'static>(
        &self,
        queue: &Semaphore,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let _queued = queue.try_acquire().map_err(|_| StoreError::QueueFull)?;
        self.readers.read_long(read).await
    }

    pub(super) async fn check(self: &Arc<Self>) -> Result<(), StoreError> {
        let checked = self.read_and_write().await;
        // Our own close removes the write-ahead log.
        if matches!(checked, Err(StoreError::Closed)) {
            return checked;
        }
        // First: a connection to a file that was moved can fail in many other ways.
        if self.writer.files().check_all() {
            return Err(trouble::moved());
        }
        checked?;
        // Another write may have failed since that of the check.
        match self.writer.trouble() {
            None => Ok(()),
            Some(trouble) => Err(StoreError::Failed {
                trouble,
                message: "the last transaction failed".into(),
            }),
        }
    }

    async fn read_and_write(self: &Arc<Self>) -> Result<(), StoreError> {
        let read = || {
            let engine = Arc::clone(self);
            async move { engine.readers.read(health::read).await }
        };
        self.recent_read.result(read).await?;
        let write = || {
            let engine = Arc::clone(self);
            async move { engine.writer.write(health::write).await }
        };
        self.recent_write.result(write).await
    }

    pub(super) fn trouble(&self) -> Option<Trouble> {
        self.writer.trouble()
    }

    pub(super) fn measures(&self) -> &Measures {
        self.writer.measures()
    }

    pub(super) fn queue_levels(&self) -> (QueueLevel, QueueLevel) {
        (self.writer.queue_level(), self.readers.queue_level())
    }

    pub(super) fn own_gauges(&self) -> Vec<OwnGauge> {
        let sizes = self.measures().sizes();
        vec![
            (
                "database_free_bytes",
                "The part of the database file that new rows can use.",
                sizes.free,
            ),
            (
                "write_ahead_log_bytes",
                "Size of the write-ahead log.",
                sizes.log,
            ),
        ]
    }

    #[expect(clippy::unused_self, reason = "as the other engine's")]
    pub(super) fn connections(&self) -> Option<Connections> {
        None
    }

    pub(super) async fn ended(&self) {
        tokio::select! {
            () = self.writer.ended() => {}
            // Without its readers the store would refuse every read for ever, yet accept jobs.
            () = self.readers.ended() => {}
        }
    }

    pub(super) async fn close(&self) {
        // Readers first: the last connection to close checkpoints the WAL and deletes it, and a
        // read-only one can't.
        self.readers.close().await;
        self.writer.close().await;
    }
}
