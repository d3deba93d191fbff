//! What came of the work of a claimed job, before its first callback.

use tokio_postgres::types::Type;

use super::{
    attempts::REPLACE,
    columns,
    confirm::CONFIRM,
    error::Error,
    session::{Parameter, Sessions},
    state::{self, IS_HELD},
};
use crate::services::store::{
    AttemptRecord, Claim, Work, WorkResult, Worked,
    delivered::{KEPT, duration_ms},
};

/// Stores what came of the work of a claimed job, and the attempt that it took, if it is recorded.
/// Returns whether the claim is held. A stored result is never replaced.
///
/// The callback's attempts are counted from there on. Once the work is done, nothing changes. It is
/// one statement, and so one round trip: every job of a handler comes by here.
pub(super) async fn store(
    sessions: &Sessions,
    claim: &Claim,
    worked: &Worked,
    attempt: Option<&AttemptRecord>,
) -> Result<bool, Error> {
    let (result, failure) = (worked.as_ref().ok(), worked.as_ref().err());
    let result = result.map(WorkResult::as_str);
    let reason = failure.map(|failure| failure.reason.as_str());
    let detail = failure.map(|failure| columns::text(&failure.detail));
    let number = attempt.map(|attempt| columns::number(attempt.number));
    let (id, owner) = (claim.id.uuid(), claim.owner.uuid());
    let text = |text: &Option<String>| text.as_deref().map(columns::text);
    let values: [Parameter<'_>; 14] = [
        (&id, Type::UUID),
        (&owner, Type::UUID),
        (&claim.number, Type::INT8),
        (&result, Type::TEXT),
        (&reason, Type::TEXT),
        (&detail, Type::TEXT),
        (&number, Type::INT4),
        (
            &attempt.map(|it| columns::stored(it.started_at)),
            Type::TIMESTAMPTZ,
        ),
        (&attempt.map(|it| i64::from(duration_ms(it))), Type::INT8),
        (&attempt.map(|it| it.stage.as_str()), Type::TEXT),
        (&attempt.map(|it| it.class.as_str()), Type::TEXT),
        (&attempt.and_then(|it| it.status).map(i32::from), Type::INT4),
        (&attempt.and_then(|it| text(&it.error)), Type::TEXT),
        (
            &attempt.and_then(|it| text(&it.internal_detail)),
            Type::TEXT,
        ),
    ];
    let rows = sessions.commit_one(&sql(claim.work), &values).await?;
    Ok(match rows.first() {
        Some(row) => row.try_get(0)?,
        None => false,
    })
}

/// Its row says whether the claim is held.
fn sql(work: Work) -> String {
    let set = match work {
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
    format!(
        "WITH worked AS (
             UPDATE {} AS it SET {set} WHERE {IS_HELD} RETURNING it.id
         ), old AS (
             DELETE FROM attempts USING worked
             WHERE request_id = worked.id AND number <= $7::integer - {KEPT}
         ), attempted AS (
             INSERT INTO attempts (request_id, number, started_at, duration_ms, stage, class,
                 status, error, internal_detail, claim)
             SELECT id, $7, $8, $9, $10, $11, $12, $13, $14, $3 FROM worked WHERE $7 IS NOT NULL
             {REPLACE}
         )
         SELECT true, NULL FROM worked
         UNION ALL
         SELECT false, {CONFIRM} WHERE NOT EXISTS (SELECT FROM worked)",
        state::table(work)
    )
}
