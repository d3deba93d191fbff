//! The record of attempts: a row of `attempts` for each, but for the successful callback with which
//! a job ends. Most jobs have only that one, so it is in the row that their end writes anyway.

use tokio_postgres::types::Type;

use super::{columns, error::Error, session::Session};
use crate::services::store::{
    AttemptRecord, Claim,
    delivered::{KEPT, duration_ms},
};

/// What an attempt that is recorded again does: the number is only taken if the row was edited by
/// hand. That must not block the job.
pub(super) const REPLACE: &str = "ON CONFLICT (request_id, number) DO UPDATE SET
    started_at = excluded.started_at, duration_ms = excluded.duration_ms, stage = excluded.stage,
    class = excluded.class, status = excluded.status, error = excluded.error,
    internal_detail = excluded.internal_detail, claim = excluded.claim";

/// Records an attempt under the claim that made it, and deletes what is too old.
pub(super) async fn record(
    session: &Session,
    claim: &Claim,
    attempted: &AttemptRecord,
) -> Result<(), Error> {
    // Numbers are consecutive, so the newest one determines which are too old.
    let sql = format!(
        "WITH old AS (
             DELETE FROM attempts WHERE request_id = $1 AND number <= $2::integer - {KEPT})
         INSERT INTO attempts (request_id, number, started_at, duration_ms, stage, class, status,
             error, internal_detail, claim)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) {REPLACE}"
    );
    let (error, internal_detail) = (
        attempted.error.as_deref().map(columns::text),
        attempted.internal_detail.as_deref().map(columns::text),
    );
    session
        .execute(
            &sql,
            &[
                (&claim.id.uuid(), Type::UUID),
                (&columns::number(attempted.number), Type::INT4),
                (&columns::stored(attempted.started_at), Type::TIMESTAMPTZ),
                (&i64::from(duration_ms(attempted)), Type::INT8),
                (&attempted.stage.as_str(), Type::TEXT),
                (&attempted.class.as_str(), Type::TEXT),
                (&attempted.status.map(i32::from), Type::INT4),
                (&error, Type::TEXT),
                (&internal_detail, Type::TEXT),
                (&claim.number, Type::INT8),
            ],
        )
        .await
        .map(drop)
}
