//! A database as another program sees it. The tests in `promises` know no engine and no tables:
//! this file has the verbs that they need, and each file below has one engine's SQL for them.
//!
//! A new engine is a variant of [`Engine`], [`TestDatabase`] and [`Lock`], a file with its SQL, and
//! a line in `on_every_engine!`.

#![expect(clippy::unused_async, reason = "async for engines behind a network")]

#[cfg(feature = "postgres")]
#[path = "database/postgres.rs"]
mod postgres;
#[path = "database/sqlite.rs"]
mod sqlite;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use storm_shared::{
    config::StoreSettings,
    models::{AttemptClass, EventKind, FailureReason, RequestId, Status},
    services::store::{OwnerId, Store, Work},
};

/// The store's engines.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Engine {
    Sqlite,
    #[cfg(feature = "postgres")]
    Postgres,
}

/// A database for one test. It is deleted when it is dropped.
pub(crate) enum TestDatabase {
    Sqlite(sqlite::Database),
    #[cfg(feature = "postgres")]
    Postgres(postgres::Database),
}

/// What is stored, but for the times at which things happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tables {
    /// All requests, and all redeliveries in progress.
    pub(crate) rows: BTreeMap<Key, Row>,
    /// The events of each request that has some, in order.
    pub(crate) events: BTreeMap<RequestId, Vec<Entry>>,
    /// The class of each attempt, by its number, and the claim that made it.
    pub(crate) attempts: BTreeMap<(RequestId, u32), (AttemptClass, i64)>,
    /// The beat of each worker.
    pub(crate) workers: BTreeMap<OwnerId, i64>,
    /// The request of each tenant's idempotency key, and whether the submission can be told from
    /// others. The name of nobody is empty.
    pub(crate) keys: BTreeMap<(String, String), (RequestId, bool)>,
    /// The notes of cancelled claims: for whom, of what, and its number; and the worker's beat.
    pub(crate) cancellations: BTreeMap<(OwnerId, RequestId, i64), i64>,
    /// The origins that are paused. The empty one is everything.
    pub(crate) pauses: BTreeSet<String>,
    /// What operators have done, in order.
    pub(crate) audit: Vec<Deed>,
}

/// A request, and what of it: its job, or its redelivery in progress.
pub(crate) type Key = (RequestId, Work);

/// A row of a job or of a redelivery. What only one of them has is empty in the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) status: Status,
    pub(crate) claim: i64,
    pub(crate) owner: Option<OwnerId>,
    pub(crate) attempts: u32,
    pub(crate) attempts_before: u32,
    pub(crate) lost_claims: u32,
    pub(crate) parks: u32,
    pub(crate) result: Option<String>,
    pub(crate) due: Option<Due>,
    pub(crate) parked: Option<Parked>,
    pub(crate) failure: Option<FailureReason>,
    pub(crate) is_over: bool,
    pub(crate) is_erased: bool,
}

/// Since when a row has been parked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parked {
    /// Since a time that is past.
    Since,
    /// Since a time in the far future: a pause of its origin has parked it.
    ByPause,
}

/// When a `PENDING` row may be claimed from the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Due {
    /// At this time by the store's clock, in milliseconds.
    At(i64),
    /// This long after the call that said so.
    After(Duration),
}

/// An event: its kind, its claim, its detail.
pub(crate) type Entry = (EventKind, i64, Option<String>);

/// A record of the audit: what was done, to what, and how many it has changed.
pub(crate) type Deed = (String, String, i64);

/// A row after one change.
#[derive(Debug)]
pub(crate) struct Moment {
    pub(crate) work: Work,
    pub(crate) row: Row,
    /// The number of other rows that its owner, or else its last one, held at that moment.
    pub(crate) beside_it: u32,
    /// The change was its deletion: this is how it was before.
    pub(crate) is_deleted: bool,
    /// Whether everything was paused at that moment.
    pub(crate) is_paused: bool,
    /// Whether its origin was.
    pub(crate) is_origin_paused: bool,
}

/// All changes of each request's job and redeliveries, in order.
pub(crate) type History = BTreeMap<RequestId, Vec<Moment>>;

/// The database's write lock, held by another program.
#[must_use]
pub(crate) enum Lock {
    Sqlite(sqlite::Lock),
    #[cfg(feature = "postgres")]
    Postgres(postgres::Lock),
}

impl Lock {
    pub(crate) async fn release(self) {
        match self {
            Self::Sqlite(lock) => lock.release(),
            #[cfg(feature = "postgres")]
            Self::Postgres(lock) => lock.release().await,
        }
    }
}

