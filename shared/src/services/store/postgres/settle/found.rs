//! What became of a claim that a settlement has not ended: it is lost, the row is locked, or an
//! earlier call of the same settlement has ended it.

use std::sync::LazyLock;

use tokio_postgres::types::Type;
use uuid::Uuid;

use super::{
    super::{
        columns,
        confirm::CONFIRM,
        error::Error,
        session::{Parameter, Sessions},
    },
    End,
};
use crate::services::store::Settlement;

/// What a settlement has found of its claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Found {
    /// It is ended: by this call, or by an earlier one of the same settlement.
    Ended,
    Lost,
    /// Another transaction has locked the row. Nothing is changed.
    Locked,
}

/// What became of the claims of these settlements, on the synchronous standbys, too: whether each
/// is held, or the settlement is on record. Each is a search by a primary key: the planner would
/// make a set of the whole table out of `EXISTS`, if it expects many.
///
/// What a worker has ended keeps its name and its claim. A poison job has no owner. `delivered` is
/// compared as text: what an edit by hand has made of it is no error.
static LOOK: LazyLock<String> = LazyLock::new(|| {
    format!(
        "
SELECT place, (SELECT {CONFIRM}),
    coalesce((SELECT owner = it.owner AND claim = it.claim AND status = 'PROCESSING'
              FROM requests WHERE id = it.id), false) AS is_held,
    coalesce(CASE WHEN number IS NULL THEN
        (SELECT owner = it.owner AND claim = it.claim AND status <> 'PROCESSING'
         FROM requests WHERE id = it.id)
    ELSE
        coalesce(
            (SELECT claim = it.claim FROM attempts
             WHERE request_id = it.id AND number = it.number),
            (SELECT delivered ->> 'claim' = it.claim::text
                 AND delivered ->> 'number' = it.number::text
             FROM requests WHERE id = it.id))
    END, false) AS is_recorded
FROM unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::integer[])
    WITH ORDINALITY AS it (id, owner, claim, number, place)"
    )
});

/// Finds what became of the claims that these settlements have not ended now. The caller repeats
/// one whose outcome it could not learn.
///
/// A park and a release leave nothing by which they can be told from a lease expiry.
pub(super) async fn look(sessions: &Sessions, ends: &[&End]) -> Result<Vec<Found>, Error> {
    let leaves_record = |end: &End| {
        matches!(&*end.settlement, Settlement::Finish { .. }) || end.settlement.attempt().is_some()
    };
    let ids: Vec<Uuid> = ends.iter().map(|end| end.claim.id.uuid()).collect();
    let owners: Vec<Uuid> = ends.iter().map(|end| end.claim.owner.uuid()).collect();
    let claims: Vec<i64> = ends.iter().map(|end| end.claim.number).collect();
    let numbers: Vec<Option<i32>> = ends.iter().map(|end| end.number()).collect();
    let values: [Parameter<'_>; 4] = [
        (&ids, Type::UUID_ARRAY),
        (&owners, Type::UUID_ARRAY),
        (&claims, Type::INT8_ARRAY),
        (&numbers, Type::INT4_ARRAY),
    ];
    let (mut is_held, mut is_recorded) = (vec![false; ends.len()], vec![false; ends.len()]);
    for row in sessions.commit_one(&LOOK, &values).await? {
        columns::set(&mut is_held, &row, row.try_get("is_held")?)?;
        columns::set(&mut is_recorded, &row, row.try_get("is_recorded")?)?;
    }
    let found = ends.iter().enumerate().map(|(at, end)| {
        if is_held[at] {
            Found::Locked
        } else if is_recorded[at] && leaves_record(end) {
            Found::Ended
        } else {
            Found::Lost
        }
    });
    Ok(found.collect())
}
