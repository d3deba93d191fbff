//! Recording sync requests, which are over.

use jiff::Timestamp;
use tokio_postgres::types::Type;

use super::{columns, confirm::confirm, error::Error, session::Session};
use crate::{
    models::{ClientName, Failure, RequestId, Status},
    services::store::{StoreError, Trouble},
};

/// A sync request that is over.
#[derive(Clone)]
pub(super) struct Ended {
    pub(super) id: RequestId,
    pub(super) created_at: Timestamp,
    /// JSON.
    pub(super) input: String,
    pub(super) created_by: Option<ClientName>,
    /// The report, as JSON.
    pub(super) outcome: Result<String, Failure>,
}

const INSERT: &str = "
INSERT INTO requests (id, mode, status, input_payload, result_payload, created_at, completed_at,
    failure_reason, failure_detail, created_by, ended)
VALUES ($1, 'sync', $5, $3::text::json, $6::text::json, $2, greatest(now(), $2), $7, $8, $4, now())
ON CONFLICT (id) DO NOTHING RETURNING id";

/// Whether the request under this id is the very one. Of an erased request only what is left can be
/// compared.
const IS_IT: &str = "
SELECT mode = 'sync' AND created_at = $2 AND created_by IS NOT DISTINCT FROM $4
    AND (erased_at IS NOT NULL OR input_payload::text = $3)
FROM requests WHERE id = $1";

/// Inserts a sync request. Succeeds without a change if the same request is there already; an error
/// within says that another one is.
pub(super) async fn insert(
    session: &Session,
    request: &Ended,
) -> Result<Result<(), StoreError>, Error> {
    let result = request.outcome.as_deref().ok();
    let failure = request.outcome.as_ref().err();
    let status = failure.map_or(Status::Completed, |_| Status::Failed);
    let detail = failure.map(|failure| columns::text(&failure.detail));
    let values = [
        (&request.id.uuid() as _, Type::UUID),
        (&columns::stored(request.created_at) as _, Type::TIMESTAMPTZ),
        (&request.input as _, Type::TEXT),
        (
            &request.created_by.as_ref().map(ClientName::as_str) as _,
            Type::TEXT,
        ),
        (&status.as_str() as _, Type::TEXT),
        (&result as _, Type::TEXT),
        (
            &failure.map(|failure| failure.reason.as_str()) as _,
            Type::TEXT,
        ),
        (&detail as _, Type::TEXT),
    ];
    if session.find(INSERT, &values).await?.is_some() {
        return Ok(Ok(()));
    }
    confirm(session).await?;
    let is_it = session.find(IS_IT, &values[..4]).await?;
    let is_it = is_it
        .map(|row| row.try_get(0))
        .transpose()?
        .unwrap_or(false);
    Ok(if is_it {
        Ok(())
    } else {
        Err(StoreError::Failed {
            trouble: Trouble::Other,
            message: "another request has this id".into(),
        })
    })
}
