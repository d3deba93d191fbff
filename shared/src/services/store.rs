//! The store: the source of truth for every request, and its promises.
//!
//! [`Store`] is a handle over a closed set of engines. Its operations are domain verbs: what this
//! file promises, each engine keeps, and one suite of tests shows it for each of them
//! (`tests/it/promises`). No SQL, no engine's type and no engine's error leaves this module.
//!
//! Every write can fail with [`StoreError::Indeterminate`]: it may have been committed. So every
//! write is safe to repeat, after this error or any other, and its documentation says what a repeat
//! does. Only a repeat that succeeds makes the outcome known: after an unknown one, even an error
//! that says that nothing was written speaks of the repeat alone.
//!
//! The value types are in the files beside this one; an engine's SQL is in the folder of its name.

mod audit;
mod backup;
mod bulk;
mod cancel;
mod condition;
mod erase;
mod error;
mod idempotency;
mod job;
mod lease;
mod list;
mod load;
mod look;
mod metrics;
mod pause;
mod redelivery;
mod retention;
mod scope;
mod sqlite;
mod stats;
mod waiting;

use std::{path::Path, sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

pub use self::{
    audit::AuditRecord,
    backup::{BackedUp, BackupError},
    bulk::{Bulk, BulkAction, Selected, Selection, SelectionPage},
    cancel::{Cancelled, CancelledClaim, CancelledWork, Uncancellable},
    erase::{Erased, Unerasable},
    error::{StoreError, Trouble},
    idempotency::Acceptance,
    job::{
        AttemptRecord, Candidate, Claim, Claimed, InvalidJob, Job, NewJob, Outcome, Settlement,
        Work, expected_at,
    },
    lease::{Expired, Heartbeat, OwnerId, OwnerIdError, Renewal, quarantine_threshold},
    list::{ListPage, RequestFilter, RequestList},
    load::Load,
    look::{Capacity, DueJobs, is_long},
    metrics::StoreMetrics,
    pause::{MAX_PAUSED_ORIGINS, Pause, Paused, Pauses, TooManyPauses},
    redelivery::{Redeliverable, RedeliveryPage, Unredeliverable},
    retention::Swept,
    scope::Scope,
    stats::{COUNTED, DestinationStats, FileStats, RequestStats, Stats, WorkerStats},
};
use self::{
    metrics::{Measures, QueueLevel},
    sqlite::Sqlite,
};
use crate::{
    config::StoreSettings,
    models::{ClientName, Destination, Failure, Origin, ReportSpec, Request, RequestId},
    services::report::Report,
};

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
        let engine = Engine::Sqlite(Arc::new(Sqlite::open(settings).await?));
        Ok(Self { engine })
    }

    /// Opens the database of running services for an operator's command. Neither creates nor
    /// migrates it.
    ///
    /// # Errors
    /// [`StoreError::Unusable`]: there is no database, or its schema is of another version;
    /// [`StoreError::Failed`] if it can't be opened now.
    pub async fn attach(settings: &StoreSettings) -> Result<Self, StoreError> {
        let engine = Engine::Sqlite(Arc::new(Sqlite::attach(settings).await?));
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
        let (path, target) = (settings.path.clone(), target.to_owned());
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
        let path = settings.path.clone();
        let vacuum = move || sqlite::vacuum::vacuum(&path, beside_services);
        let vacuumed = tokio::task::spawn_blocking(vacuum).await;
        vacuumed.unwrap_or(Err(StoreError::Closed))
    }

    /// The store's random id. Queue entries carry it, so that stores can share one Redis.
    pub fn id(&self) -> &str {
        match &self.engine {
            Engine::Sqlite(engine) => engine.id(),
        }
    }

    /// Accepts an async job. When this returns [`Acceptance::Stored`], the row is committed.
    ///
    /// With an idempotency key, the job and its key are stored together, unless the tenant's key
    /// belongs to an earlier job: then nothing is written, and the answer says so. A key belongs to
    /// its job for `IDEMPOTENCY_WINDOW`, or until the job has ended if that is later. Then it is
    /// free.
    ///
    /// A repeat with the same job is [`Acceptance::Stored`] and changes nothing, whatever has
    /// become of the row and of the key since. Another job under the same id is an error.
    ///
    /// # Errors
    /// [`StoreError::QueueFull`] at once if the write queue is full; otherwise the write failed. No
    /// row exists then, but after [`StoreError::Indeterminate`], and after [`Trouble::Moved`] in
    /// the file that was moved.
    pub async fn accept(&self, job: NewJob) -> Result<Acceptance, StoreError> {
        match &self.engine {
            Engine::Sqlite(engine) => engine.accept(job).await,
        }
    }

    /// What [`Store::accept`] would say of a job whose idempotency key belongs to an earlier one,
    /// without a write. `None` if the key is free, or the job has none.
    ///
    /// # Errors
    /// The read failed, or the read queue is full.
    pub async fn accepted_before(&self, job: &NewJob) -> Result<Option<Acceptance>, StoreError> {
        match &self.engine {
            Engine::Sqlite(engine) => engine.accepted_before(job).await,
        }
    }

    /// Records a sync request that arrived at `created_at`, by the wall clock, and is over.
    /// `created_by` is the client name of its token. A repeat succeeds and changes nothing.
    ///
    /// # Errors
    /// As for [`Store::accept`].
    pub async fn record_sync(
        &self,
        id: RequestId,
        created_at: Timestamp,
        spec: &ReportSpec,
        created_by: Option<ClientName>,
        ended: Result<&Report, &Failure>,
    ) -> Result<(), StoreError> {
        match &self.engine {
            Engine::Sqlite(engine) => {
                let recorded = engine.record_sync(id, created_at, spec, created_by, ended);
                recorded.await
            }
        }
    }

    /// Claims `candidates` in one transaction. Candidates that were claimed since they were read,
    /// or don't exist in this store, are skipped; while everything is paused, all are. A row that
    /// was edited by hand and can't be parsed is claimed, too, so that the caller can settle it as
    /// failed.
    ///
    /// Goes through the candidates in order, and stops once the inputs and results of those that it
    /// has won fill `room` bytes. The last job may have more than is left, so with any room at all
    /// one can be claimed.
    ///
    /// A repeat skips what the first call has claimed. So after [`StoreError::Indeterminate`] it
    /// must be repeated by [`Store::claim_again`], or jobs can stay `PROCESSING` under this owner,
    /// whose lease goes on.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] if `owner` has no lease; otherwise the write failed. Nothing was
    /// claimed, except perhaps after [`StoreError::Indeterminate`].
    pub async fn claim(
        &self,
        owner: OwnerId,
        candidates: Vec<Candidate>,
        room: usize,
    ) -> Result<Claimed, StoreError> {
        match &self.engine {
            Engine::Sqlite(engine) => engine.claim(owner, candidates, room).await,
        }
    }

    /// Repeats a claim whose outcome is unknown, with the same owner, candidates and room. Returns
    /// what the first call has claimed, too, before what it claims itself. It can be repeated.
    ///
    /// The rows do not tell one call from another. So from the first call on, the owner must not
    /// name any of the candidates in another call, and it must have run none of them under its next
    /// claim number before.
    ///
    /// # Errors
    /// As for [`Store::claim`].
    pub async fn claim_again(
        &self,
        owner: OwnerId,
        candidates: Vec<Candidate>,
        room: usize,
    ) -> Result<Claimed, StoreError> {
        match &self.engine {
            Engine::Sqlite(engine) => engine.claim_again(owner, candidates, room).await,
        }
    }

    /// Reads due jobs that have lost no claim, up to `capacity` and shared fairly among the tenants
    /// that have some; and when the next one becomes due. While everything is paused, none are.
    ///
    /// # Errors
    /// The read failed.
    pub async fn due_jobs(&self, capacity: Capacity) -> Result<DueJobs, StoreError> {
        match &self.engine {
            Engine::Sqlite(engine) => engine.due_jobs(capacity).await,
        }
    }

    /// Reads up to `limit` suspected poison jobs: claimable jobs whose earlier claims were lost
    /// with their workers. Fewest lost claims first. None while everything is paused.
    ///
    /// # Errors
    /// The read failed.
    pub async fn suspects(&self, limit: usize) -> Result<Vec<Candidate>, StoreError> {
        match &self.engine {
            Engine::Sqlite(engine) => engine.suspects(limit).await,
        }
    }

    /// How long the oldest due job has been due, by the store's clock; zero if none is. Jobs that
    /// run, wait for a retry or are parked are not due. Costs one step of an index for each tenant
    /// with unfinished jobs.
    ///
    /// # Errors
    /// The read failed.
    pub async fn oldest_due_age(&self) -> Result<Duration, StoreError> {
        match &self.engine {
            Engine::Sqlite(engine) => engine.oldest_due_age().await,
        }
    }

    /// Makes up to `limit` jobs parked for `destination` due now. Returns how many. A repeat finds
    /// those that are left.
    ///
    /// # Errors
    /// The write failed.
    pub async fn unpark(
        &self,
        destination: Destination,
        limit: usize,
    ) -> Result<usize, StoreError> {
        match &self.engine {
            Engine::Sqlite(engine) => engine.unpark(destination, limit).await,
        }
    }

    /// Makes up to `limit` jobs parked for `origin` due now, whoever's they are, and counts their
    /// time in the table as not parked. Returns how many. A repeat finds those that are left.
    ///
    /// # Errors
    /// The write failed.
    pub async fn unpark_origin(&self, origin: Origin, limit: usize) -> Result<usize, StoreError> {
        match &self.engine {
            Engine::Sqlite(engine) => engine.unpark_origin(origin, limit).await,
        }
    }

    /// Returns the destinations with a backlog of at least `most` jobs.
    ///
    /// # Errors
    /// The read failed.
    pub async fn destinations_over_limit(
        &self,
        most: usize,
    ) -> Result<Vec<Destination>, StoreError> {
        match &self.engine {
            Engine::Sqlite(engine) => engine.destinations_over_limit(most).await,
        }
    }

    /// Counts the unfinished async jobs, up to `most`, and those of them that wait for a worker and
    /// are due within `grace`; and reads what each worker has ended.
    ///
    /// # Errors
    /// The read failed, or the read queue is full.
    pub async fn load(&self, most: usize, grace: Duration) -> Result<Load, StoreError> {
        match &self.engine {
            Engine::Sqlite(engine) => engine.load(most, grace).await,
        }
    }

    /// Stores a job's report before its first callback, so that a crash can't lose it. A stored
    /// report is never replaced, so a repeat changes nothing. Quick reports skip this write: they
    /// are stored together with the first outcome.
    ///
    /// # Errors
    /// [`StoreError::ClaimLost`], or the write failed.
    pub async fn store_result(&self, claim: Claim, report: &Report) -> Result<(), StoreError> {
        match &self.engine {
            Engine::Sqlite(engine) => engine.store_result(claim, report).await,
        }
    }

    /// Records that the callback of a claimed job is about to be sent once more within its attempt,
    /// although a receiver may have got it already. `count` is the number of its resends under this
    /// claim, with this one: by it a repeat is recognised, and succeeds.
    ///
    /// # Errors
    /// [`StoreError::ClaimLost`], or the write failed: then it must not be sent.
    pub async fn record_resend(&self, claim: Claim, count: u32) -> Result<(), StoreError> {
        match &self.engine {
            Engine::Sqlite(engine) => engine.record_resend(claim, count).await,
        }
    }

    /// Ends a claim, with all that follows from `settlement` in one transaction. Also stores the
    /// report, unless one is stored.
    ///
    /// A repeated finish or retry succeeds and changes nothing: it is recognised by the record of
    /// its attempt under this claim number, or by the row. A park and a release leave no such
    /// record: repeated, they are a lost claim, and the caller drops the job.
    ///
    /// # Errors
    /// [`StoreError::ClaimLost`], or the write failed.
    pub async fn settle(
        &self,
        claim: Claim,
        report: Option<&Report>,
        settlement: Settlement,
    ) -> Result<(), StoreError> {
        match &self.engine {
            Engine::Sqlite(engine) => engine.settle(claim, report, settlement).await,
        }
    }

    /// Registers a worker and grants its lease. It can claim jobs as long as it renews the lease. A
    /// repeat counts as a heartbeat.
    ///
    /// # Errors
    /// The write failed.
    pub async fn register(&self, owner: OwnerId) -> Result<(), StoreError> {
        match &self.engine {
            Engine::Sqlite(engine) => engine.register(owner).await,
        }
    }

    /// Renews the lease of `owner` (its heartbeat), which has `ended` so many jobs since it
    /// registered. Returns the heartbeats of all other workers, which of its own claims were
    /// cancelled, and what is paused. A repeat is one more heartbeat.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] if the lease expired and the jobs were reclaimed; otherwise the
    /// write failed.
    pub async fn renew(&self, owner: OwnerId, ended: u64) -> Result<Renewal, StoreError> {
        match &self.engine {
            Engine::Sqlite(engine) => engine.renew(owner, ended).await,
        }
    }

    /// Expires the lease of a worker that has not renewed it since `seen`, and reclaims its jobs:
    /// they become `PENDING`. A job that the worker held alone and that has now lost `max_claims`
    /// (at least 2) claims in a row becomes `FAILED` as a poison job. Returns `None` if the worker
    /// has renewed its lease or another process expired it first, as an earlier call may have.
    ///
    /// # Errors
    /// The write failed.
    pub async fn expire(
        &self,
        seen: Heartbeat,
        max_claims: u32,
    ) -> Result<Option<Expired>, StoreError> {
        match &self.engine {
            Engine::Sqlite(engine) => engine.expire(seen, max_claims).await,
        }
    }

    /// Ends the lease of `owner` and releases its jobs (event `given_back`). Returns how many.
    /// The worker must have stopped working on all of them. A repeat releases nothing.
    ///
    /// # Errors
    /// The write failed.
    pub async fn deregister(&self, owner: OwnerId) -> Result<usize, StoreError> {
        match &self.engine {
            Engine::Sqlite(engine) => engine.deregister(owner).await,
        }
    }

    /// Cancels the unfinished job of a request within `scope`. It becomes `FAILED` (`cancelled`),
    /// no callback is sent, and the worker that holds it has lost its claim. If the request has
    /// ended and a redelivery is in progress, cancels that, and leaves the request's outcome as it
    /// is.
    ///
    /// A repeat succeeds and changes nothing. That of a cancelled redelivery is
    /// [`Uncancellable::Over`].
    ///
    /// # Errors
    /// Inner: the request can't be cancelled. Outer: as for [`Store::accept`].
    pub async fn cancel(
        &self,
        scope: Scope,
        id: RequestId,
    ) -> Result<Result<Cancelled, Uncancellable>, StoreError> {
        match &self.engine {
            Engine::Sqlite(engine) => engine.cancel(scope, id).await,
        }
    }

    /// Pauses `what` in the name of `operator`, and records that. From its commit on, no claim
    /// succeeds while everything is paused; workers learn of the origins with their heartbeats.
    /// Returns whether it was not paused before: a repeat changes nothing, and is recorded, too.
    ///
    /// # Errors
    /// Inner: there are [`MAX_PAUSED_ORIGINS`]. Outer: as for [`Store::accept`].
    pub async fn pause(
        &self,
        what: Paused,
        operator: ClientName,
    ) -> Result<Result<bool, TooManyPauses>, StoreError> {
        match &self.engine {
            Engine::Sqlite(engine) => engine.pause(what, operator).await,
        }
    }

    /// Ends the pause of `what` in the name of `operator`, and records that. To resume everything
    /// leaves paused origins paused. Returns whether it was paused: a repeat changes nothing, and
    /// is recorded, too.
    ///
    /// # Errors
    /// As for [`Store::accept`].
    pub async fn resume(&self, what: Paused, operator: ClientName) -> Result<bool, StoreError> {
        match &self.engine {
            Engine::Sqlite(engine) => engine.resume(what, operator).await,
        }
    }

    /// The pauses in force: that of everything first, then the origins in the order of their text.
    ///
    /// # Errors
    /// The read failed, or the read queue is full.
    pub async fn pauses(&self) -> Result<Vec<Pause>, StoreError> {
        match &self.engine {
            Engine::Sqlite(engine) => engine.pauses().await,
        }
    }

    /// Reads a page of the requests of all tenants that an operator's action is for. A page can be
    /// short, or empty, and have a next one: it examines a limited number of requests.
    ///
    /// # Errors
    /// The read failed, or the read queue is full.
    pub async fn select(&self, page: SelectionPage) -> Result<Selected, StoreError> {
        match &self.engine {
            Engine::Sqlite(engine) => engine.select(page).await,
        }
    }

    /// Does `bulk` and records it, in one transaction. Returns how many requests it has changed. A
    /// repeat is recorded, too. It cancels nothing else; for redeliveries, [`Store::redeliver`]
    /// says what becomes of each.
    ///
    /// # Errors
    /// As for [`Store::accept`].
    pub async fn apply(&self, bulk: Bulk) -> Result<usize, StoreError> {
        match &self.engine {
            Engine::Sqlite(engine) => engine.apply(bulk).await,
        }
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
        match &self.engine {
            Engine::Sqlite(engine) => engine.audit(before, limit).await,
        }
    }

    /// Erases a finished request within `scope`: its payload, result and URL, and every text that
    /// can name them. Its outcome stays, and its idempotency key goes on to refuse submissions. It
    /// can't be redelivered any more. A repeat succeeds and changes nothing.
    ///
    /// # Errors
    /// Inner: the request can't be erased. Outer: as for [`Store::accept`].
    pub async fn erase(
        &self,
        scope: Scope,
        id: RequestId,
    ) -> Result<Result<Erased, Unerasable>, StoreError> {
        match &self.engine {
            Engine::Sqlite(engine) => engine.erase(scope, id).await,
        }
    }

    /// The origin of the callback of a request within `scope`, if it has a callback.
    ///
    /// # Errors
    /// Inner: [`Unredeliverable::Unknown`]. Outer: the read failed, or the read queue is full.
    pub async fn origin_of(
        &self,
        scope: Scope,
        id: RequestId,
    ) -> Result<Result<Option<Origin>, Unredeliverable>, StoreError> {
        match &self.engine {
            Engine::Sqlite(engine) => engine.origin_of(scope, id).await,
        }
    }

    /// Starts a redelivery of a request within `scope`: the same bytes to the same URL, in a new
    /// series of attempts. The status stays as it is, unless the redelivery of a `FAILED` request
    /// succeeds.
    ///
    /// A repeat is [`Unredeliverable::UnderWay`], or one more redelivery if the first one has ended
    /// already: a caller that can't bear that does not repeat it.
    ///
    /// # Errors
    /// Inner: the request can't be redelivered. Outer: as for [`Store::accept`].
    pub async fn redeliver(
        &self,
        scope: Scope,
        id: RequestId,
    ) -> Result<Result<(), Unredeliverable>, StoreError> {
        match &self.engine {
            Engine::Sqlite(engine) => engine.redeliver(scope, id).await,
        }
    }

    /// Starts redeliveries of all redeliverable `ids` in one transaction. Returns how many. For a
    /// repeat, [`Store::redeliver`] says what becomes of each.
    ///
    /// # Errors
    /// As for [`Store::accept`].
    pub async fn redeliver_all(
        &self,
        scope: Scope,
        ids: Vec<RequestId>,
    ) -> Result<usize, StoreError> {
        match &self.engine {
            Engine::Sqlite(engine) => engine.redeliver_all(scope, ids).await,
        }
    }

    /// Reads a page of the redeliverable requests within `scope`.
    ///
    /// # Errors
    /// The read failed.
    pub async fn redeliverable(
        &self,
        scope: Scope,
        page: RedeliveryPage,
    ) -> Result<Redeliverable, StoreError> {
        match &self.engine {
            Engine::Sqlite(engine) => engine.redeliverable(scope, page).await,
        }
    }

    /// Deletes requests that ended longer than `keep` ago, of one batch of those after `after`,
    /// with their attempts, events and bodies. A redelivery in progress keeps its request, and so
    /// does an idempotency key whose window is not over.
    ///
    /// # Errors
    /// The read or the write failed, or the read queue is full.
    pub async fn sweep(
        &self,
        keep: Duration,
        after: Option<RequestId>,
    ) -> Result<Swept, StoreError> {
        match &self.engine {
            Engine::Sqlite(engine) => engine.sweep(keep, after).await,
        }
    }

    /// Finds a request by id, of any tenant.
    ///
    /// # Errors
    /// The read failed, or the read queue is full.
    pub async fn find(&self, id: RequestId) -> Result<Option<Request>, StoreError> {
        self.find_within(Scope::All, id).await
    }

    /// Finds a request by id within `scope`. A request outside the scope is not found.
    ///
    /// # Errors
    /// As for [`Store::find`].
    pub async fn find_within(
        &self,
        scope: Scope,
        id: RequestId,
    ) -> Result<Option<Request>, StoreError> {
        match &self.engine {
            Engine::Sqlite(engine) => engine.find(scope, id).await,
        }
    }

    /// Reads a page of the requests within `scope`, newest first. A page can be short, or empty,
    /// and have a next one: it examines a limited number of requests.
    ///
    /// # Errors
    /// As for [`Store::find`].
    pub async fn list(&self, scope: Scope, page: ListPage) -> Result<RequestList, StoreError> {
        match &self.engine {
            Engine::Sqlite(engine) => engine.list(scope, page).await,
        }
    }

    /// Counts for an operator. Each count ends at [`COUNTED`] rows, which bounds the read to about
    /// a second.
    ///
    /// # Errors
    /// As for [`Store::find`].
    pub async fn stats(&self) -> Result<Stats, StoreError> {
        match &self.engine {
            Engine::Sqlite(engine) => engine.stats().await,
        }
    }

    /// Checks that the database can be read and written, and that what is written can be found
    /// again by the next start. However many ask, a process writes once a second: the result of
    /// that write can be a second old.
    ///
    /// # Errors
    /// The read or the write failed, the read queue is full, or the database was moved or deleted.
    pub async fn check(&self) -> Result<(), StoreError> {
        match &self.engine {
            Engine::Sqlite(engine) => engine.check().await,
        }
    }

    /// Why the last transaction failed, or `None` if it was committed where the next start finds
    /// it.
    pub fn trouble(&self) -> Option<Trouble> {
        match &self.engine {
            Engine::Sqlite(engine) => engine.trouble(),
        }
    }

    /// What the engine has measured, for [`StoreMetrics`].
    fn measures(&self) -> &Measures {
        match &self.engine {
            Engine::Sqlite(engine) => engine.measures(),
        }
    }

    /// The queues of writes and of reads, for [`StoreMetrics`].
    fn queue_levels(&self) -> (QueueLevel, QueueLevel) {
        match &self.engine {
            Engine::Sqlite(engine) => engine.queue_levels(),
        }
    }

    /// Completes when the store was closed, or when one of its threads ended (which is logged).
    /// The process must be restarted then.
    pub async fn ended(&self) {
        match &self.engine {
            Engine::Sqlite(engine) => engine.ended().await,
        }
    }

    /// Commits all queued writes and closes the database. Later operations fail.
    pub async fn close(&self) {
        match &self.engine {
            Engine::Sqlite(engine) => engine.close().await,
        }
    }
}