/// For the processes of the service.
impl TestDatabase {
    /// A new, empty database: the first store that opens it creates the tables.
    pub(crate) async fn fresh(engine: Engine) -> Self {
        match engine {
            Engine::Sqlite => Self::Sqlite(sqlite::Database::fresh()),
            #[cfg(feature = "postgres")]
            Engine::Postgres => Self::Postgres(postgres::Database::fresh().await),
        }
    }

    /// An empty database for the next case of a test: a new one, or the same where a new one is
    /// expensive.
    pub(crate) async fn again(&self) -> Self {
        match self {
            Self::Sqlite(_) => Self::Sqlite(sqlite::Database::fresh()),
            #[cfg(feature = "postgres")]
            Self::Postgres(database) => Self::Postgres(database.again().await),
        }
    }

    pub(crate) fn engine(&self) -> Engine {
        match self {
            Self::Sqlite(_) => Engine::Sqlite,
            #[cfg(feature = "postgres")]
            Self::Postgres(_) => Engine::Postgres,
        }
    }

    pub(crate) fn settings(&self) -> StoreSettings {
        match self {
            Self::Sqlite(database) => database.settings(),
            #[cfg(feature = "postgres")]
            Self::Postgres(database) => database.settings(),
        }
    }

    /// Opens a store, as another process would.
    pub(crate) async fn open(&self) -> Store {
        Store::open(&self.settings()).await.unwrap()
    }
}

/// For another program. A store must have created the tables.
impl TestDatabase {
    /// Takes the write lock, as another program would, until it is released or dropped.
    pub(crate) async fn hold_lock(&self) -> Lock {
        match self {
            Self::Sqlite(database) => Lock::Sqlite(database.hold_lock()),
            #[cfg(feature = "postgres")]
            Self::Postgres(database) => Lock::Postgres(database.hold_lock().await),
        }
    }

    /// Runs statements of another program's on this engine.
    #[cfg(feature = "postgres")]
    pub(crate) async fn execute(&self, sql: &str) {
        match self {
            Self::Sqlite(_) => unreachable!("its tests open the file"),
            Self::Postgres(database) => database.execute(sql).await,
        }
    }

    /// Edits a request by hand. `assignments` is the SQL after `SET`; every engine must accept it.
    pub(crate) async fn edit(&self, id: RequestId, assignments: &str) {
        match self {
            Self::Sqlite(database) => database.edit(id, assignments),
            #[cfg(feature = "postgres")]
            Self::Postgres(database) => database.edit(id, assignments).await,
        }
    }

