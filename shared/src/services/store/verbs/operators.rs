//! The verbs of operators, and the counts for metrics and admission control.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio_util::sync::CancellationToken;

#[cfg(feature = "postgres")]
use super::super::postgres::Postgres;
use super::super::{Engine, Store, sqlite, sqlite::Sqlite};
use crate::{
    config::{DatabaseSettings, StoreSettings},
    models::{ClientName, Destination, HandlerName},
    services::store::{
        Applied, AuditRecord, BackedUp, BackupError, Bulk, FileStats, HandlerLoad, Load, Overview,
        Pause, Paused, Selected, SelectionPage, Stats, StoreError, TooManyPauses,
    },
};

/// The file of an embedded database. Of another one, the error says what to do `instead`.
fn file_of(settings: &StoreSettings, instead: &str) -> Result<PathBuf, StoreError> {
    let path = settings.database.path().map(Path::to_owned);
    path.ok_or_else(|| {
        let database = &settings.database;
        StoreError::Unusable(format!("{database} is no database file; {instead}"))
    })
}

impl Store {
    /// Opens the database of running services for an operator's command. Neither creates nor
    /// migrates it.
    ///
    /// # Errors
    /// [`StoreError::Unusable`]: there is no database, or its schema is of another version;
    /// [`StoreError::Failed`] if it can't be opened now.
    pub async fn attach(settings: &StoreSettings) -> Result<Self, StoreError> {
        let engine = match &settings.database {
            DatabaseSettings::Sqlite(sqlite) => {
                Engine::Sqlite(Arc::new(Sqlite::attach(sqlite, settings).await?))
            }
            #[cfg(feature = "postgres")]
            DatabaseSettings::Postgres(postgres) => {
                Engine::Postgres(Arc::new(Postgres::attach(postgres, settings).await?))
            }
        };
        Ok(Self { engine })
    }

    /// Copies the database of `settings`, as it is at one moment, to the file `target`, beside
    /// running services. Every request that was accepted before the call is in the copy. `replace`:
    /// whether a file at `target` may be replaced.
    ///
    /// The copy is complete or does not exist. Its mode is 0600. While it is made, the write-ahead
    /// log can't shrink. `cancelled` ends it.
    ///
    /// # Errors
    /// The database can't be read, or the copy can't be written. Nothing is left at `target` then
    /// but what was there before.
    pub async fn backup(
        settings: &StoreSettings,
        target: &Path,
        replace: bool,
        cancelled: CancellationToken,
    ) -> Result<BackedUp, BackupError> {
        let instead = "make the backup with pg_dump, or with the server's own means";
        let (path, target) = (file_of(settings, instead)?, target.to_owned());
        let copy = move || sqlite::backup::backup(&path, &target, replace, &cancelled);
        let copied = tokio::task::spawn_blocking(copy).await;
        copied.unwrap_or(Err(BackupError::Database(StoreError::Closed)))
    }

    /// Gives the database's free pages back to the file system, by writing it anew. Needs up to
    /// twice as much free disk as the data takes. Returns the sizes before and after.
    ///
    /// No other process may have the database open, unless `beside_services` is true. Then their
    /// writes wait, and fail after the time for which they wait for a lock.
    ///
    /// # Errors
    /// The database is in use, there is too little disk, or it can't be written. It is as it was.
    pub async fn vacuum(
        settings: &StoreSettings,
        beside_services: bool,
    ) -> Result<(FileStats, FileStats), StoreError> {
        let path = file_of(settings, "the server's autovacuum does it")?;
        let vacuum = move || sqlite::vacuum::vacuum(&path, beside_services);
        let vacuumed = tokio::task::spawn_blocking(vacuum).await;
        vacuumed.unwrap_or(Err(StoreError::Closed))
    }

    /// How long the oldest due job has been due, by the store's clock; `None` if none is. Jobs that
    /// run, wait for a retry or are parked are not due. Costs one step of an index for each tenant
    /// with unfinished jobs.
    ///
    /// # Errors
    /// The read failed.
    pub async fn oldest_due_age(&self) -> Result<Option<Duration>, StoreError> {
        on_engine!(self, |engine| engine.oldest_due_age().await)
    }

    /// Returns the destinations with a backlog of at least `most` jobs.
    ///
    /// # Errors
    /// The read failed.
    pub async fn destinations_over_limit(
        &self,
        most: usize,
    ) -> Result<Vec<Destination>, StoreError> {
        on_engine!(self, |engine| engine.destinations_over_limit(most).await)
    }

