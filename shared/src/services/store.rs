//! The store: the source of truth for every request. All SQL of the project is in this module.
//!
//! Each process has one [`Store`]. It owns one writer, which commits all queued writes in one
//! transaction (group commit, `writer`), and a few read-only connections (`readers`). Operations
//! are domain verbs and expose no SQL, so another database can implement them. Operations that
//! insert a request are in `accepting`, writes under a claim in `claimed`, and redelivery in
//! `redelivery`.

mod accepting;
mod attempts;
mod claim;
mod claimed;
mod condition;
mod connection;
mod error;
mod events;
mod files;
mod lease;
mod log;
mod opening;
mod private;
mod readers;
mod redelivery;
mod rows;
mod schema;
mod waiting;
mod writer;

use std::sync::Arc;

use jiff::Timestamp;

use crate::{
    config::StoreSettings,
    models::{ClientName, Request, RequestId},
};

pub use accepting::NewJob;
pub use attempts::AttemptRecord;
pub use claim::{Candidate, Claim, Job, OwnerId};
pub use claimed::Outcome;
pub use error::{StoreError, Trouble};
pub use lease::{Expired, Heartbeat, quarantine_threshold};
use readers::Readers;
pub use redelivery::{Redeliverable, RedeliveryPage, Unredeliverable};
pub use waiting::{DueJobs, DueQuery};
use writer::Writer;

/// The file descriptors of an open store: the database and its write-ahead log for the writer and
/// each reader, their shared memory, and, for moments, a folder that is synced and a file that is
/// inspected or copied.
pub(crate) const DESCRIPTORS: usize = 2 * (1 + readers::CONNECTIONS) + 1 + 2;

/// The threads of an open store: one for each connection.
pub(crate) const THREADS: usize = 1 + readers::CONNECTIONS;

/// A cheap-clone handle to the store.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

struct Shared {
    id: String,
    writer: Writer,
    readers: Readers,
}

/// The tenant scope of an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All requests, including those created without a client name.
    All,
    /// Only the requests of this client.
    Of(ClientName),
}

impl Scope {
    /// The value to compare with `created_by`; null matches every row.
    fn name(&self) -> Option<&str> {
        match self {
            Self::All => None,
            Self::Of(name) => Some(name.as_str()),
        }
    }
}

impl Store {
    /// Opens the database and migrates it. Creates the file and its directory if they don't exist.
    ///
    /// Retries without a time limit while the file is locked, the disk is full, or the directory is
    /// not writable. Drop the future on shutdown.
    ///
    /// # Errors
    /// The file is not an `SQLite` database, belongs to another program, has a newer schema than
    /// this version supports, or is damaged. Nothing was written to it.
    pub async fn open(settings: &StoreSettings) -> Result<Self, StoreError> {
        let opened = opening::open(settings).await?;
        Ok(Self {
            shared: Arc::new(Shared {
                id: opened.id,
                writer: Writer::start(opened.writer.into(), opened.files, settings.write_queue),
                readers: Readers::start(opened.readers),
            }),
        })
    }

    /// The store's random id. Queue entries carry it, so that stores can share one Redis.
    pub fn id(&self) -> &str {
        &self.shared.id
    }

    /// Claims `candidates` in one transaction. Candidates that changed since they were read, or
    /// don't exist in this store, are skipped.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] if `owner` has no lease; otherwise the write failed. In both cases
    /// nothing was claimed.
    pub async fn claim(
        &self,
        owner: OwnerId,
        candidates: Vec<Candidate>,
    ) -> Result<Vec<Job>, StoreError> {
        self.shared
            .writer
            .write(move |tx| {
                // In the claim's transaction: a worker whose lease expired must not claim.
                if lease::is_held(tx, owner)? {
                    claim::claim_all(tx, owner, &candidates).map(Some)
                } else {
                    Ok(None)
                }
            })
            .await?
            .ok_or(StoreError::LeaseLost)
    }

    /// Reads the due jobs that have lost no claim, and when the next job becomes due.
    ///
    /// # Errors
    /// The read failed.
    pub async fn due_jobs(&self, query: DueQuery) -> Result<DueJobs, StoreError> {
        self.shared
            .readers
            // A read outside the claim's transaction may be stale when the claim runs. That is
            // safe: the claim checks each candidate again.
            .read(move |db| waiting::due_jobs(db, query, Timestamp::now()))
            .await
    }

    /// Reads up to `limit` suspected poison jobs: claimable jobs whose earlier claims were lost
    /// with their workers. Fewest lost claims first.
    ///
    /// # Errors
    /// The read failed.
    pub async fn suspects(&self, limit: usize) -> Result<Vec<Candidate>, StoreError> {
        self.shared
            .readers
            .read(move |db| waiting::suspects(db, limit))
            .await
    }

