//! The store: the truth about every request. All SQL of the project stands in this module.
//!
//! One [`Store`] per process: one writer that takes whatever writes wait into one transaction
//! (`writer`), and a few readers with connections of their own (`readers`). Its operations are
//! the domain's, and none lets SQL through, so that another database can stand behind them.

mod attempts;
mod claim;
mod condition;
mod connection;
mod error;
mod events;
mod lease;
mod log;
mod opening;
mod readers;
mod redelivery;
mod rows;
mod schema;
mod waiting;
mod writer;

use std::sync::Arc;

use jiff::Timestamp;
use rusqlite::params;

use crate::{
    config::StoreSettings,
    models::{
        CallbackUrl, ClientName, EventKind, Failure, Mode, ReportSpec, Request, RequestId, Status,
        Traceparent,
    },
    services::report::Report,
};

pub use attempts::Attempted;
pub use claim::{Candidate, Claim, Job, OwnerId};
pub use error::{StoreError, Trouble};
pub use lease::{Expired, Heartbeat, runs_alone_from};
use readers::Readers;
pub use redelivery::{Found, Page, Unredeliverable};
use rows::set_work;
pub use waiting::{Look, Waiting};
use writer::Writer;

/// A handle to the store; clones share it.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

struct Shared {
    id: String,
    writer: Writer,
    readers: Readers,
}

/// An async job that is to be accepted.
#[derive(Clone, Debug)]
pub struct NewJob {
    /// Its id.
    pub id: RequestId,
    /// The report.
    pub spec: ReportSpec,
    /// Where to call back; without one, the client polls.
    pub callback: Option<CallbackUrl>,
    /// The trace that its caller has it belong to; without one it is one of its own.
    pub traceparent: Option<Traceparent>,
    /// The name of the token that asks for it, where the API asks for one.
    pub created_by: Option<ClientName>,
}

impl NewJob {
    /// A job that only its id tells from others like it: of nobody's, and in a trace of its own.
    pub fn new(id: RequestId, spec: ReportSpec, callback: Option<CallbackUrl>) -> Self {
        Self {
            id,
            spec,
            callback,
            traceparent: None,
            created_by: None,
        }
    }
}

/// Whose requests are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Everybody's, also those that were made without a name.
    All,
    /// This client's and no other's.
    Of(ClientName),
}

impl Scope {
    /// The name in the table; null for everybody.
    fn name(&self) -> Option<&str> {
        match self {
            Self::All => None,
            Self::Of(name) => Some(name.as_str()),
        }
    }
}

/// How a claimed job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Its receiver answered 2xx, or there is none.
    Completed,
    /// It can't be, or was not, delivered.
    Failed(Failure),
}

impl Store {
    /// Opens the database, making it and its folder when there is none, and migrates it.
    ///
    /// A lock, a full disk, a folder that can't be written to are waited for, however long they last:
    /// drop the future when the process is told to end.
    ///
    /// # Errors
    /// The file is no database, another program's, of a newer version than this one knows, damaged, or
    /// not this user's to write. Nothing was written to it.
    pub async fn open(settings: &StoreSettings) -> Result<Self, StoreError> {
        let opened = opening::open(settings).await?;
        Ok(Self {
            shared: Arc::new(Shared {
                id: opened.id,
                writer: Writer::start(opened.writer.into(), settings.write_queue),
                readers: Readers::start(opened.readers),
            }),
        })
    }

    /// The store's random id, which the queue's entries carry.
    pub fn id(&self) -> &str {
        &self.shared.id
    }

    /// Makes an async job durable: when this returns, the row is committed.
    ///
    /// # Errors
    /// [`StoreError::QueueFull`] at once where too many writes wait already; or the write
    /// failed, and there is no row.
    pub async fn accept(&self, job: NewJob) -> Result<(), StoreError> {
        let input = rows::to_json(&job.spec);
        self.shared
            .writer
            .try_write(move |tx| insert_job(tx, &job, &input))
            .await
    }

