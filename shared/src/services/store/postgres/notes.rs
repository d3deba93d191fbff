//! The notes of cancelled claims, for the workers that hold them.

use tokio_postgres::{Row, types::Type};

use super::{error::Error, session::Session};
use crate::{
    models::RequestId,
    services::store::{CancelledClaim, OwnerId},
};

/// The heartbeats that name a cancelled claim.
const BEATS: i64 = 4;

/// The claims of `owner` that were cancelled lately, for the heartbeat that its row has.
pub(super) async fn read(session: &Session, owner: OwnerId) -> Result<Vec<CancelledClaim>, Error> {
    let of_owner = [(&owner.uuid() as _, Type::UUID)];
    let read = "SELECT id, claim FROM cancellations WHERE owner = $1";
    let forget = format!(
        "DELETE FROM cancellations AS c USING workers AS w
         WHERE c.owner = $1 AND w.owner = $1 AND c.beat <= w.beat - {BEATS}"
    );
    let (notes, forgotten) = tokio::join!(
        biased;
        session.query(read, &of_owner),
        session.execute(&forget, &of_owner)
    );
    let notes = notes?;
    forgotten?;
    notes.iter().map(note).collect()
}

fn note(row: &Row) -> Result<CancelledClaim, Error> {
    Ok(CancelledClaim {
        id: RequestId::of(row.try_get(0)?),
        number: row.try_get(1)?,
    })
}

/// Deletes the notes for a worker whose lease ends.
pub(super) async fn forget(session: &Session, owner: OwnerId) -> Result<(), Error> {
    let forget = "DELETE FROM cancellations WHERE owner = $1";
    session
        .execute(forget, &[(&owner.uuid(), Type::UUID)])
        .await
        .map(drop)
}
