//! How a request comes into the table.

use jiff::Timestamp;
use rusqlite::{Connection, params};

use super::{Store, StoreError, rows};
use crate::{
    models::{CallbackUrl, ClientName, Failure, Mode, ReportSpec, RequestId, Status, Traceparent},
    services::report::Report,
};

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

impl Store {
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
pub(super) fn insert_probe(tx: &Connection, id: RequestId) -> rusqlite::Result<()> {
    tx.prepare_cached(
        "INSERT INTO requests (id, mode, status, input_payload, created_at)
         VALUES (?1, 'async', 'PENDING', '{}', ?2)",
    )?
    .execute(params![id.to_string(), rows::time(id.created_at())])
    .map(drop)
}