    /// Records a sync request, once, when it is over; `created_by` is the name of the token that asked for it.
    ///
    /// # Errors
    /// As for [`Store::accept`].
    pub async fn record_sync(
        &self,
        id: RequestId,
        spec: &ReportSpec,
        created_by: Option<ClientName>,
        ended: Result<&Report, &Failure>,
    ) -> Result<(), StoreError> {
        let input = rows::to_json(spec);
        let result = ended.ok().map(rows::to_json);
        let failure = ended.err().cloned();
        self.shared
            .writer
            .try_write(move |tx| {
                let status = failure
                    .as_ref()
                    .map_or(Status::Completed, |_| Status::Failed);
                tx.prepare_cached(
                    "INSERT INTO requests (id, mode, status, input_payload, result_payload,
                         created_at, completed_at, failure_reason, failure_detail, created_by)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
                )?
                .execute(params![
                    id.to_string(),
                    Mode::Sync.as_str(),
                    status.as_str(),
                    input,
                    result,
                    rows::time(id.created_at()),
                    rows::time(Timestamp::now()),
                    failure.as_ref().map(|failure| failure.reason.as_str()),
                    failure.as_ref().map(|failure| failure.detail.as_str()),
                    created_by.as_ref().map(ClientName::as_str),
                ])?;
                Ok(())
            })
            .await
    }

    /// Claims those of `candidates` that are still as they were seen, in one transaction; the others
    /// are somebody else's, over, or no rows of this store, and left out.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] where `owner` has no lease; or the write failed, and nothing was
    /// claimed.
    pub async fn claim(
        &self,
        owner: OwnerId,
        candidates: Vec<Candidate>,
    ) -> Result<Vec<Job>, StoreError> {
        self.shared
            .writer
            .write(move |tx| {
                if lease::is_held(tx, owner)? {
                    claim::claim_all(tx, owner, &candidates).map(Some)
                } else {
                    Ok(None)
                }
            })
            .await?
            .ok_or(StoreError::LeaseLost)
    }

    /// The jobs that may be claimed now and that no worker died with, and when the next one may.
    ///
    /// # Errors
    /// The read failed.
    pub async fn waiting(&self, look: Look) -> Result<Waiting, StoreError> {
        self.shared
            .readers
            .read(move |db| waiting::look(db, look, Timestamp::now()))
            .await
    }

    /// Up to `limit` jobs that may be claimed and that workers died with, those first that the fewest did.
    ///
    /// # Errors
    /// The read failed.
    pub async fn suspects(&self, limit: usize) -> Result<Vec<Candidate>, StoreError> {
        self.shared
            .readers
            .read(move |db| waiting::suspects(db, limit))
            .await
    }

    /// Stores a job's report before its first callback, so that no crash can cost it again; one that
    /// is stored already stays. For one that is quickly made again, the write of the first outcome
    /// will do.
    ///
    /// # Errors
    /// [`StoreError::ClaimLost`], or the write failed.
    pub async fn store_result(&self, claim: Claim, report: &Report) -> Result<(), StoreError> {
        let result = rows::to_json(report);
        self.write_claimed(claim, None, move |tx, claim| {
            tx.prepare_cached(
                "UPDATE requests SET result_payload = coalesce(result_payload, ?4)
                 WHERE id = ?1 AND owner = ?2 AND claim = ?3 AND work = 'PROCESSING'",
            )?
            .execute(params![
                claim.id.to_string(),
                claim.owner,
                claim.number,
                result
            ])
        })
        .await
    }

    /// Lets go of a job whose attempt failed, until the next one is due at `next_attempt_at`: it is
    /// `PENDING`, and waits in the table alone. The report is stored with it, unless it has been.
    ///
    /// # Errors
    /// [`StoreError::ClaimLost`], or the write failed.
    pub async fn await_retry(
        &self,
        claim: Claim,
        report: &Report,
        failed: Attempted,
        next_attempt_at: Timestamp,
    ) -> Result<(), StoreError> {
        let result = rows::to_json(report);
        let number = failed.number;
        self.write_claimed(claim, Some(failed), move |tx, claim| {
            tx.prepare_cached(concat!(
                "UPDATE requests SET ",
                set_work!("PENDING"),
                ", owner = NULL, lost_claims = 0, attempts = ?4, next_attempt_at = ?5,
                 parked_since = NULL, result_payload = coalesce(result_payload, ?6)
                 WHERE id = ?1 AND owner = ?2 AND claim = ?3 AND work = 'PROCESSING'",
            ))?
            .execute(params![
                claim.id.to_string(),
                claim.owner,
                claim.number,
                number,
                rows::time(next_attempt_at),
                result,
            ])
        })
        .await
    }

    /// Lets go of a job for its receiver's sake, without an attempt, until `next_attempt_at`. The report
    /// is stored with it, unless it has been.
    ///
    /// # Errors
    /// [`StoreError::ClaimLost`], or the write failed.
    pub async fn park(
        &self,
        claim: Claim,
        report: &Report,
        next_attempt_at: Timestamp,
    ) -> Result<(), StoreError> {
        let result = rows::to_json(report);
        self.write_claimed(claim, None, move |tx, claim| {
            tx.prepare_cached(concat!(
                "UPDATE requests SET ",
                set_work!("PENDING"),
                ", owner = NULL, lost_claims = 0, next_attempt_at = ?4,
                 parks = parks + 1, parked_since = coalesce(parked_since, ?5),
                 result_payload = coalesce(result_payload, ?6)
                 WHERE id = ?1 AND owner = ?2 AND claim = ?3 AND work = 'PROCESSING'",
            ))?
            .execute(params![
                claim.id.to_string(),
                claim.owner,
                claim.number,
                rows::time(next_attempt_at),
                rows::time(Timestamp::now()),
                result,
            ])
        })
        .await
    }

    /// Lets up to `limit` jobs that are parked for `origin` go on now. Returns how many there were.
    ///
    /// # Errors
    /// The write failed.
    pub async fn unpark(&self, origin: String, limit: usize) -> Result<usize, StoreError> {
        self.shared
            .writer
            .write(move |tx| waiting::unpark(tx, &origin, limit, Timestamp::now()))
            .await
    }

    /// The origins for which at least `most` jobs wait.
    ///
    /// # Errors
    /// The read failed.
    pub async fn crowded_origins(&self, most: usize) -> Result<Vec<String>, StoreError> {
        self.shared
            .readers
            .read(move |db| waiting::crowded_origins(db, most))
            .await
    }

    /// Ends a job, or its redelivery, with the last attempt, if one was made. Its report, if it has one,
    /// is stored with it, unless it has been. One that was completed before stays so, however its
    /// redelivery ends.
    ///
    /// # Errors
    /// [`StoreError::ClaimLost`], or the write failed.
    pub async fn finalise(
        &self,
        claim: Claim,
        report: Option<&Report>,
        last: Option<Attempted>,
        outcome: Outcome,
    ) -> Result<(), StoreError> {
        let result = report.map(rows::to_json);
        let (status, failure) = match outcome {
            Outcome::Completed => (Status::Completed, None),
            Outcome::Failed(failure) => (Status::Failed, Some(failure)),
        };
        let number = last.as_ref().map(|last| last.number);
        self.write_claimed(claim, last, move |tx, claim| {
            tx.prepare_cached(
                "UPDATE requests SET
                     status = iif(status = 'COMPLETED', status, ?4),
                     completed_at = iif(status IN ('COMPLETED', ?4), completed_at, ?6),
                     failure_reason = iif(status = 'COMPLETED', failure_reason, ?7),
                     failure_detail = iif(status = 'COMPLETED', failure_detail, ?8),
                     redelivery = NULL, parked_since = NULL, attempts = coalesce(?5, attempts),
                     result_payload = coalesce(result_payload, ?9)
                 WHERE id = ?1 AND owner = ?2 AND claim = ?3 AND work = 'PROCESSING'",
            )?
            .execute(params![
                claim.id.to_string(),
                claim.owner,
                claim.number,
                status.as_str(),
                number,
                rows::time(Timestamp::now()),
                failure.as_ref().map(|failure| failure.reason.as_str()),
                failure.as_ref().map(|failure| failure.detail.as_str()),
                result,
            ])
        })
        .await
    }

    /// Begins to deliver a request of `scope` once more: the same bytes to the same URL, in a new series of
    /// attempts. Its status stays what it is, unless the redelivery of a `FAILED` one gets through.
    ///
    /// # Errors
    /// Within: it can't be delivered once more. As for [`Store::accept`]: the write failed.
    pub async fn redeliver(
        &self,
        scope: Scope,
        id: RequestId,
    ) -> Result<Result<(), Unredeliverable>, StoreError> {
        self.shared
            .writer
            .try_write(move |tx| redelivery::begin(tx, &scope, id))
            .await
    }

    /// The same for all of `ids` that it can be done for, in one transaction. Returns how many these were.
    ///
    /// # Errors
    /// As for [`Store::accept`].
    pub async fn redeliver_all(
        &self,
        scope: Scope,
        ids: Vec<RequestId>,
    ) -> Result<usize, StoreError> {
        self.shared
            .writer
            .try_write(move |tx| {
                let mut begun = 0;
                for id in ids {
                    begun += usize::from(redelivery::begin(tx, &scope, id)?.is_ok());
                }
                Ok(begun)
            })
            .await
    }

    /// A page of the requests of `scope` that can be delivered once more.
    ///
    /// # Errors
    /// The read failed.
    pub async fn redeliverable(&self, scope: Scope, page: Page) -> Result<Found, StoreError> {
        self.shared
            .readers
            .read(move |db| redelivery::find(db, &scope, &page))
            .await
    }

    /// Enters `owner` among the workers: from here on it can claim jobs, as long as it renews.
    ///
    /// # Errors
    /// The write failed.
    pub async fn register(&self, owner: OwnerId) -> Result<(), StoreError> {
        self.shared
            .writer
            .write(move |tx| lease::register(tx, owner))
            .await
    }

    /// Renews the lease of `owner`, and tells who else has one.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] where it was declared dead, and its jobs are others' now; or the
    /// write failed.
    pub async fn renew(&self, owner: OwnerId) -> Result<Vec<Heartbeat>, StoreError> {
        self.shared
            .writer
            .write(move |tx| lease::renew(tx, owner))
            .await?
            .ok_or(StoreError::LeaseLost)
    }

    /// Declares a worker dead that has not renewed since it was `seen`, and makes its jobs `PENDING`
    /// again; a job that it held alone and that has lost `max_claims` (at least 2) claims in a row by now
    /// is `FAILED`. None, if the worker has renewed, or somebody else was quicker.
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

    /// Gives back every job that `owner` holds, and its lease. It must not be working on any of them
    /// any more. Returns how many there were.
    ///
    /// # Errors
    /// The write failed.
    pub async fn resign(&self, owner: OwnerId) -> Result<usize, StoreError> {
        self.shared
            .writer
            .write(move |tx| lease::resign(tx, owner))
            .await
    }

    /// The request of that id, whose ever it is.
    ///
    /// # Errors
    /// The read failed, or too many reads wait already.
    pub async fn find(&self, id: RequestId) -> Result<Option<Request>, StoreError> {
        self.find_within(Scope::All, id).await
    }

    /// The request of that id within `scope`; one outside of it is as good as none.
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

    /// Answers when the database has been read and written.
    ///
    /// # Errors
    /// It can't be, or too many reads wait.
    pub async fn check(&self) -> Result<(), StoreError> {
        let read = |db: &rusqlite::Connection| db.query_row("SELECT 1 FROM store", [], |_| Ok(()));
        self.shared.readers.read(read).await?;
        // What accepting a job takes, and back again: nothing has changed when it is committed, and yet
        // as much has been written. A disk that has room for less is full.
        let id = RequestId::generate();
        self.shared
            .writer
            .write(move |tx| {
                insert_probe(tx, id)?;
                tx.prepare_cached("DELETE FROM requests WHERE id = ?1")?
                    .execute([id.to_string()])
                    .map(drop)
            })
            .await
    }

    /// What kept the last write from being committed, if something did.
    pub fn trouble(&self) -> Option<Trouble> {
        self.shared.writer.trouble()
    }

    /// Completes when the store does nothing any more: it was closed, or a thread of it has ended, which
    /// is in the log then. Nothing but a new process helps.
    pub async fn ended(&self) {
        tokio::select! {
            () = self.shared.writer.ended() => {}
            () = self.shared.readers.ended() => {}
        }
    }

    /// Commits what waits, and closes the database. Every later operation is refused.
    pub async fn close(&self) {
        self.shared.readers.close().await;
        self.shared.writer.close().await;
    }

    /// A write that names its claim and must find it in force. With it goes the record of the attempt that
    /// it tells of.
    async fn write_claimed(
        &self,
        claim: Claim,
        attempted: Option<Attempted>,
        write: impl FnOnce(&rusqlite::Connection, &Claim) -> rusqlite::Result<usize> + Send + 'static,
    ) -> Result<(), StoreError> {
        let rows = self
            .shared
            .writer
            .write(move |tx| {
                let rows = write(tx, &claim)?;
                if rows > 0
                    && let Some(attempted) = attempted
                {
                    attempts::record(tx, &claim, &attempted)?;
                    if attempted.may_repeat() {
                        let class = attempted.class.as_str();
                        events::record(tx, &claim, EventKind::AttemptFailed, Some(class))?;
                    }
                }
                Ok(rows)
            })
            .await?;
        if rows == 0 {
            Err(StoreError::ClaimLost)
        } else {
            Ok(())
        }
    }
}

