//! The embedded engine: `SQLite` in WAL mode, on a local disk of one host.
//!
//! Each process has one writer, which commits all queued writes in one transaction (group commit,
//! `writer`), and a few read-only connections (`readers`). This file says which of them runs each
//! verb; the files below hold the SQL.

mod accept;
mod attempts;
mod audit;
pub(super) mod backup;
mod bodies;
mod bulk;
mod cancel;
mod checkpoint;
mod claim;
mod clock;
mod columns;
mod connection;
mod erase;
mod events;
mod files;
mod find;
mod health;
mod idempotency;
mod lease;
mod list;
mod load;
mod look;
mod oldest_due;
mod open;
mod pause;
mod private;
mod readers;
mod recent;
mod redelivery;
mod retention;
mod schema;
mod settle;
mod sizes;
mod state;
mod stats;
mod trouble;
pub(super) mod vacuum;
mod writer;

use std::{path::PathBuf, sync::Arc, time::Duration};

use jiff::Timestamp;
use rusqlite::Connection;
use tokio::sync::Semaphore;

use self::{
    cancel::Canceller,
    claim::ClaimedRows,
    clock::{Clock, StoreTime},
    connection::Opened,
    idempotency::KeyedJob,
    look::Turn,
    readers::Readers,
    recent::Recent,
    writer::{Bodies, Writer},
};
use super::{
    Acceptance, AuditRecord, Bulk, Cancelled, Candidate, Capacity, Claim, Claimed, DueJobs, Erased,
    Expired, Heartbeat, ListPage, Load, NewJob, OwnerId, Pause, Paused, Redeliverable,
    RedeliveryPage, Renewal, RequestList, Scope, Selected, SelectionPage, Settlement, Stats,
    StoreError, Swept, TooManyPauses, Trouble, Uncancellable, Unerasable, Unredeliverable,
    metrics::{Measures, QueueLevel},
};
use crate::{
    config::StoreSettings,
    models::{ClientName, Destination, Failure, Origin, ReportSpec, Request, RequestId},
    services::report::Report,
};

/// The file descriptors of an open database: the file and its write-ahead log for the writer and
/// each reader, their shared memory, and, for moments, a folder that is synced and a file that is
/// inspected or copied.
pub(super) const DESCRIPTORS: usize = 2 * (1 + readers::CONNECTIONS) + 1 + 2;

/// The threads of an open database: one for each connection.
pub(super) const THREADS: usize = 1 + readers::CONNECTIONS;

/// The most pages of lists that wait to be read, with the one that is read. Each takes some 20 ms
/// at most.
const LIST_QUEUE: usize = 64;

/// An open database.
pub(super) struct Sqlite {
    path: PathBuf,
    id: String,
    clock: Arc<Clock>,
    turn: Arc<Turn>,
    list_queue: Arc<Semaphore>,
    writer: Writer,
    readers: Readers,
    recent_read: Recent,
    recent_write: Recent,
    idempotency_window: Duration,
}

impl Sqlite {
    pub(super) async fn open(settings: &StoreSettings) -> Result<Self, StoreError> {
        Ok(Self::start(open::open(settings).await?, settings))
    }

    pub(super) async fn attach(settings: &StoreSettings) -> Result<Self, StoreError> {
        Ok(Self::start(open::attach(settings).await?, settings))
    }

    fn start(opened: Opened, settings: &StoreSettings) -> Self {
        let clock = Arc::new(opened.clock);
        let writer = Writer::start(
            opened.writer.into(),
            opened.files,
            Arc::clone(&clock),
            settings.write_queue,
        );
        writer.measures().measured(opened.sizes);
        Self {
            path: settings.path.clone(),
            id: opened.id,
            writer,
            clock,
            turn: Arc::default(),
            list_queue: Arc::new(Semaphore::new(LIST_QUEUE)),
            readers: Readers::start(opened.readers),
            recent_read: Recent::with_period(Duration::ZERO),
            recent_write: Recent::with_period(Duration::from_secs(1)),
            idempotency_window: settings.idempotency_window,
        }
    }

