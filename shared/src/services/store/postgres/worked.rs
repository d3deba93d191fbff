//! What came of the work of a claimed job, before its first callback.

use tokio_postgres::types::Type;

use super::{
    attempts, columns,
    confirm::confirm,
    error::Error,
    session::{Parameter, Session},
    state::{self, IS_HELD},
};
use crate::services::store::{AttemptRecord, Claim, Work, WorkResult, Worked};

/// Stores what came of the work of a claimed job, and the attempt that it took, if it is recorded.
/// Returns whether the claim is held. A stored result is never replaced.
///
/// The callback's attempts are counted from there on. Once the work is done, nothing changes.
pub(super) async fn store(
    session: &Session,
    claim: &Claim,
    worked: &Worked,
    attempt: Option<&AttemptRecord>,
) -> Result<bool, Error> {
    let set = match claim.work {
        Work::Job => &format!(
            "result_payload = {},
             failure_reason = CASE WHEN it.is_long THEN coalesce($5, it.failure_reason)
                                   ELSE it.failure_reason END,
             failure_detail = CASE WHEN it.is_long THEN coalesce($6, it.failure_detail)
                                   ELSE it.failure_detail END,
             attempts = CASE WHEN it.is_long THEN coalesce($7, it.attempts) ELSE it.attempts END,
             attempts_before = CASE WHEN it.is_long THEN coalesce($7, it.attempts)
                                    ELSE it.attempts_before END,
             is_long = false",
            state::kept_result("$4::text")
        ),
        // It has its result.
        Work::Redelivery => "claim = it.claim",
    };
    let sql = format!(
        "UPDATE {} AS it SET {set} WHERE {IS_HELD}",
        state::table(claim.work)
    );
    let (result, failure) = (worked.as_ref().ok(), worked.as_ref().err());
    let result = result.map(WorkResult::as_str);
    let reason = failure.map(|failure| failure.reason.as_str());
    let detail = failure.map(|failure| columns::text(&failure.detail));
    let number = attempt.map(|attempt| columns::number(attempt.number));
    let (id, owner) = (claim.id.uuid(), claim.owner.uuid());
    let values: [Parameter<'_>; 7] = [
        (&id, Type::UUID),
        (&owner, Type::UUID),
        (&claim.number, Type::INT8),
        (&result, Type::TEXT),
        (&reason, Type::TEXT),
        (&detail, Type::TEXT),
        (&number, Type::INT4),
    ];
    if session.execute(&sql, &values).await? == 0 {
        confirm(session).await?;
        return Ok(false);
    }
    if let Some(attempt) = attempt {
        attempts::record(session, claim, attempt).await?;
    }
    Ok(true)
}