fn insert_job(tx: &rusqlite::Connection, job: &NewJob, input: &str) -> rusqlite::Result<()> {
    let callback = job.callback.as_ref();
    tx.prepare_cached(
        "INSERT INTO requests (id, mode, status, input_payload, callback_url, created_at,
             callback_target, traceparent, created_by)
         VALUES (?1, 'async', 'PENDING', ?2, ?3, ?4, ?5, ?6, ?7)",
    )?
    .execute(params![
        job.id.to_string(),
        input,
        callback.map(CallbackUrl::as_str),
        rows::time(job.id.created_at()),
        callback
            .map(CallbackUrl::target)
            .filter(|target| callback.is_some_and(|url| url.as_str() != *target)),
        job.traceparent.map(|traceparent| traceparent.to_string()),
        job.created_by.as_ref().map(ClientName::as_str),
    ])
    .map(drop)
}

/// A row like a job's, but for what it asks for.
fn insert_probe(tx: &rusqlite::Connection, id: RequestId) -> rusqlite::Result<()> {
    tx.prepare_cached(
        "INSERT INTO requests (id, mode, status, input_payload, created_at)
         VALUES (?1, 'async', 'PENDING', '{}', ?2)",
    )?
    .execute(params![id.to_string(), rows::time(id.created_at())])
    .map(drop)
}
