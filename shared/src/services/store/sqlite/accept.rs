//! Inserting requests: accepting async jobs and recording sync requests.

use jiff::Timestamp;
use rusqlite::{Connection, params};

use super::{clock::StoreTime, columns};
use crate::{
    models::{CallbackUrl, ClientName, Failure, Mode, RequestId, Status},
    services::store::{LONG_JOB, NewJob},
};

/// Inserts an async job, which is `due` then. `input` is the JSON of its specification.
pub(super) fn insert_job(
    tx: &Connection,
    job: &NewJob,
    input: &str,
    due: StoreTime,
) -> rusqlite::Result<()> {
    let callback = job.callback.as_ref();
    tx.prepare_cached(
        "INSERT INTO requests (id, mode, status, input_payload, callback_url, created_at,
             callback_target, traceparent, created_by, origin, due, is_long)
         VALUES (?1, 'async', 'PENDING', ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
    )?
    .execute(params![
        job.id.to_string(),
        input,
        callback.map(CallbackUrl::as_str),
        columns::time(job.created_at),
        callback
            .map(CallbackUrl::target)
            // Null if the normal form equals the URL as sent.
            .filter(|target| callback.is_some_and(|url| url.as_str() != *target)),
        job.traceparent.map(|traceparent| traceparent.to_string()),
        job.created_by.as_ref().map(ClientName::as_str),
        callback.map(|url| url.origin().as_str()),
        due.millis(),
        job.spec.ideal_duration() > LONG_JOB,
    ])
    .map(drop)
}

/// Inserts a sync request that is over. `input` and `result` are JSON.
pub(super) fn insert_sync(
    tx: &Connection,
    id: RequestId,
    created_at: Timestamp,
    input: &str,
    created_by: Option<&ClientName>,
    ended: &Result<String, Failure>,
) -> rusqlite::Result<()> {
    let result = ended.as_ref().ok();
    let failure = ended.as_ref().err();
    let status = failure.map_or(Status::Completed, |_| Status::Failed);
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
        columns::time(created_at),
        // The wall clock may have been set back since.
        columns::time(Timestamp::now().max(created_at)),
        failure.map(|failure| failure.reason.as_str()),
        failure.map(|failure| failure.detail.as_str()),
        created_by.map(ClientName::as_str),
    ])
    .map(drop)
}
