//! The audit of an `SQLite` database.

mod queries;

use std::{
    collections::HashMap,
    convert::Infallible,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use rusqlite::Connection;
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

use self::queries::StoreClock;
use super::{SIGHT_INTERVAL, SavedClock, log::Times, sightings::Sightings};
use crate::chaos::{clock, history::Record};

/// The audit of a file. Clones share the connections.
#[derive(Clone, Debug)]
pub(in crate::chaos) struct SqliteAudit {
    connection: Shared<Connection>,
    sightings: Shared<Sightings>,
    _watching: Arc<AbortOnDropHandle<Infallible>>,
    /// The store's clock at the beginning.
    clock: StoreClock,
}

type Shared<T> = Arc<Mutex<T>>;

/// Each change has its number as its key.
struct StoreTimes<'a> {
    clock: StoreClock,
    sightings: &'a Sightings,
}

impl Times for StoreTimes<'_> {
    fn moment(&self, stored: i64) -> Timestamp {
        self.clock.moment(stored)
    }

    fn seen(&self, key: i64) -> Option<(Timestamp, Timestamp)> {
        self.sightings.of(key)
    }
}

impl SqliteAudit {
    /// Installs the triggers in a database that is there.
    pub(super) async fn begin(database: &Path) -> Result<Self> {
        let path = database.to_owned();
        let open = move || -> rusqlite::Result<_> {
            let connection = queries::open(&path)?;
            // Its mutex is not shared with long reads.
            let watching = queries::open(&path)?;
            let store_clock = queries::store_clock(&connection)?;
            // Nothing is logged before the triggers exist.
            let mut sightings = Sightings::default();
            sightings.add(clock::now(), 0, clock::now());
            queries::install_triggers(&connection)?;
            Ok((connection, watching, store_clock, sightings))
        };
        let (connection, watching, clock, sightings) = tokio::task::spawn_blocking(open).await??;
        let sightings = Arc::new(Mutex::new(sightings));
        let watching = tokio::spawn(watch(
            Arc::new(Mutex::new(watching)),
            Arc::clone(&sightings),
        ));
        Ok(Self {
            connection: Arc::new(Mutex::new(connection)),
            sightings,
            _watching: Arc::new(AbortOnDropHandle::new(watching)),
            clock,
        })
    }

    /// The number of unfinished jobs and redeliveries.
    pub(super) async fn unfinished(&self) -> Result<u64> {
        self.read(queries::unfinished).await
    }

    /// The number of changes so far.
    pub(super) async fn changes(&self) -> Result<i64> {
        self.read(queries::changes).await
    }

    /// The store's clock, as it was saved last.
    pub(super) async fn saved_clock(&self) -> Result<SavedClock> {
        let clock = self.read(queries::store_clock).await?;
        Ok(SavedClock {
            at: clock.saved_at(),
            wall: Timestamp::from_millisecond(clock.saved_wall)?,
        })
    }

    /// The heartbeat counter of each worker, by owner id.
    pub(super) async fn heartbeats(&self) -> Result<HashMap<String, i64>> {
        self.read(queries::heartbeats).await
    }

    /// Whether the worker with this owner id holds a redelivery.
    pub(super) async fn holds_redelivery(&self, owner: &str) -> Result<bool> {
        let owner = owner.to_owned();
        self.read(move |db| queries::holds_redelivery(db, &owner))
            .await
    }

    /// The size of the database in bytes, as its file will have after a checkpoint.
    pub(super) async fn bytes(&self) -> Result<u64> {
        self.read(queries::bytes).await
    }

    /// All transitions, rows and events of the store. Call it when the services have stopped.
    pub(super) async fn records(&self) -> Result<Vec<Record>> {
        let sightings = Arc::clone(&self.sightings);
        let read = move |db: &Connection| -> Result<_> {
            sight(db, &sightings)?;
            let clock = queries::store_clock(db)?;
            let sightings = &lock(&sightings);
            Ok((clock, queries::read(db, StoreTimes { clock, sightings })?))
        };
        let (clock, records) = self.read(read).await?;
        // Otherwise the moments at which jobs were due could not be told.
        ensure!(
            clock.offset() == self.clock.offset(),
            "the store's clock was set during the run: its anchor is {clock:?}, and was {:?}",
            self.clock
        );
        Ok(records)
    }

    /// Runs statements as another program.
    #[cfg(test)]
    pub(super) async fn execute(&self, sql: &str) {
        let sql = sql.to_owned();
        let executed = self.read(move |db| db.execute_batch(&sql)).await;
        executed.unwrap();
    }

    async fn read<T, E>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, E> + Send + 'static,
    ) -> Result<T>
    where
        T: Send + 'static,
        E: Into<anyhow::Error> + Send + 'static,
    {
        let connection = Arc::clone(&self.connection);
        let read = move || read(&lock(&connection));
        let read = tokio::task::spawn_blocking(read).await?;
        read.map_err(Into::into).context("can't read the database")
    }
}

/// Notes for ever when changes become visible.
async fn watch(connection: Shared<Connection>, sightings: Shared<Sightings>) -> Infallible {
    loop {
        sleep(SIGHT_INTERVAL).await;
        let (connection, sightings) = (Arc::clone(&connection), Arc::clone(&sightings));
        // A reading that fails is none: the times are less exact, and as true.
        let _ = tokio::task::spawn_blocking(move || sight(&lock(&connection), &sightings)).await;
    }
}

fn sight(connection: &Connection, sightings: &Mutex<Sightings>) -> rusqlite::Result<()> {
    // Held throughout, so that readings are added in the order in which they were made.
    let mut sightings = lock(sightings);
    let began = clock::now();
    let number = queries::changes(connection)?;
    sightings.add(began, number, clock::now());
    Ok(())
}

/// Nothing is left half done if a holder panics.
fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
