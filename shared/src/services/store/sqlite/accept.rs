//! Inserting requests: accepting async jobs and recording sync requests.

use jiff::Timestamp;
use rusqlite::{Connection, ErrorCode, params};

use super::{bodies, clock::StoreTime, columns};
use crate::{
    models::{CallbackUrl, ClientName, Failure, Mode, RequestId, Status},
    services::store::NewJob,
};

/// Inserts an async job, which is `due` then. Succeeds without a change if the same job is there
/// already, in whatever state.
pub(super) fn insert_job(tx: &Connection, job: &NewJob, due: StoreTime) -> rusqlite::Result<()> {
    let (input, callback) = (&*job.input, job.callback.as_ref());
    let sent = Sent {
        mode: Mode::Async,
        created_at: columns::time(job.created_at),
        input,
        callback: callback.map(CallbackUrl::as_str),
        created_by: job.created_by.as_ref(),
        handler: columns::handler(&job.handler),
    };
    tx.prepare_cached(
        "INSERT INTO requests (id, mode, status, input_payload, callback_url, created_at,
             callback_target, traceparent, created_by, origin, due, is_long, in_bodies, handler)
         VALUES (?1, 'async', 'PENDING', ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
    )?
    .execute(params![
        job.id.to_string(),
        bodies::in_row(input),
        sent.callback,
        sent.created_at,
        callback
            .map(CallbackUrl::target)
            // Null if the normal form equals the URL as sent.
            .filter(|target| callback.is_some_and(|url| url.as_str() != *target)),
        job.traceparent.map(|traceparent| traceparent.to_string()),
        job.created_by.as_ref().map(ClientName::as_str),
        callback.map(|url| url.origin().as_str()),
        due.millis(),
        job.is_long,
        bodies::bits(input, None),
        columns::handler(&job.handler),
    ])
    .and_then(|_| bodies::insert(tx, job.id, input, None))
    .or_else(|error| sent.unless_stored(tx, job.id, error))
}

/// Inserts a sync request that is over. `input` and `result` are JSON. Succeeds without a change if
/// the same request is there already.
pub(super) fn insert_sync(
    tx: &Connection,
    id: RequestId,
    created_at: Timestamp,
    input: &str,
    created_by: Option<&ClientName>,
    ended: &Result<String, Failure>,
    now: StoreTime,
) -> rusqlite::Result<()> {
    let result = ended.as_deref().ok();
    let failure = ended.as_ref().err();
    let status = failure.map_or(Status::Completed, |_| Status::Failed);
    let sent = Sent {
        mode: Mode::Sync,
        created_at: columns::time(created_at),
        input,
        callback: None,
        created_by,
        handler: None,
    };
    tx.prepare_cached(
        "INSERT INTO requests (id, mode, status, input_payload, result_payload,
             created_at, completed_at, failure_reason, failure_detail, created_by, ended, in_bodies)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
    )?
    .execute(params![
        id.to_string(),
        sent.mode.as_str(),
        status.as_str(),
        bodies::in_row(input),
        result.map(bodies::in_row),
        sent.created_at,
        // The wall clock may have been set back since.
        columns::time(Timestamp::now().max(created_at)),
        failure.map(|failure| failure.reason.as_str()),
        failure.map(|failure| failure.detail.as_str()),
        created_by.map(ClientName::as_str),
        now.millis(),
        bodies::bits(input, result),
    ])
    .and_then(|_| bodies::insert(tx, id, input, result))
    .or_else(|error| sent.unless_stored(tx, id, error))
}

/// What a client sent, which never changes. It tells a repeat of the same write from another
/// request with this id.
struct Sent<'a> {
    mode: Mode,
    created_at: String,
    input: &'a str,
    callback: Option<&'a str>,
    created_by: Option<&'a ClientName>,
    handler: Option<&'a str>,
}

impl Sent<'_> {
    /// The `error` of an insert, unless it is that this request is stored already.
    fn unless_stored(
        &self,
        tx: &Connection,
        id: RequestId,
        error: rusqlite::Error,
    ) -> rusqlite::Result<()> {
        // Only after the insert has failed: looking first would cost every request a search.
        if error.sqlite_error_code() != Some(ErrorCode::ConstraintViolation) {
            return Err(error);
        }
        let stored: bool = tx
            .prepare_cached(&format!(
                // Of an erased request only the rest can be compared.
                "SELECT count(*) FROM requests
                 WHERE id = ?1 AND mode = ?2 AND created_at = ?3 AND created_by IS ?6
                   AND handler IS ?7
                   AND (erased_at IS NOT NULL OR ({} = ?4 AND callback_url IS ?5))",
                bodies::INPUT
            ))?
            .query_one(
                params![
                    id.to_string(),
                    self.mode.as_str(),
                    self.created_at,
                    self.input,
                    self.callback,
                    self.created_by.map(ClientName::as_str),
                    self.handler,
                ],
                |row| row.get(0),
            )?;
        if stored { Ok(()) } else { Err(error) }
    }
}