    /// Counts the unfinished async jobs, up to `most`, and those of them that wait for a worker and
    /// are due within `grace`; and reads what each worker has ended. Counts those of each handler
    /// if `by_handler` is set.
    ///
    /// # Errors
    /// The read failed, or the read queue is full.
    pub async fn load(
        &self,
        most: usize,
        grace: Duration,
        by_handler: bool,
    ) -> Result<Load, StoreError> {
        on_engine!(self, |engine| engine.load(most, grace, by_handler).await)
    }

    /// What each handler beside the report has to do: those that have jobs or that a worker serves,
    /// by name. At most 256 that have jobs.
    ///
    /// # Errors
    /// The read failed, or the read queue is full.
    pub async fn handlers_load(&self) -> Result<BTreeMap<HandlerName, HandlerLoad>, StoreError> {
        on_engine!(self, |engine| engine.handlers_load().await)
    }

    /// Pauses `what` in the name of `operator`, and records that. From its commit on, no claim
    /// succeeds while everything is paused; workers learn of the origins with their heartbeats.
    /// Returns whether it was not paused before: a repeat changes nothing, and is recorded, too.
    ///
    /// # Errors
    /// Inner: there are [`MAX_PAUSED_ORIGINS`](crate::services::store::MAX_PAUSED_ORIGINS).
    /// Outer: [`StoreError::QueueFull`] if the write queue had no room for `HTTP_TIMEOUT`;
    /// otherwise the write failed.
    pub async fn pause(
        &self,
        what: Paused,
        operator: ClientName,
    ) -> Result<Result<bool, TooManyPauses>, StoreError> {
        on_engine!(self, |engine| engine.pause(what, operator).await)
    }

    /// Ends the pause of `what` in the name of `operator`, and records that. To resume everything
    /// leaves paused origins paused. Returns whether it was paused: a repeat changes nothing, and
    /// is recorded, too.
    ///
    /// # Errors
    /// Those of [`Store::pause`], but for its inner one.
    pub async fn resume(&self, what: Paused, operator: ClientName) -> Result<bool, StoreError> {
        on_engine!(self, |engine| engine.resume(what, operator).await)
    }

    /// The pauses in force: that of everything first, then the origins in the order of their text.
    ///
    /// # Errors
    /// The read failed, or the read queue is full.
    pub async fn pauses(&self) -> Result<Vec<Pause>, StoreError> {
        on_engine!(self, |engine| engine.pauses().await)
    }

    /// Reads a page of the requests of all tenants that an operator's action is for. A page can be
    /// short, or empty, and have a next one: it examines a limited number of requests.
    ///
    /// # Errors
    /// The read failed, or the read queue is full.
    pub async fn select(&self, page: SelectionPage) -> Result<Selected, StoreError> {
        on_engine!(self, |engine| engine.select(page).await)
    }

    /// Does `bulk` and records it, in one transaction. A repeat is recorded, too. It cancels
    /// nothing else; for redeliveries, [`Store::redeliver`] says what becomes of each.
    ///
    /// # Errors
    /// Those of [`Store::resume`].
    pub async fn apply(&self, bulk: Bulk) -> Result<Applied, StoreError> {
        on_engine!(self, |engine| engine.apply(bulk).await)
    }

    /// Reads up to `limit` records of what operators have done, newest first: those whose number is
    /// less than `before`, if that is given. The newest 100,000 are kept.
    ///
    /// # Errors
    /// The read failed, or the read queue is full.
    pub async fn audit(
        &self,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Vec<AuditRecord>, StoreError> {
        on_engine!(self, |engine| engine.audit(before, limit).await)
    }

    /// Counts for an operator. Each count ends at [`COUNTED`](crate::services::store::COUNTED)
    /// rows, which bounds the read to about a second.
    ///
    /// # Errors
    /// As for [`Store::find`].
    pub async fn stats(&self) -> Result<Stats, StoreError> {
        on_engine!(self, |engine| engine.stats().await)
    }

    /// What the workers say of themselves, and the longest backlogs. Quick enough to be read once a
    /// second.
    ///
    /// # Errors
    /// As for [`Store::find`].
    pub async fn overview(&self) -> Result<Overview, StoreError> {
        on_engine!(self, |engine| engine.overview().await)
    }
}
