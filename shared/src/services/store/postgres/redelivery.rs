//! Redelivery: a new series of callback attempts for a finished request.

use tokio_postgres::types::Type;
use uuid::Uuid;

use super::{columns, error::Error, session::Session, state::WORK_FAILED};
use crate::{models::RequestId, services::store::Outcome};

/// Locks a request. Whoever changes a redelivery under way locks its request first, so that two do
/// not wait for each other.
pub(super) async fn lock(session: &Session, id: RequestId) -> Result<(), Error> {
    let lock = "SELECT 1 FROM requests WHERE id = $1 FOR NO KEY UPDATE";
    session
        .query(lock, &[(&id.uuid(), Type::UUID)])
        .await
        .map(drop)
}

/// Ends redeliveries, whose requests are locked, with `outcome`, or without one if they were
/// cancelled. Each request has then what its redelivery has counted and who ended it, and is kept
/// for as long as if it had ended now.
pub(super) async fn end(
    session: &Session,
    ids: &[RequestId],
    outcome: Option<&Outcome>,
) -> Result<(), Error> {
    // A redelivery that fails does not change the status, and so not what comes with it. One that
    // succeeds does not make up for work that has failed.
    let set = match outcome {
        None => String::new(),
        Some(Outcome::Completed) => format!(
            ", status = CASE WHEN {WORK_FAILED} THEN it.status ELSE 'COMPLETED' END,
             completed_at = CASE WHEN it.status = 'COMPLETED' OR {WORK_FAILED} THEN it.completed_at
                                 ELSE greatest(now(), it.created_at) END,
             failure_reason = CASE WHEN {WORK_FAILED} THEN it.failure_reason END,
             failure_detail = CASE WHEN {WORK_FAILED} THEN it.failure_detail END"
        ),
        Some(Outcome::Failed(_)) => format!(
            ", failure_reason = CASE WHEN it.status = 'COMPLETED' OR {WORK_FAILED}
                                     THEN it.failure_reason ELSE $2 END,
             failure_detail = CASE WHEN it.status = 'COMPLETED' OR {WORK_FAILED}
                                   THEN it.failure_detail ELSE $3 END"
        ),
    };
    // A job that was put back by hand meanwhile has another claim.
    let update = format!(
        "UPDATE requests AS it SET claim = r.claim, owner = r.owner, attempts = r.attempts,
             parks = r.parks, lost_claims = r.lost_claims, ended = now(){set}
         FROM redeliveries AS r
         WHERE r.id = it.id AND it.id = ANY($1) AND it.status IN ('COMPLETED', 'FAILED')"
    );
    let ids: Vec<Uuid> = ids.iter().map(|id| id.uuid()).collect();
    let ids = (&ids as _, Type::UUID_ARRAY);
    let failure = outcome.and_then(Outcome::failure);
    let detail = failure.map(|failure| columns::text(&failure.detail));
    let reason = failure.map(|failure| failure.reason.as_str());
    match failure {
        None => session.execute(&update, &[ids.clone()]).await?,
        Some(_) => {
            let why = [
                ids.clone(),
                (&reason as _, Type::TEXT),
                (&detail as _, Type::TEXT),
            ];
            session.execute(&update, &why).await?
        }
    };
    let delete = "DELETE FROM redeliveries WHERE id = ANY($1)";
    session.execute(delete, &[ids]).await.map(drop)
}
