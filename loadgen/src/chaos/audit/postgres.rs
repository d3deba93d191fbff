//! The audit of a `PostgreSQL` database. It follows the primary to another server.

mod connection;
mod queries;
mod snapshots;

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context as _, Result, ensure};
use jiff::{SignedDuration, Timestamp};
use tokio::time::sleep;
use tokio_postgres::Client;
use tokio_util::task::AbortOnDropHandle;

pub(in crate::chaos) use self::connection::Login;
use self::{connection::Connection, snapshots::Snapshots};
use super::{SIGHT_INTERVAL, SavedClock, log::Times};
use crate::chaos::{clock, history::Record};

/// How often the server's clock is read to compare it with the run's.
const CLOCK_READINGS: usize = 20;

/// How far the clocks may drift apart in a run. A clock that was set differs by more.
const DRIFT: SignedDuration = SignedDuration::from_millis(5);

/// The audit of a database. Clones share the connections.
#[derive(Clone, Debug)]
pub(in crate::chaos) struct PostgresAudit {
    connection: Arc<Connection>,
    /// Its reads wait for no long ones.
    watching: Arc<Connection>,
    snapshots: Arc<Mutex<Snapshots>>,
    _watch: Arc<AbortOnDropHandle<Infallible>>,
    /// At the beginning.
    clock: ServerClock,
}

/// The server's clock: the run's clock is ahead of it by between these two.
#[derive(Clone, Copy, Debug)]
struct ServerClock {
    least: SignedDuration,
    most: SignedDuration,
}

impl ServerClock {
    async fn read(client: &Client) -> Result<Self> {
        let mut read = Self {
            least: SignedDuration::MIN,
            most: SignedDuration::MAX,
        };
        for _ in 0..CLOCK_READINGS {
            let began = clock::now();
            let server = Timestamp::from_microsecond(queries::server_time(client).await?)?;
            read.least = read.least.max(began.duration_since(server));
            read.most = read.most.min(clock::now().duration_since(server));
        }
        Ok(read)
    }

    fn offset(self) -> SignedDuration {
        self.least + (self.most - self.least) / 2
    }

    fn agrees_with(self, other: Self) -> bool {
        self.least <= other.most + DRIFT && other.least <= self.most + DRIFT
    }
}

/// Each change has its transaction as its key.
struct ServerTimes<'a> {
    clock: ServerClock,
    snapshots: &'a Snapshots,
}

impl Times for ServerTimes<'_> {
    fn moment(&self, stored: i64) -> Timestamp {
        let server = Timestamp::from_microsecond(stored).unwrap_or(Timestamp::MAX);
        let moment = server.saturating_add(self.clock.offset());
        moment.unwrap_or(Timestamp::MAX)
    }

    fn seen(&self, key: i64) -> Option<(Timestamp, Timestamp)> {
        self.snapshots.of(key.unsigned_abs())
    }
}

impl PostgresAudit {
    /// Installs the triggers in a database that is there.
    pub(super) async fn begin(login: &Login) -> Result<Self> {
        let connection = Arc::new(Connection::new(login.clone()));
        let watching = Arc::new(Connection::new(login.clone()));
        let clock = connection.read(ServerClock::read).await?;
        let snapshots = Arc::new(Mutex::default());
        // Nothing is logged before the triggers exist.
        sight(&watching, &snapshots).await?;
        connection.read(queries::install_triggers).await?;
        let watch = tokio::spawn(watch(Arc::clone(&watching), Arc::clone(&snapshots)));
        Ok(Self {
            connection,
            watching,
            snapshots,
            _watch: Arc::new(AbortOnDropHandle::new(watch)),
            clock,
        })
    }

    /// Goes on with another server, which has been promoted.
    pub(in crate::chaos) async fn follow(&self, login: &Login) -> Result<()> {
        self.connection.redirect(login.clone()).await;
        self.watching.redirect(login.clone()).await;
        lock(&self.snapshots).begin_era();
        sight(&self.watching, &self.snapshots).await
    }

