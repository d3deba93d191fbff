//! The events of a job: failed attempts, lost claims, releases and resends, each a possible
//! duplicate delivery.
//!
//! Each statement here runs after one that has locked the rows of its requests. So it sees all
//! events of theirs, and the numbers count from 1 without gaps.

use tokio_postgres::types::Type;
use uuid::Uuid;

use super::{
    confirm::confirm,
    error::Error,
    session::Session,
    state::{self, IS_CLAIMED, IS_HELD},
};
use crate::{
    models::EventKind,
    services::store::{Claim, OwnerId, Work, delivered::KEPT},
};

/// Records an event of one claimed job.
pub(super) async fn record(
    session: &Session,
    claim: &Claim,
    kind: EventKind,
    detail: Option<&str>,
) -> Result<(), Error> {
    let sql = format!(
        "WITH new AS (
             INSERT INTO events (request_id, number, at, event, claim, detail)
             SELECT $1, 1 + coalesce(max(number), 0), now(), $2, $3, $4
             FROM events WHERE request_id = $1
             RETURNING number)
         DELETE FROM events
         WHERE request_id = $1 AND number <= (SELECT number FROM new) - {KEPT}"
    );
    session
        .execute(
            &sql,
            &[
                (&claim.id.uuid(), Type::UUID),
                (&kind.as_str(), Type::TEXT),
                (&claim.number, Type::INT8),
                (&detail, Type::TEXT),
            ],
        )
        .await
        .map(drop)
}

/// Records an event of every job that `owner` holds, but for those that are `left` to it.
pub(super) async fn record_all(
    session: &Session,
    owner: OwnerId,
    kind: EventKind,
    left: &[Uuid],
) -> Result<(), Error> {
    for table in Work::ALL.map(state::table) {
        let sql = format!(
            "WITH new AS (
                 INSERT INTO events (request_id, number, at, event, claim)
                 SELECT id, 1 + (SELECT coalesce(max(number), 0) FROM events
                                 WHERE request_id = held.id), now(), $2, claim
                 FROM {table} AS held WHERE {IS_CLAIMED} AND owner = $1 AND id <> ALL($3)
                 RETURNING request_id, number)
             DELETE FROM events USING new
             WHERE events.request_id = new.request_id AND events.number <= new.number - {KEPT}"
        );
        session
            .execute(
                &sql,
                &[
                    (&owner.uuid(), Type::UUID),
                    (&kind.as_str(), Type::TEXT),
                    (&left, Type::UUID_ARRAY),
                ],
            )
            .await?;
    }
    Ok(())
}

/// Records that the callback of a claimed job is about to be sent once more within its attempt.
/// `count` is the number of such records under this claim, with this one: a repeat adds none.
/// Returns whether the claim is held.
pub(super) async fn record_resend(
    session: &Session,
    claim: &Claim,
    count: i64,
) -> Result<bool, Error> {
    let (id, owner) = (claim.id.uuid(), claim.owner.uuid());
    let lock = format!(
        "SELECT 1 FROM {} AS it WHERE {IS_HELD} FOR NO KEY UPDATE",
        state::table(claim.work)
    );
    let held = [
        (&id as _, Type::UUID),
        (&owner as _, Type::UUID),
        (&claim.number as _, Type::INT8),
    ];
    if session.find(&lock, &held).await?.is_none() {
        confirm(session).await?;
        return Ok(false);
    }
    let sql = format!(
        "WITH new AS (
             INSERT INTO resends (request_id, number, at, claim)
             SELECT $1, 1 + (SELECT coalesce(max(number), 0) FROM resends WHERE request_id = $1),
                 now(), $2
             WHERE $3 > (SELECT count(*) FROM resends WHERE request_id = $1 AND claim = $2)
             RETURNING number)
         DELETE FROM resends
         WHERE request_id = $1 AND number <= (SELECT number FROM new) - {KEPT}"
    );
    let values = [
        (&id as _, Type::UUID),
        (&claim.number as _, Type::INT8),
        (&count as _, Type::INT8),
    ];
    session.execute(&sql, &values).await?;
    Ok(true)
}