    /// Assignments for [`TestDatabase::edit`] after which the row can't be parsed.
    pub(crate) fn invalid_jobs(&self) -> &'static [&'static str] {
        match self {
            Self::Sqlite(_) => &sqlite::INVALID_JOBS,
            #[cfg(feature = "postgres")]
            Self::Postgres(_) => &postgres::INVALID_JOBS,
        }
    }

    /// Assignments after which the row has no valid trace context.
    pub(crate) fn invalid_traces(&self) -> &'static [&'static str] {
        match self {
            Self::Sqlite(_) => &sqlite::INVALID_TRACES,
            #[cfg(feature = "postgres")]
            Self::Postgres(_) => &postgres::INVALID_TRACES,
        }
    }

    /// Assignments after which the row has an invalid due time.
    pub(crate) fn invalid_due_times(&self) -> &'static [&'static str] {
        match self {
            Self::Sqlite(_) => &sqlite::INVALID_DUE_TIMES,
            #[cfg(feature = "postgres")]
            Self::Postgres(_) => &postgres::INVALID_DUE_TIMES,
        }
    }

    /// An assignment after which the row does not say when it was created.
    pub(crate) fn invalid_created_at(&self) -> &'static str {
        match self {
            Self::Sqlite(_) => sqlite::INVALID_CREATED_AT,
            #[cfg(feature = "postgres")]
            Self::Postgres(_) => postgres::INVALID_CREATED_AT,
        }
    }

    /// What an edit by hand can make of a client name.
    pub(crate) fn odd_client_names(&self) -> &'static [&'static str] {
        match self {
            Self::Sqlite(_) => &sqlite::ODD_CLIENT_NAMES,
            #[cfg(feature = "postgres")]
            Self::Postgres(_) => &postgres::ODD_CLIENT_NAMES,
        }
    }

    /// What an edit by hand can make of the time of a heartbeat: none that was.
    pub(crate) fn odd_heartbeat(&self) -> &'static str {
        match self {
            Self::Sqlite(_) => "no time",
            #[cfg(feature = "postgres")]
            Self::Postgres(_) => "infinity",
        }
    }

    /// Deletes a request by hand.
    pub(crate) async fn delete(&self, id: RequestId) {
        match self {
            Self::Sqlite(database) => database.delete(id),
            #[cfg(feature = "postgres")]
            Self::Postgres(database) => database.delete(id).await,
        }
    }

    /// Registers a worker as the previous release does, which knows no handlers.
    pub(crate) async fn register_as_release_before(&self, owner: &str) -> Result<(), String> {
        match self {
            Self::Sqlite(database) => database.register_as_release_before(owner),
            #[cfg(feature = "postgres")]
            Self::Postgres(_) => unreachable!("no release before this one knew this engine"),
        }
    }

    /// Sets the time of a worker's last heartbeat, as text.
    pub(crate) async fn set_heartbeat(&self, owner: OwnerId, at: &str) {
        match self {
            Self::Sqlite(database) => database.set_heartbeat(owner, at),
            #[cfg(feature = "postgres")]
            Self::Postgres(database) => database.set_heartbeat(owner, at).await,
        }
    }

    /// Makes a worker say `report` of itself, which is JSON.
    pub(crate) async fn set_report(&self, owner: OwnerId, report: &str) {
        match self {
            Self::Sqlite(database) => database.set_report(owner, report),
            #[cfg(feature = "postgres")]
            Self::Postgres(database) => database.set_report(owner, report).await,
        }
    }

    /// Makes a worker's row say nothing of circuit breakers, as one of an earlier release.
    pub(crate) async fn forget_breakers(&self, owner: OwnerId) {
        match self {
            Self::Sqlite(database) => database.forget_breakers(owner),
            #[cfg(feature = "postgres")]
            Self::Postgres(database) => database.forget_breakers(owner).await,
        }
    }

    /// Makes a job due that is scheduled or parked: longer than any other.
    pub(crate) async fn make_due(&self, id: RequestId) {
        match self {
            Self::Sqlite(database) => database.edit(id, "due = 0"),
            #[cfg(feature = "postgres")]
            Self::Postgres(database) => database.edit(id, "due = 'epoch'").await,
        }
    }

    /// As if a job had been due this much earlier.
    pub(crate) async fn make_due_earlier(&self, id: RequestId, time: Duration) {
        let millis = time.as_millis();
        match self {
            Self::Sqlite(database) => database.edit(id, &format!("due = due - {millis}")),
            #[cfg(feature = "postgres")]
            Self::Postgres(database) => {
                let earlier = format!("due = due - interval '{millis} milliseconds'");
                database.edit(id, &earlier).await;
            }
        }
    }

    /// Makes a redelivery due that is scheduled or parked.
    pub(crate) async fn make_redelivery_due(&self, id: RequestId) {
        match self {
            Self::Sqlite(database) => database.make_redelivery_due(id),
            #[cfg(feature = "postgres")]
            Self::Postgres(database) => database.make_redelivery_due(id).await,
        }
    }

    /// As if all parked jobs and redeliveries had been parked this much earlier.
    pub(crate) async fn park_earlier(&self, time: Duration) {
        match self {
            Self::Sqlite(database) => database.park_earlier(time),
            #[cfg(feature = "postgres")]
            Self::Postgres(database) => database.park_earlier(time).await,
        }
    }

    /// As if a request had ended this much earlier.
    pub(crate) async fn end_earlier(&self, id: RequestId, time: Duration) {
        match self {
            Self::Sqlite(database) => database.end_earlier(id, time),
            #[cfg(feature = "postgres")]
            Self::Postgres(database) => database.end_earlier(id, time).await,
        }
    }

    /// As if everything had been resumed this much earlier.
    pub(crate) async fn resume_earlier(&self, time: Duration) {
        match self {
            Self::Sqlite(database) => database.resume_earlier(time),
            #[cfg(feature = "postgres")]
            Self::Postgres(database) => database.resume_earlier(time).await,
        }
    }

    /// Deletes every worker's registration.
    pub(crate) async fn forget_workers(&self) {
        match self {
            Self::Sqlite(database) => database.forget_workers(),
            #[cfg(feature = "postgres")]
            Self::Postgres(database) => database.forget_workers().await,
        }
    }

    /// Adds the record of a job that was claimed and released `claims` times, to a new job.
    pub(crate) async fn add_releases(&self, id: RequestId, claims: u32) {
        match self {
            Self::Sqlite(database) => database.add_releases(id, claims),
            #[cfg(feature = "postgres")]
            Self::Postgres(database) => database.add_releases(id, claims).await,
        }
    }

    /// Adds the record of `attempts` failed attempts to a job that failed at its first one.
    pub(crate) async fn add_attempts(&self, id: RequestId, attempts: u32) {
        match self {
            Self::Sqlite(database) => database.add_attempts(id, attempts),
            #[cfg(feature = "postgres")]
            Self::Postgres(database) => database.add_attempts(id, attempts).await,
        }
    }

    /// Adds `count` redeliverable requests of `client`, older than all others.
    pub(crate) async fn add_completed(&self, client: &str, count: u32) {
        match self {
            Self::Sqlite(database) => database.add_completed(client, count),
            #[cfg(feature = "postgres")]
            Self::Postgres(database) => database.add_completed(client, count).await,
        }
    }

    /// As if the machine of the database had been off since the last write, for `hours` by the wall
    /// clock, which may have been set back. No store may be open.
    pub(crate) async fn boot_after(&self, hours: i64) {
        match self {
            Self::Sqlite(database) => database.boot_after(hours),
            #[cfg(feature = "postgres")]
            Self::Postgres(database) => database.boot_after(hours).await,
        }
    }

    /// The requests to which idempotency keys belong, in the order in which old ones are found.
    pub(crate) async fn keyed(&self) -> Vec<RequestId> {
        match self {
            Self::Sqlite(database) => database.keyed(),
            #[cfg(feature = "postgres")]
            Self::Postgres(database) => database.keyed().await,
        }
    }

    /// The tables and columns in which `text` occurs.
    pub(crate) async fn places_of(&self, text: &str) -> Vec<String> {
        match self {
            Self::Sqlite(database) => database.places_of(text),
            #[cfg(feature = "postgres")]
            Self::Postgres(database) => database.places_of(text).await,
        }
    }

    /// Makes all idempotency keys those of the previous release.
    pub(crate) async fn forget_expectations(&self) {
        match self {
            Self::Sqlite(database) => database.forget_expectations(),
            #[cfg(feature = "postgres")]
            Self::Postgres(_) => unreachable!("no release before this one knew this engine"),
        }
    }

    /// All attempts and events that there ever were since [`TestDatabase::record_history`], as they
    /// were written first.
    pub(crate) async fn ever(&self) -> Tables {
        match self {
            Self::Sqlite(database) => database.ever(),
            #[cfg(feature = "postgres")]
            Self::Postgres(database) => database.ever().await,
        }
    }

    /// Rows that belong to a request, or to a worker, that does not exist.
    pub(crate) async fn leftovers(&self) -> usize {
        match self {
            Self::Sqlite(database) => database.leftovers(),
            #[cfg(feature = "postgres")]
            Self::Postgres(database) => database.leftovers().await,
        }
    }

    /// Starts to record each row after every change, also after each of several changes in one
    /// transaction.
    pub(crate) async fn record_history(&self) {
        match self {
            Self::Sqlite(database) => database.record_history(),
            #[cfg(feature = "postgres")]
            Self::Postgres(database) => database.record_history().await,
        }
    }

    /// All changes since [`TestDatabase::record_history`].
    pub(crate) async fn history(&self) -> History {
        match self {
            Self::Sqlite(database) => database.history(),
            #[cfg(feature = "postgres")]
            Self::Postgres(database) => database.history().await,
        }
    }

    /// What is stored now.
    pub(crate) async fn tables(&self) -> Tables {
        match self {
            Self::Sqlite(database) => database.tables(),
            #[cfg(feature = "postgres")]
            Self::Postgres(database) => database.tables().await,
        }
    }

    /// What nothing would reclaim: `PROCESSING` without a registered owner.
    pub(crate) async fn lost(&self) -> Vec<Key> {
        match self {
            Self::Sqlite(database) => database.lost(),
            #[cfg(feature = "postgres")]
            Self::Postgres(database) => database.lost().await,
        }
    }

    /// The number of requests.
    pub(crate) async fn count(&self) -> usize {
        match self {
            Self::Sqlite(database) => database.count(),
            #[cfg(feature = "postgres")]
            Self::Postgres(database) => database.count().await,
        }
    }

    /// The number of large bodies, wherever the engine keeps them.
    pub(crate) async fn large_bodies(&self) -> usize {
        match self {
            Self::Sqlite(database) => database.large_bodies(),
            #[cfg(feature = "postgres")]
            Self::Postgres(database) => database.large_bodies().await,
        }
    }

    /// The value of a request's column, as text.
    pub(crate) async fn text(&self, id: RequestId, column: &str) -> String {
        match self {
            Self::Sqlite(database) => database.text(id, column),
            #[cfg(feature = "postgres")]
            Self::Postgres(database) => database.text(id, column).await,
        }
    }

    /// The text for operators of each attempt of a request.
    pub(crate) async fn internal_details(&self, id: RequestId) -> Vec<Option<String>> {
        match self {
            Self::Sqlite(database) => database.internal_details(id),
            #[cfg(feature = "postgres")]
            Self::Postgres(database) => database.internal_details(id).await,
        }
    }
}
