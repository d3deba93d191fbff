//! The release of parked jobs: of one tenant, once a circuit breaker has closed, and of all, once a
//! pause of their receiver has ended.
//!
//! What a pause has parked has a `parked_at` in the future. Once it is released, or parked again
//! for another reason, it has not.

use std::{slice, sync::Arc};

use tokio_postgres::types::Type;
use uuid::Uuid;

use super::{
    columns,
    error::Error,
    look::ALONG_INDEXES,
    session::{Parameter, Session, Sessions},
    state,
};
use crate::{
    models::{ClientName, Destination, Origin},
    services::store::{StoreError, UnparkCursor, Unparked, Work},
};

/// Makes up to `limit` jobs parked for `destination` due now. Returns how many.
pub(super) async fn unpark(
    sessions: &Arc<Sessions>,
    destination: Destination,
    limit: usize,
) -> Result<usize, StoreError> {
    let unpark = move |session: Session| {
        let destination = destination.clone();
        async move {
            session.execute_all(ALONG_INDEXES).await?;
            let tenant = destination.tenant.as_ref().map_or("", ClientName::as_str);
            let mut unparked = 0;
            for work in Work::ALL {
                let values = [
                    (&destination.origin.as_str() as _, Type::TEXT),
                    (&tenant as _, Type::TEXT),
                    (&columns::integer(limit - unparked) as _, Type::INT8),
                ];
                let changed = session.execute(&unpark_sql(work), &values).await?;
                unparked += columns::size(changed);
            }
            Ok(unparked)
        }
    };
    sessions.write(unpark).await
}

fn unpark_sql(work: Work) -> String {
    format!(
        "WITH parked AS MATERIALIZED ({})
         UPDATE {} AS it SET due = now() FROM parked WHERE it.id = parked.id",
        parked_sql(work),
        state::table(work)
    )
}

/// In the order of the index of a receiver's jobs, so that the planner takes that. It passes what
/// another transaction has locked, which changes it.
pub(super) fn parked_sql(work: Work) -> String {
    format!(
        "SELECT id FROM {}
         WHERE status = 'PENDING' AND claim > 0 AND due > now() AND parked_at IS NOT NULL
           AND origin = $1 AND coalesce(created_by, '') = $2
         ORDER BY id LIMIT $3
         FOR NO KEY UPDATE SKIP LOCKED",
        state::table(work)
    )
}

/// Makes up to `limit` jobs due now that a pause of `origin` has parked, of those after `after`.
pub(super) async fn unpark_origin(
    sessions: &Arc<Sessions>,
    origin: Origin,
    after: Option<UnparkCursor>,
    limit: usize,
) -> Result<Unparked, StoreError> {
    let after = after.unwrap_or_default();
    let unpark = move |session: Session| {
        let (origin, after) = (origin.clone(), after.clone());
        async move { release(&session, &origin, after, limit).await }
    };
    sessions.write(unpark).await
}

async fn release(
    session: &Session,
    origin: &Origin,
    mut after: UnparkCursor,
    limit: usize,
) -> Result<Unparked, Error> {
    session.execute_all(ALONG_INDEXES).await?;
    // It waits for a pause, as a claim does: from the commit of that on, it releases nothing.
    session
        .execute_all("LOCK TABLE store IN ROW SHARE MODE")
        .await?;
    let of_origin: Parameter<'_> = (&origin.as_str(), Type::TEXT);
    let paused = "SELECT FROM pauses WHERE origin = $1";
    if session
        .find(paused, slice::from_ref(&of_origin))
        .await?
        .is_some()
    {
        return Ok(Unparked::default());
    }
    let mut jobs = 0;
    while let Some(work) = Work::ALL.get(after.lane) {
        let tenant = String::from_utf8_lossy(&after.tenant);
        let id: Uuid = after.id.parse().unwrap_or_default();
        let values = [
            of_origin.clone(),
            (&tenant as _, Type::TEXT),
            (&id as _, Type::UUID),
            (&columns::integer(limit - jobs) as _, Type::INT8),
        ];
        let released = session.query(&release_sql(*work), &values).await?;
        jobs += released.len();
        let released: Vec<(String, Uuid)> = released
            .iter()
            .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
            .collect::<Result<_, Error>>()?;
        if jobs >= limit {
            let next = released.into_iter().max().map(|(tenant, id)| UnparkCursor {
                lane: after.lane,
                tenant: tenant.into_bytes(),
                id: id.to_string(),
            });
            return Ok(Unparked { jobs, next });
        }
        after = UnparkCursor {
            lane: after.lane + 1,
            ..UnparkCursor::default()
        };
    }
    Ok(Unparked { jobs, next: None })
}

fn release_sql(work: Work) -> String {
    format!(
        "WITH parked AS MATERIALIZED ({})
         UPDATE {} AS it SET due = now(), parked_at = now()
         FROM parked WHERE it.id = parked.id
         RETURNING coalesce(created_by, ''), it.id",
        parked_by_pause_sql(work),
        state::table(work)
    )
}

/// Like [`parked_sql`], for the jobs of all tenants after one of them.
///
/// A pause parks for a century. One that another transaction has released since this one began has
/// a `parked_at` after the `now()` of this one, too.
pub(super) fn parked_by_pause_sql(work: Work) -> String {
    format!(
        "SELECT id FROM {}
         WHERE status = 'PENDING' AND claim > 0 AND due > now()
           AND parked_at > now() + interval '1 year'
           AND origin = $1 AND (coalesce(created_by, ''), id) > ($2, $3)
         ORDER BY coalesce(created_by, ''), id LIMIT $4
         FOR NO KEY UPDATE SKIP LOCKED",
        state::table(work)
    )
}