    /// `act` with the store time at which it runs.
    fn timed<T>(
        &self,
        act: impl FnOnce(&Connection, StoreTime) -> T + Send + 'static,
    ) -> impl FnOnce(&Connection) -> T + Send + 'static {
        let clock = Arc::clone(&self.clock);
        move |connection| act(connection, clock.now())
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    pub(super) async fn accept(&self, job: NewJob) -> Result<Acceptance, StoreError> {
        // Before the write: its closure runs in a transaction that other writes share.
        let input = columns::to_json(&job.spec);
        let now = self.clock.now();
        let due = now.after(job.notification_grace);
        let keyed = KeyedJob::of(&job);
        let window = self.idempotency_window;
        let bodies = Bodies {
            bytes: input.len(),
            memory: job.memory.clone(),
        };
        self.writer
            // Load shedding: the API answers 503, while a worker's writes wait for room.
            .try_write_bodies(bodies, move |tx| {
                if let Some(keyed) = keyed
                    && let Some(earlier) = idempotency::take(tx, &keyed, now, window)?
                {
                    return Ok(earlier);
                }
                accept::insert_job(tx, &job, &input, due)?;
                Ok(Acceptance::Stored)
            })
            .await
    }

    pub(super) async fn accepted_before(
        &self,
        job: &NewJob,
    ) -> Result<Option<Acceptance>, StoreError> {
        let Some(keyed) = KeyedJob::of(job) else {
            return Ok(None);
        };
        self.readers
            .read(self.timed(move |db, now| idempotency::find(db, &keyed, now)))
            .await
    }

    pub(super) async fn record_sync(
        &self,
        id: RequestId,
        created_at: Timestamp,
        spec: &ReportSpec,
        created_by: Option<ClientName>,
        ended: Result<&Report, &Failure>,
    ) -> Result<(), StoreError> {
        let input = columns::to_json(spec);
        let ended = ended.map(columns::to_json).map_err(Clone::clone);
        let bodies = Bodies::of(input.len() + ended.as_ref().map_or(0, String::len));
        let insert = self.timed(move |tx, now| {
            accept::insert_sync(tx, id, created_at, &input, created_by.as_ref(), &ended, now)
        });
        self.writer.try_write_bodies(bodies, insert).await
    }

    pub(super) async fn claim(
        &self,
        owner: OwnerId,
        candidates: Vec<Candidate>,
        room: usize,
    ) -> Result<Claimed, StoreError> {
        self.claim_by(owner, move |tx| {
            let mut claimed = ClaimedRows::within(room);
            claimed.claim(tx, owner, candidates)?;
            Ok(claimed)
        })
        .await
    }

    pub(super) async fn claim_again(
        &self,
        owner: OwnerId,
        candidates: Vec<Candidate>,
        room: usize,
    ) -> Result<Claimed, StoreError> {
        self.claim_by(owner, move |tx| {
            let mut claimed = ClaimedRows::within(room);
            let others = claimed.find_won(tx, owner, candidates)?;
            claimed.claim(tx, owner, others)?;
            Ok(claimed)
        })
        .await
    }

    async fn claim_by(
        &self,
        owner: OwnerId,
        claim: impl FnOnce(&Connection) -> rusqlite::Result<ClaimedRows> + Send + 'static,
    ) -> Result<Claimed, StoreError> {
        let claimed = self.writer.write(move |tx| {
            // In the claim's transaction: a worker whose lease expired must not claim.
            if lease::is_held(tx, owner)? {
                claim(tx).map(Some)
            } else {
                Ok(None)
            }
        });
        let claimed = claimed.await?.ok_or(StoreError::LeaseLost)?;
        Ok(claimed.parse(self.clock.now()))
    }

    pub(super) async fn due_jobs(&self, capacity: Capacity) -> Result<DueJobs, StoreError> {
        let turn = Arc::clone(&self.turn);
        self.readers
            // A read outside the claim's transaction may be stale when the claim runs. That is
            // safe: the claim checks each candidate again.
            .read(self.timed(move |db, now| look::due_jobs(db, &capacity, &turn, now)))
            .await
    }

    pub(super) async fn suspects(&self, limit: usize) -> Result<Vec<Candidate>, StoreError> {
        self.readers.read(move |db| look::suspects(db, limit)).await
    }