    pub(super) async fn unfinished(&self) -> Result<u64> {
        self.connection.read(queries::unfinished).await
    }

    pub(super) async fn changes(&self) -> Result<i64> {
        self.connection.read(queries::changes).await
    }

    /// That of the API at the acceptance of the newest job.
    pub(super) async fn saved_clock(&self) -> Result<SavedClock> {
        let newest = self.connection.read(queries::newest_job).await?;
        let Some((transaction, created_at)) = newest else {
            return Ok(SavedClock {
                at: Timestamp::MIN,
                wall: Timestamp::MIN,
            });
        };
        sight(&self.watching, &self.snapshots).await?;
        let seen = lock(&self.snapshots).of(transaction.unsigned_abs());
        let (_, at) = seen.context("no two readings surround the newest job")?;
        Ok(SavedClock {
            at,
            wall: Timestamp::from_microsecond(created_at)?,
        })
    }

    pub(super) async fn heartbeats(&self) -> Result<HashMap<String, i64>> {
        self.connection.read(queries::heartbeats).await
    }

    pub(super) async fn holds_redelivery(&self, owner: &str) -> Result<bool> {
        let read = async |client: &Client| queries::holds_redelivery(client, owner).await;
        self.connection.read(read).await
    }

    pub(super) async fn bytes(&self) -> Result<u64> {
        self.connection.read(queries::bytes).await
    }

    pub(super) async fn records(&self) -> Result<Vec<Record>> {
        sight(&self.watching, &self.snapshots).await?;
        let clock = self.connection.read(ServerClock::read).await?;
        // Otherwise the moments at which jobs were due could not be told.
        ensure!(
            clock.agrees_with(self.clock),
            "the server's clock was set during the run: it is {:?} off, and was {:?}",
            clock.offset(),
            self.clock.offset()
        );
        let read = async |client: &Client| queries::read(client).await;
        let rows = self.connection.read(read).await?;
        let snapshots = &lock(&self.snapshots);
        queries::records(&rows, ServerTimes { clock, snapshots })
    }

    /// Runs statements as another program.
    #[cfg(test)]
    pub(super) async fn execute(&self, sql: &str) {
        let execute = async |client: &Client| Ok(client.batch_execute(sql).await?);
        self.connection.read(execute).await.unwrap();
    }
}

/// Notes for ever which transactions have become visible.
async fn watch(connection: Arc<Connection>, snapshots: Arc<Mutex<Snapshots>>) -> Infallible {
    loop {
        sleep(SIGHT_INTERVAL).await;
        // A reading that fails is none: the times are less exact, and as true.
        let _ = sight(&connection, &snapshots).await;
    }
}

async fn sight(connection: &Connection, snapshots: &Mutex<Snapshots>) -> Result<()> {
    let look = async |client: &Client| {
        let began = clock::now();
        Ok((began, queries::snapshot(client).await?, clock::now()))
    };
    // Held throughout, so that readings are added in the order in which they were made.
    let mut held = connection.hold().await;
    let (began, snapshot, ended) = held.read(look).await?;
    lock(snapshots).add(began, snapshot, ended);
    Ok(())
}

/// Nothing is left half done if a holder panics.
fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::ServerClock;

    #[test]
    fn a_clock_that_was_set_does_not_agree_with_itself_before() {
        let clock = |least, most| ServerClock {
            least: SignedDuration::from_millis(least),
            most: SignedDuration::from_millis(most),
        };
        assert!(clock(-1, 1).agrees_with(clock(4, 5)));
        assert!(clock(4, 5).agrees_with(clock(-1, 1)));
        assert!(!clock(-1, 1).agrees_with(clock(20, 21)));
        assert!(!clock(-1, 1).agrees_with(clock(-21, -20)));
    }
}
