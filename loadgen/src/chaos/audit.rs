//! The auditor: it reads the database with its own SQL, and logs all row changes with triggers.
//!
//! It does not use the store's code, because that is the code under test. Each engine has its own
//! triggers and queries; the records that are made of their answers are the same (`log`).

mod filters;
mod log;
#[cfg(feature = "postgres")]
mod postgres;
mod sightings;
mod sqlite;
#[cfg(test)]
mod tests;

use std::{collections::HashMap, path::Path, time::Duration};

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use tokio::time::{Instant, sleep};

#[cfg(feature = "postgres")]
pub(super) use self::postgres::{Login, PostgresAudit};
use self::sqlite::SqliteAudit;
use super::history::Record;

/// How long a service may take to create the database.
const TIMEOUT: Duration = Duration::from_secs(30);

/// How often the database is tried until then.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);

/// How often it is read which changes are visible. This is how exactly their times are known.
const SIGHT_INTERVAL: Duration = Duration::from_millis(5);

/// The audit of a database. Clones share the connections.
#[derive(Clone, Debug)]
pub(super) enum Audit {
    Sqlite(SqliteAudit),
    #[cfg(feature = "postgres")]
    Postgres(PostgresAudit),
}

/// A wall clock of a service, as the database has it.
#[derive(Clone, Copy, Debug)]
pub(super) struct SavedClock {
    /// When it was saved, by the run's clock.
    pub(super) at: Timestamp,
    /// What it said then.
    pub(super) wall: Timestamp,
}

/// Calls a method of the engine's audit.
macro_rules! of_engine {
    ($audit:expr, $method:ident($($argument:expr),*)) => {
        match $audit {
            Audit::Sqlite(audit) => audit.$method($($argument),*).await,
            #[cfg(feature = "postgres")]
            Audit::Postgres(audit) => audit.$method($($argument),*).await,
        }
    };
}

impl Audit {
    /// Installs the triggers in a file that a service creates.
    pub(super) async fn of_file(database: &Path) -> Result<Self> {
        let begun = until_it_begins(async || SqliteAudit::begin(database).await).await;
        let begun = begun.with_context(|| format!("can't audit {}", database.display()))?;
        Ok(Self::Sqlite(begun))
    }

    /// Installs the triggers in the database of a server, whose tables a service creates.
    #[cfg(feature = "postgres")]
    pub(super) async fn of_server(login: &Login) -> Result<Self> {
        let begun = until_it_begins(async || PostgresAudit::begin(login).await).await;
        let begun = begun.with_context(|| format!("can't audit {login}"))?;
        Ok(Self::Postgres(begun))
    }

    /// The number of unfinished jobs and redeliveries.
    pub(super) async fn unfinished(&self) -> Result<u64> {
        of_engine!(self, unfinished())
    }

    /// The number of the last change.
    pub(super) async fn changes(&self) -> Result<i64> {
        of_engine!(self, changes())
    }

    /// The wall clock of a service, as it was saved last.
    pub(super) async fn saved_clock(&self) -> Result<SavedClock> {
        of_engine!(self, saved_clock())
    }

    /// The heartbeat counter of each worker, by owner id.
    pub(super) async fn heartbeats(&self) -> Result<HashMap<String, i64>> {
        of_engine!(self, heartbeats())
    }

    /// Whether the worker with this owner id holds a redelivery.
    pub(super) async fn holds_redelivery(&self, owner: &str) -> Result<bool> {
        of_engine!(self, holds_redelivery(owner))
    }

    /// The size of the database in bytes.
    pub(super) async fn bytes(&self) -> Result<u64> {
        of_engine!(self, bytes())
    }

    /// Runs statements as another program.
    #[cfg(test)]
    async fn execute(&self, sql: &str) {
        of_engine!(self, execute(sql));
    }

    /// All transitions, rows and events of the store. Call it when the services have stopped.
    pub(super) async fn records(&self) -> Result<Vec<Record>> {
        of_engine!(self, records())
    }
}

/// Tries again and again: a service answers before its database is complete.
async fn until_it_begins<T>(begin: impl AsyncFn() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    loop {
        let answer = begin().await;
        if answer.is_ok() || start.elapsed() > TIMEOUT {
            return answer;
        }
        sleep(RETRY_INTERVAL).await;
    }
}
