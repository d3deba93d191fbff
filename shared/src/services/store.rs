//! The store: the source of truth for every request, and its promises.
//!
//! [`Store`] is a handle over a closed set of engines. Its operations are domain verbs: what they
//! promise (`verbs/`), each engine keeps, and one suite of tests shows it for each of them
//! (`tests/it/promises`). No SQL, no engine's type and no engine's error leaves this module.
//!
//! Every write can fail with [`StoreError::Indeterminate`]: it may have been committed. So every
//! write is safe to repeat, after this error or any other, and its documentation says what a repeat
//! does. Only a repeat that succeeds makes the outcome known: after an unknown one, even an error
//! that says that nothing was written speaks of the repeat alone.
//!
//! The value types are in the files beside this one; an engine's SQL is in the folder of its name.

/// Calls the engine of a store.
macro_rules! on_engine {
    ($store:expr, |$engine:ident| $call:expr) => {
        match &$store.engine {
            $crate::services::store::Engine::Sqlite($engine) => $call,
            #[cfg(feature = "postgres")]
            $crate::services::store::Engine::Postgres($engine) => $call,
        }
    };
}

mod audit;
mod backup;
mod breakers;
mod bulk;
mod cancel;
mod condition;
mod delivered;
mod erase;
mod error;
mod idempotency;
mod job;
mod lease;
mod list;
mod load;
mod look;
mod metrics;
#[cfg(feature = "postgres")]
mod moving;
mod overview;
mod pause;
#[cfg(feature = "postgres")]
mod postgres;
mod progress;
mod recent;
mod redelivery;
mod retention;
mod scope;
mod sqlite;
mod stats;
mod stored_job;
mod verbs;
mod waiting;

use std::sync::Arc;

#[cfg(feature = "postgres")]
pub use self::moving::{MoveError, MovePlan, MoveProgress, MoveStep, Moved};
#[cfg(feature = "postgres")]
use self::postgres::Postgres;
pub use self::{
    audit::AuditRecord,
    backup::{BackedUp, BackupError},
    breakers::{Breakers, OpenBreaker},
    bulk::{Acted, Applied, Bulk, BulkAction, Selected, Selection, SelectionPage},
    cancel::{Cancelled, CancelledClaim, CancelledWork, Uncancellable},
    erase::{Erased, Unerasable},
    error::{StoreError, Trouble},
    idempotency::Acceptance,
    job::{
        AttemptRecord, Candidate, Claim, Claimed, Held, InvalidJob, Job, NewJob, OnStored, Outcome,
        Settlement, Work, WorkResult, Worked, expected_at,
    },
    lease::{Expired, Heartbeat, OwnerId, OwnerIdError, Renewal, quarantine_threshold},
    list::{ListPage, RequestFilter, RequestList},
    load::{Ended, HandlerLoad, Load, TenantLoad},
    look::{Capacity, DueJobs, Sought, is_long},
    metrics::{Connections, StoreMetrics},
    overview::{Overview, WorkerSeen},
    pause::{MAX_PAUSED_ORIGINS, Pause, Paused, Pauses, TooManyPauses, UnparkCursor, Unparked},
    progress::Progress,
    redelivery::{Redeliverable, RedeliveryPage, Unredeliverable},
    retention::Swept,
    scope::Scope,
    stats::{COUNTED, DestinationStats, FileStats, RequestStats, Stats, WorkerStats},
};
use self::{
    metrics::{Measures, OwnGauge, QueueLevel},
    sqlite::Sqlite,
};
use crate::config::{DatabaseSettings, StoreSettings};

/// The file descriptors of an open store.
pub(crate) const DESCRIPTORS: usize = sqlite::DESCRIPTORS;

/// The threads of an open store.
pub(crate) const THREADS: usize = sqlite::THREADS;

/// A cheap-clone handle to the store.
#[derive(Clone)]
pub struct Store {
    engine: Engine,
}

#[derive(Clone)]
enum Engine {
    Sqlite(Arc<Sqlite>),
    #[cfg(feature = "postgres")]
    Postgres(Arc<Postgres>),
}

impl Store {
    /// Opens the database and migrates it. Creates it if it doesn't exist.
    ///
    /// Retries without a time limit what can pass by itself: a lock, a full disk, a missing
    /// permission. Drop the future on shutdown.
    ///
    /// # Errors
    /// [`StoreError::Unusable`]: the place holds no database of this service, one with a newer
    /// schema, or a damaged one. Nothing was written to it.
    pub async fn open(settings: &StoreSettings) -> Result<Self, StoreError> {
        let engine = match &settings.database {
            DatabaseSettings::Sqlite(sqlite) => {
                Engine::Sqlite(Arc::new(Sqlite::open(sqlite, settings).await?))
            }
            #[cfg(feature = "postgres")]
            DatabaseSettings::Postgres(postgres) => {
                Engine::Postgres(Arc::new(Postgres::open(postgres, settings).await?))
            }
        };
        Ok(Self { engine })
    }

    /// The store's random id. Queue entries carry it, so that stores can share one Redis.
    pub fn id(&self) -> &str {
        on_engine!(self, |engine| engine.id())
    }

    /// Checks that the database can be read and written, and that what is written can be found
    /// again by the next start. However many ask, a process writes once a second: the result of
    /// that write can be a second old.
    ///
    /// # Errors
    /// The read or the write failed, the read queue is full, or the database was moved or deleted.
    pub async fn check(&self) -> Result<(), StoreError> {
        on_engine!(self, |engine| engine.check().await)
    }

    /// Why the last transaction failed, or `None` if it was committed where the next start finds
    /// it.
    pub fn trouble(&self) -> Option<Trouble> {
        on_engine!(self, |engine| engine.trouble())
    }

    /// What the engine has measured, for [`StoreMetrics`].
    fn measures(&self) -> &Measures {
        on_engine!(self, |engine| engine.measures())
    }

    /// The queues of writes and of reads, for [`StoreMetrics`].
    fn queue_levels(&self) -> (QueueLevel, QueueLevel) {
        on_engine!(self, |engine| engine.queue_levels())
    }

    /// The gauges that only its engine has, for [`StoreMetrics`].
    fn own_gauges(&self) -> Vec<OwnGauge> {
        on_engine!(self, |engine| engine.own_gauges())
    }

    /// The pool of connections; `None` without a server.
    pub fn connections(&self) -> Option<Connections> {
        on_engine!(self, |engine| engine.connections())
    }

    /// Completes when the store was closed, or when one of its threads ended (which is logged).
    /// The process must be restarted then.
    pub async fn ended(&self) {
        on_engine!(self, |engine| engine.ended().await);
    }

    /// Commits all queued writes and closes the database. Later operations fail.
    pub async fn close(&self) {
        on_engine!(self, |engine| engine.close().await);
    }
}
