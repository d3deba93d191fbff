//! Inserting requests: accepting async jobs and recording sync requests.

use jiff::Timestamp;
use rusqlite::{Connection, params};

use super::{Store, StoreError, rows};
use crate::{
    models::{CallbackUrl, ClientName, Failure, Mode, ReportSpec, RequestId, Status, Traceparent},
    services::report::Report,
};

/// A new async job.
#[derive(Clone, Debug)]
pub struct NewJob {
    /// The job's id.
    pub id: RequestId,
    /// The report to generate.
    pub spec: ReportSpec,
    /// The callback URL; if `None`, the client polls.
    pub callback: Option<CallbackUrl>,
    /// The caller's trace context; if `None`, the job starts a trace of its own.
    pub traceparent: Option<Traceparent>,
    /// The client name of the token; `None` without authentication.
    pub created_by: Option<ClientName>,
}

impl NewJob {
    /// A job without a client name and without a caller's trace.
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

impl Store {
    /// Accepts an async job. When this returns `Ok`, the row is committed.
    ///
    /// # Errors
    /// [`StoreError::QueueFull`] at once if the write queue is full; otherwise the write failed and
    /// no row exists.
    pub async fn accept(&self, job: NewJob) -> Result<(), StoreError> {
        // Before the write: its closure runs in a transaction that other writes share.
        let input = rows::to_json(&job.spec);
        self.shared
            .writer
            // Load shedding: the API answers 503, while a worker's writes wait for room.
            .try_write(move |tx| insert_job(tx, &job, &input))
            .await
    }

    /// Records a finished sync request. `created_by` is the client name of its token.
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
}

fn insert_job(tx: &Connection, job: &NewJob, input: &str) -> rusqlite::Result<()> {
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
        // The time in the id, so that the order of ids is the order of `created_at`.
        rows::time(job.id.created_at()),
        callback
            .map(CallbackUrl::target)
            // Null if the normal form equals the URL as sent.
            .filter(|target| callback.is_some_and(|url| url.as_str() != *target)),
        job.traceparent.map(|traceparent| traceparent.to_string()),
        job.created_by.as_ref().map(ClientName::as_str),
    ])
    .map(drop)
}

/// Inserts a row of a job's shape for [`Store::check`]. No worker sees it: the same transaction
/// deletes it.
pub(super) fn insert_probe(tx: &Connection, id: RequestId) -> rusqlite::Result<()> {
    tx.prepare_cached(
        "INSERT INTO requests (id, mode, status, input_payload, created_at)
         VALUES (?1, 'async', 'PENDING', '{}', ?2)",
    )?
    .execute(params![id.to_string(), rows::time(id.created_at())])
    .map(drop)
}