    pub(super) async fn oldest_due_age(&self) -> Result<Duration, StoreError> {
        self.readers
            .read(self.timed(oldest_due::oldest_due_age))
            .await
    }

    pub(super) async fn unpark(
        &self,
        destination: Destination,
        limit: usize,
    ) -> Result<usize, StoreError> {
        self.writer
            .write(self.timed(move |tx, now| look::unpark(tx, &destination, limit, now)))
            .await
    }

    pub(super) async fn unpark_origin(
        &self,
        origin: Origin,
        limit: usize,
    ) -> Result<usize, StoreError> {
        self.writer
            .write(self.timed(move |tx, now| look::unpark_origin(tx, &origin, limit, now)))
            .await
    }

    pub(super) async fn destinations_over_limit(
        &self,
        most: usize,
    ) -> Result<Vec<Destination>, StoreError> {
        self.readers
            .read(move |db| look::destinations_over_limit(db, most))
            .await
    }

    pub(super) async fn load(&self, most: usize, grace: Duration) -> Result<Load, StoreError> {
        let count = self.timed(move |db: &Connection, now| load::load(db, most, now.after(grace)));
        self.readers.read_long(count).await
    }

    pub(super) async fn store_result(
        &self,
        claim: Claim,
        report: &Report,
    ) -> Result<(), StoreError> {
        let result = columns::to_json(report);
        let bodies = Bodies::of(result.len());
        self.write_claimed(bodies, move |tx| settle::store_result(tx, &claim, &result))
            .await
    }

    pub(super) async fn record_resend(&self, claim: Claim, count: u32) -> Result<(), StoreError> {
        self.write_claimed(Bodies::default(), move |tx| {
            events::record_resend(tx, &claim, count)
        })
        .await
    }

    pub(super) async fn settle(
        &self,
        claim: Claim,
        report: Option<&Report>,
        settlement: Settlement,
    ) -> Result<(), StoreError> {
        let result = report.map(columns::to_json);
        let bodies = Bodies::of(result.as_ref().map_or(0, String::len));
        let settle = self
            .timed(move |tx, now| settle::settle(tx, &claim, result.as_deref(), &settlement, now));
        self.write_claimed(bodies, settle).await
    }

    /// Runs `write`, which stores `bodies` and returns whether the claim that it names is held.
    async fn write_claimed(
        &self,
        bodies: Bodies,
        write: impl FnOnce(&Connection) -> rusqlite::Result<bool> + Send + 'static,
    ) -> Result<(), StoreError> {
        if self.writer.write_bodies(bodies, write).await? {
            Ok(())
        } else {
            Err(StoreError::ClaimLost)
        }
    }

    pub(super) async fn register(&self, owner: OwnerId) -> Result<(), StoreError> {
        self.writer
            .write(move |tx| lease::register(tx, owner))
            .await
    }

    pub(super) async fn renew(&self, owner: OwnerId, ended: u64) -> Result<Renewal, StoreError> {
        self.writer
            .write(move |tx| lease::renew(tx, owner, ended))
            .await?
            .ok_or(StoreError::LeaseLost)
    }

    pub(super) async fn expire(
        &self,
        seen: Heartbeat,
        max_claims: u32,
    ) -> Result<Option<Expired>, StoreError> {
        self.writer
            .write(self.timed(move |tx, now| lease::expire(tx, seen, max_claims, now)))
            .await
    }

    pub(super) async fn deregister(&self, owner: OwnerId) -> Result<usize, StoreError> {
        self.writer
            .write(self.timed(move |tx, now| lease::deregister(tx, owner, now)))
            .await
    }

    pub(super) async fn cancel(
        &self,
        scope: Scope,
        id: RequestId,
    ) -> Result<Result<Cancelled, Uncancellable>, StoreError> {
        self.writer
            .try_write(
                self.timed(move |tx, now| cancel::cancel(tx, &scope, id, Canceller::Client, now)),
            )
            .await
    }

    pub(super) async fn pause(
        &self,
        what: Paused,
        operator: ClientName,
    ) -> Result<Result<bool, TooManyPauses>, StoreError> {
        self.writer
            .try_write(move |tx| pause::begin(tx, &what, &operator))
            .await
    }

