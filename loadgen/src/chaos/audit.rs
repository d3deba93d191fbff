//! The auditor: it reads the database with its own SQL, and logs all row changes with triggers.
//!
//! It does not use the store's code, because that is the code under test.

mod filters;
mod sightings;
mod sqlite;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    convert::Infallible,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use rusqlite::Connection;
use tokio::time::{Instant, sleep};
use tokio_util::task::AbortOnDropHandle;

use self::sightings::Sightings;
pub(super) use self::sqlite::StoreClock;
use super::{clock, history::Record};

/// How long a service may take to create the database.
const TIMEOUT: Duration = Duration::from_secs(30);

/// How often the database is tried until then.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);

/// How often the number of the last change is read. This is how exactly its time is known.
const SIGHT_INTERVAL: Duration = Duration::from_millis(5);

/// The audit of a database. Clones share the connections.
#[derive(Clone, Debug)]
pub(super) struct Audit {
    connection: Shared<Connection>,
    sightings: Shared<Sightings>,
    _watching: Arc<AbortOnDropHandle<Infallible>>,
    /// The store's clock at the beginning.
    clock: StoreClock,
}

type Shared<T> = Arc<Mutex<T>>;

impl Audit {
    /// Installs the triggers in a database that a service creates.
    pub(super) async fn begin(database: &Path) -> Result<Self> {
        let start = Instant::now();
        loop {
            // A service answers before its database is complete.
            let begun = Self::try_begin(database).await;
            if begun.is_ok() || start.elapsed() > TIMEOUT {
                return begun.with_context(|| format!("can't audit {}", database.display()));
            }
            sleep(RETRY_INTERVAL).await;
        }
    }

    async fn try_begin(database: &Path) -> Result<Self> {
        let path = database.to_owned();
        let open = move || -> rusqlite::Result<_> {
            let connection = sqlite::open(&path)?;
            // Its mutex is not shared with long reads.
            let watching = sqlite::open(&path)?;
            let store_clock = sqlite::store_clock(&connection)?;
            // Nothing is logged before the triggers exist.
            let mut sightings = Sightings::default();
            sightings.add(clock::now(), 0, clock::now());
            sqlite::install_triggers(&connection)?;
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
        self.read(sqlite::unfinished).await
    }

    /// The number of changes so far.
    pub(super) async fn changes(&self) -> Result<i64> {
        self.read(sqlite::changes).await
    }

    /// The store's clock, as it was saved last.
    pub(super) async fn store_clock(&self) -> Result<StoreClock> {
        self.read(sqlite::store_clock).await
    }

    /// The heartbeat counter of each worker, by owner id.
    pub(super) async fn heartbeats(&self) -> Result<HashMap<String, i64>> {
        self.read(sqlite::heartbeats).await
    }

    /// Whether the worker with this owner id holds a redelivery.
    pub(super) async fn holds_redelivery(&self, owner: &str) -> Result<bool> {
        let owner = owner.to_owned();
        self.read(move |db| sqlite::holds_redelivery(db, &owner))
            .await
    }

    /// The size of the database in bytes, as its file will have after a checkpoint.
    pub(super) async fn bytes(&self) -> Result<u64> {
        self.read(sqlite::bytes).await
    }

    /// All transitions, rows and events of the store. Call it when the services have stopped.
    pub(super) async fn records(&self) -> Result<Vec<Record>> {
        let sightings = Arc::clone(&self.sightings);
        let (clock, records) = self
            .read(move |db| {
                sight(db, &sightings)?;
                let clock = sqlite::store_clock(db)?;
                Ok((clock, sqlite::records(db, clock, &lock(&sightings))?))
            })
            .await?;
        // Otherwise the moments at which jobs were due could not be told.
        ensure!(
            clock.offset() == self.clock.offset(),
            "the store's clock was set during the run: its anchor is {clock:?}, and was {:?}",
            self.clock
        );
        Ok(records)
    }

    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        let connection = Arc::clone(&self.connection);
        let read = move || read(&lock(&connection));
        let read = tokio::task::spawn_blocking(read).await?;
        read.context("can't read the database")
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
    let number = sqlite::changes(connection)?;
    sightings.add(began, number, clock::now());
    Ok(())
}

/// Nothing is left half done if a holder panics.
fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
