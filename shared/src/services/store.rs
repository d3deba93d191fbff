//! The store: the truth about every request. All SQL of the project stands in this module.
//!
//! One [`Store`] per process: one writer that takes whatever writes wait into one transaction
//! (`writer`), and a few readers with connections of their own (`readers`). Its operations are
//! the domain's, and none lets SQL through, so that another database can stand behind them.

mod claim;
mod connection;
mod error;
mod readers;
mod rows;
mod schema;
mod writer;

use std::{sync::Arc, time::SystemTime};

use jiff::Timestamp;
use rusqlite::params;

use crate::{
    config::StoreSettings,
    models::{Failure, Mode, ReportSpec, Request, RequestId, Status},
    services::report::Report,
};

pub use claim::{Claim, Job, OwnerId};
pub use error::StoreError;
use readers::Readers;
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
    /// # Errors
    /// The file can't be opened, is another program's, or of a newer version than this one knows.
    pub async fn open(settings: &StoreSettings) -> Result<Self, StoreError> {
        let (connection, id) = connection::open_writer(settings).await?;
        let writer = Writer::start(connection, settings.write_queue);
        let readers = Readers::open(settings).await?;
        Ok(Self {
            shared: Arc::new(Shared {
                id,
                writer,
                readers,
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
    pub async fn accept(
        &self,
        id: RequestId,
        spec: &ReportSpec,
        callback_url: Option<String>,
    ) -> Result<(), StoreError> {
        let input = rows::to_json(spec);
        self.shared
            .writer
            .try_write(move |tx| {
                tx.prepare_cached(
                    "INSERT INTO requests (id, mode, status, input_payload, callback_url, created_at)
                     VALUES (?1, 'async', 'PENDING', ?2, ?3, ?4)",
                )?
                .execute(params![id.to_string(), input, callback_url, rows::time(id.created_at())])?;
                Ok(())
            })
            .await
    }

    /// Records a sync request, once, when it is over.
    ///
    /// # Errors
    /// As for [`Store::accept`].
    pub async fn record_sync(
        &self,
        id: RequestId,
        spec: &ReportSpec,
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
                         created_at, completed_at, failure_reason, failure_detail)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
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
                ])?;
                Ok(())
            })
            .await
    }

    /// Claims those of `ids` that are still `PENDING`, in one transaction; the others are somebody
    /// else's, over, or no rows of this store, and left out.
    ///
    /// # Errors
    /// The write failed, and nothing was claimed.
    pub async fn claim(&self, owner: OwnerId, ids: Vec<RequestId>) -> Result<Vec<Job>, StoreError> {
        self.shared
            .writer
            .write(move |tx| claim::claim_all(tx, owner, &ids))
            .await
    }

    /// Up to `limit` jobs that are `PENDING` and were accepted before `moment`, oldest first.
    ///
    /// # Errors
    /// The read failed.
    pub async fn pending_before(
        &self,
        moment: SystemTime,
        limit: usize,
    ) -> Result<Vec<RequestId>, StoreError> {
        let floor = RequestId::floor(moment).to_string();
        self.shared
            .readers
            .read(move |db| {
                db.prepare_cached(
                    "SELECT id FROM requests WHERE status = 'PENDING' AND mode = 'async' AND id < ?1
                     ORDER BY id LIMIT ?2",
                )?
                .query_map(params![floor, rows::integer(limit)], |row| {
                    rows::parsed(row, 0)
                })?
                .collect()
            })
            .await
    }

    /// Stores a job's report before its first callback, so that no crash can cost it again. For one
    /// that is quickly made again, the write of the first outcome will do.
    ///
    /// # Errors
    /// [`StoreError::ClaimLost`], or the write failed.
    pub async fn store_result(&self, claim: Claim, report: &Report) -> Result<(), StoreError> {
        let result = rows::to_json(report);
        self.write_claimed(claim, move |tx, claim| {
            tx.prepare_cached(
                "UPDATE requests SET result_payload = ?4
                 WHERE id = ?1 AND owner = ?2 AND claim = ?3 AND status = 'PROCESSING'",
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

    /// Notes that an attempt failed and that the next one is due at `next_attempt_at`.
    ///
    /// `attempts` counts the attempts whose outcome is known, this one included. The report is stored
    /// with it, unless it has been.
    ///
    /// # Errors
    /// [`StoreError::ClaimLost`], or the write failed.
    pub async fn await_retry(
        &self,
        claim: Claim,
        report: &Report,
        attempts: u32,
        next_attempt_at: Timestamp,
    ) -> Result<(), StoreError> {
        let result = rows::to_json(report);
        self.write_claimed(claim, move |tx, claim| {
            tx.prepare_cached(
                "UPDATE requests SET attempts = ?4, next_attempt_at = ?5,
                     result_payload = coalesce(result_payload, ?6)
                 WHERE id = ?1 AND owner = ?2 AND claim = ?3 AND status = 'PROCESSING'",
            )?
            .execute(params![
                claim.id.to_string(),
                claim.owner,
                claim.number,
                attempts,
                rows::time(next_attempt_at),
                result,
            ])
        })
        .await
    }

    /// Ends a job. Its report, if it has one, is stored with it, unless it has been.
    ///
    /// # Errors
    /// [`StoreError::ClaimLost`], or the write failed.
    pub async fn finalise(
        &self,
        claim: Claim,
        report: Option<&Report>,
        attempts: u32,
        outcome: Outcome,
    ) -> Result<(), StoreError> {
        let result = report.map(rows::to_json);
        let (status, failure) = match outcome {
            Outcome::Completed => (Status::Completed, None),
            Outcome::Failed(failure) => (Status::Failed, Some(failure)),
        };
        self.write_claimed(claim, move |tx, claim| {
            tx.prepare_cached(
                "UPDATE requests SET status = ?4, attempts = max(attempts, ?5), next_attempt_at = NULL,
                     completed_at = ?6, failure_reason = ?7, failure_detail = ?8,
                     result_payload = coalesce(result_payload, ?9)
                 WHERE id = ?1 AND owner = ?2 AND claim = ?3 AND status = 'PROCESSING'",
            )?
            .execute(params![
                claim.id.to_string(),
                claim.owner,
                claim.number,
                status.as_str(),
                attempts,
                rows::time(Timestamp::now()),
                failure.as_ref().map(|failure| failure.reason.as_str()),
                failure.as_ref().map(|failure| failure.detail.as_str()),
                result,
            ])
        })
        .await
    }

    /// Gives a job back unfinished: it is `PENDING` again, with all that is stored of it.
    ///
    /// # Errors
    /// [`StoreError::ClaimLost`], or the write failed.
    pub async fn give_back(&self, claim: Claim) -> Result<(), StoreError> {
        self.write_claimed(claim, move |tx, claim| {
            tx.prepare_cached(
                "UPDATE requests SET status = 'PENDING', owner = NULL
                 WHERE id = ?1 AND owner = ?2 AND claim = ?3 AND status = 'PROCESSING'",
            )?
            .execute(params![claim.id.to_string(), claim.owner, claim.number])
        })
        .await
    }

    /// Gives back every job that `owner` holds. It must not be working on any of them any more.
    /// Returns how many there were.
    ///
    /// # Errors
    /// The write failed.
    pub async fn give_back_all(&self, owner: OwnerId) -> Result<usize, StoreError> {
        self.shared
            .writer
            .write(move |tx| {
                tx.prepare_cached(
                    "UPDATE requests SET status = 'PENDING', owner = NULL
                     WHERE status = 'PROCESSING' AND owner = ?1",
                )?
                .execute([owner])
            })
            .await
    }

    /// The request of that id.
    ///
    /// # Errors
    /// The read failed, or too many reads wait already.
    pub async fn find(&self, id: RequestId) -> Result<Option<Request>, StoreError> {
        self.shared.readers.read(move |db| rows::find(db, id)).await
    }

    /// Answers when the database can be read and written.
    ///
    /// # Errors
    /// It can't, or too many operations wait.
    pub async fn check(&self) -> Result<(), StoreError> {
        let read = |db: &rusqlite::Connection| db.query_row("SELECT 1 FROM store", [], |_| Ok(()));
        self.shared.readers.read(read).await?;
        // It takes the lock, and writes nothing.
        self.shared.writer.try_write(|_| Ok(())).await
    }

    /// Commits what waits, and closes the database. Every later operation is refused.
    pub async fn close(&self) {
        self.shared.readers.close().await;
        self.shared.writer.close().await;
    }

    /// A write that names its claim and must find it in force.
    async fn write_claimed(
        &self,
        claim: Claim,
        write: impl FnOnce(&rusqlite::Connection, &Claim) -> rusqlite::Result<usize> + Send + 'static,
    ) -> Result<(), StoreError> {
        let rows = self
            .shared
            .writer
            .write(move |tx| write(tx, &claim))
            .await?;
        if rows == 0 {
            Err(StoreError::ClaimLost)
        } else {
            Ok(())
        }
    }
}