    pub(super) async fn resume(
        &self,
        what: Paused,
        operator: ClientName,
    ) -> Result<bool, StoreError> {
        self.writer
            .try_write(move |tx| pause::end(tx, &what, &operator))
            .await
    }

    pub(super) async fn pauses(&self) -> Result<Vec<Pause>, StoreError> {
        self.readers.read(pause::list).await
    }

    pub(super) async fn select(&self, page: SelectionPage) -> Result<Selected, StoreError> {
        self.read_many(move |db| bulk::select(db, &page)).await
    }

    pub(super) async fn apply(&self, bulk: Bulk) -> Result<usize, StoreError> {
        self.writer
            .try_write(self.timed(move |tx, now| bulk::apply(tx, &bulk, now)))
            .await
    }

    pub(super) async fn audit(
        &self,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Vec<AuditRecord>, StoreError> {
        self.readers
            .read(move |db| audit::read(db, before, limit))
            .await
    }

    pub(super) async fn erase(
        &self,
        scope: Scope,
        id: RequestId,
    ) -> Result<Result<Erased, Unerasable>, StoreError> {
        let erase = move |tx: &Connection| erase::erase(tx, &scope, id);
        let erased = self.writer.try_write(erase).await?;
        if erased.is_ok() {
            self.writer.erase_log();
        }
        Ok(erased)
    }

    pub(super) async fn origin_of(
        &self,
        scope: Scope,
        id: RequestId,
    ) -> Result<Result<Option<Origin>, Unredeliverable>, StoreError> {
        self.readers
            .read(move |db| redelivery::origin_of(db, &scope, id))
            .await
    }

    pub(super) async fn redeliver(
        &self,
        scope: Scope,
        id: RequestId,
    ) -> Result<Result<(), Unredeliverable>, StoreError> {
        self.writer
            .try_write(self.timed(move |tx, now| redelivery::begin(tx, &scope, id, true, now)))
            .await
    }

    pub(super) async fn redeliver_all(
        &self,
        scope: Scope,
        ids: Vec<RequestId>,
    ) -> Result<usize, StoreError> {
        self.writer
            .try_write(self.timed(move |tx, now| redelivery::begin_all(tx, &scope, &ids, now)))
            .await
    }

    pub(super) async fn redeliverable(
        &self,
        scope: Scope,
        page: RedeliveryPage,
    ) -> Result<Redeliverable, StoreError> {
        self.readers
            .read(move |db| redelivery::find(db, &scope, &page))
            .await
    }

    pub(super) async fn sweep(
        &self,
        keep: Duration,
        after: Option<RequestId>,
    ) -> Result<Swept, StoreError> {
        let cutoff = self.clock.now().before(keep);
        let look = move |db: &Connection| retention::look(db, after, cutoff);
        let Some(batch) = self.readers.read(look).await? else {
            return Ok(Swept::default());
        };
        if !batch.is_due() {
            return Ok(batch.swept);
        }
        let swept = batch.swept;
        let delete = self.timed(move |tx, now| retention::delete(tx, &batch, now, keep));
        let deleted = self.writer.write(delete).await?;
        Ok(Swept { deleted, ..swept })
    }

    pub(super) async fn find(
        &self,
        scope: Scope,
        id: RequestId,
    ) -> Result<Option<Request>, StoreError> {
        let clock = Arc::clone(&self.clock);
        self.readers
            .read(move |db| find::find(db, &scope, id, &clock))
            .await
    }

    pub(super) async fn list(
        &self,
        scope: Scope,
        page: ListPage,
    ) -> Result<RequestList, StoreError> {
        self.read_many(move |db| list::list(db, &scope, &page))
            .await
    }

    /// Runs a read that examines many rows.
    async fn read_many<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let queued = self.list_queue.try_acquire();
        let _queued = queued.map_err(|_| StoreError::QueueFull)?;
        self.readers.read_long(read).await
    }

    pub(super) async fn stats(&self) -> Result<Stats, StoreError> {
        let (path, id, clock) = (self.path.clone(), self.id.clone(), Arc::clone(&self.clock));
        self.readers
            .read(move |db| stats::read(db, &path, id, clock.now()))
            .await
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