    /// Makes up to `limit` jobs parked for `origin` due now. Returns how many.
    ///
    /// # Errors
    /// The write failed.
    pub async fn unpark(&self, origin: String, limit: usize) -> Result<usize, StoreError> {
        self.shared
            .writer
            .write(move |tx| waiting::unpark(tx, &origin, limit, Timestamp::now()))
            .await
    }

    /// Returns the origins with a backlog of at least `most` jobs.
    ///
    /// # Errors
    /// The read failed.
    pub async fn origins_over_limit(&self, most: usize) -> Result<Vec<String>, StoreError> {
        self.shared
            .readers
            .read(move |db| waiting::origins_over_limit(db, most))
            .await
    }

    /// Registers a worker and grants its lease. It can claim jobs as long as it renews the lease.
    ///
    /// # Errors
    /// The write failed.
    pub async fn register(&self, owner: OwnerId) -> Result<(), StoreError> {
        self.shared
            .writer
            .write(move |tx| lease::register(tx, owner))
            .await
    }

    /// Renews the lease of `owner` (its heartbeat). Returns the heartbeats of all other workers.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] if the lease expired and the jobs were reclaimed; otherwise the
    /// write failed.
    pub async fn renew(&self, owner: OwnerId) -> Result<Vec<Heartbeat>, StoreError> {
        self.shared
            .writer
            .write(move |tx| lease::renew(tx, owner))
            .await?
            .ok_or(StoreError::LeaseLost)
    }

    /// Expires the lease of a worker that has not renewed it since `seen`, and reclaims its jobs:
    /// they become `PENDING`. A job that the worker held alone and that has now lost `max_claims`
    /// (at least 2) claims in a row becomes `FAILED` as a poison job. Returns `None` if the worker
    /// has renewed its lease or another process expired it first.
    ///
    /// # Errors
    /// The write failed.
    pub async fn expire(
        &self,
        seen: Heartbeat,
        max_claims: u32,
    ) -> Result<Option<Expired>, StoreError> {
        self.shared
            .writer
            .write(move |tx| lease::expire(tx, &seen, max_claims))
            .await
    }

    /// Ends the lease of `owner` and releases its jobs (event `given_back`). Returns how many.
    /// The worker must have stopped working on all of them.
    ///
    /// # Errors
    /// The write failed.
    pub async fn deregister(&self, owner: OwnerId) -> Result<usize, StoreError> {
        self.shared
            .writer
            .write(move |tx| lease::deregister(tx, owner))
            .await
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
        self.shared
            .readers
            .read(move |db| rows::find(db, &scope, id))
            .await
    }

    /// Checks that the database can be read and written, and that its files are at their paths.
    ///
    /// # Errors
    /// The read or the write failed, the read queue is full, or a file was moved or deleted.
    pub async fn check(&self) -> Result<(), StoreError> {
        let checked = self.read_and_write().await;
        // Our own close removes the write-ahead log.
        if matches!(checked, Err(StoreError::Closed)) {
            return checked;
        }
        // First: a connection to a file that was moved can fail in many other ways.
        if self.shared.writer.files().check_all() {
            return Err(StoreError::Moved);
        }
        checked
    }

    async fn read_and_write(&self) -> Result<(), StoreError> {
        let read = |db: &rusqlite::Connection| db.query_row("SELECT 1 FROM store", [], |_| Ok(()));
        self.shared.readers.read(read).await?;
        // Insert and delete a row as large as a job's. It leaves no trace but needs as much disk
        // space as accepting a job, so a disk that can't hold one more job fails the check.
        let id = RequestId::generate();
        self.shared
            .writer
            .write(move |tx| {
                accepting::insert_probe(tx, id)?;
                tx.prepare_cached("DELETE FROM requests WHERE id = ?1")?
                    .execute([id.to_string()])
                    .map(drop)
            })
            .await
    }

    /// Why the last transaction failed, or `None` if it was committed to files at their paths.
    pub fn trouble(&self) -> Option<Trouble> {
        self.shared.writer.trouble()
    }

    /// Completes when the store was closed, or when one of its threads ended (which is logged).
    /// The process must be restarted then.
    pub async fn ended(&self) {
        tokio::select! {
            () = self.shared.writer.ended() => {}
            // Without its readers the store would refuse every read for ever, yet accept jobs.
            () = self.shared.readers.ended() => {}
        }
    }

    /// Commits all queued writes and closes the database. Later operations fail.
    pub async fn close(&self) {
        // Readers first: the last connection to close checkpoints the WAL and deletes it, and a
        // read-only one can't.
        self.shared.readers.close().await;
        self.shared.writer.close().await;
    }
}
