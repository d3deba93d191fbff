//! Idempotency keys: each belongs to the job that it has made.

use tokio_postgres::types::Type;
use uuid::Uuid;

use super::{Sessions, columns, confirm::CONFIRM, error::Error};
use crate::{
    models::{ClientName, IdempotencyKey, RequestId},
    services::store::{Acceptance, NewJob, idempotency::Fingerprint},
};

/// Whose key a job has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    /// That of an earlier job, or of the job itself: this is what the submission is.
    Of(Acceptance),
    /// Nobody's, or no key. It may have been the key of this request.
    Free(Option<Uuid>),
}

/// SQL for whether the key in a row of `idempotency_keys` belongs to its request no more: its
/// window is over and the request has ended, or the request is gone.
const IS_FREE: &str = "NOT EXISTS (
    SELECT 1 FROM requests WHERE id = request_id
        AND (status IN ('PENDING', 'PROCESSING') OR expires > now()))";

/// Finds whose keys the jobs have, in their order. What is found is on the synchronous standbys.
pub(super) async fn find(sessions: &Sessions, jobs: &[&NewJob]) -> Result<Vec<Key>, Error> {
    let mut found = vec![Key::Free(None); jobs.len()];
    if jobs.iter().all(|job| job.idempotency_key.is_none()) {
        return Ok(found);
    }
    let tenants: Vec<&str> = jobs.iter().map(|job| tenant(job)).collect();
    let keys: Vec<Option<&str>> = jobs.iter().map(|job| key(job)).collect();
    let rows = sessions
        .commit_one(
            &format!(
                "SELECT new.place, request_id, expected_at,
                     keys.fingerprint = new.fingerprint AS is_same, {IS_FREE} AS is_free,
                     {CONFIRM}
                 FROM unnest($1::text[], $2::text[], $3::bytea[]) WITH ORDINALITY
                     AS new (tenant, key, fingerprint, place)
                     JOIN idempotency_keys AS keys
                     ON keys.tenant = new.tenant AND keys.key = new.key"
            ),
            &[
                (&tenants, Type::TEXT_ARRAY),
                (&keys, Type::TEXT_ARRAY),
                (&fingerprints(jobs), Type::BYTEA_ARRAY),
            ],
        )
        .await?;
    for row in rows {
        let id: Uuid = row.try_get("request_id")?;
        let key = if row.try_get("is_free")? {
            Key::Free(Some(id))
        } else if row.try_get("is_same")? {
            Key::Of(Acceptance::Replayed {
                id: RequestId::of(id),
                expected_at: columns::time(&row, "expected_at")?,
            })
        } else {
            Key::Of(Acceptance::Conflicting)
        };
        columns::set(&mut found, &row, key)?;
    }
    Ok(found)
}

/// Deletes the keys that belong to these requests no more, but for those that another transaction
/// has locked: it may be deleting them, too, and whoever needs one tries again.
pub(super) async fn release(sessions: &Sessions, requests: Vec<Uuid>) -> Result<(), Error> {
    let delete = format!(
        "WITH free AS (
             SELECT request_id FROM idempotency_keys WHERE request_id = ANY($1) AND {IS_FREE}
             FOR UPDATE SKIP LOCKED
         )
         DELETE FROM idempotency_keys WHERE request_id IN (SELECT request_id FROM free)"
    );
    let requests = [(&requests as _, Type::UUID_ARRAY)];
    sessions.commit_one(&delete, &requests).await.map(drop)
}

/// The client name, or the empty text: no name is empty, and null equals no null.
pub(super) fn tenant(job: &NewJob) -> &str {
    job.created_by.as_ref().map_or("", ClientName::as_str)
}

pub(super) fn key(job: &NewJob) -> Option<&str> {
    job.idempotency_key.as_ref().map(IdempotencyKey::as_str)
}

/// What tells each submission that has a key from another.
pub(super) fn fingerprints(jobs: &[&NewJob]) -> Vec<Option<Vec<u8>>> {
    let of = |job: &&NewJob| {
        let keyed = job.idempotency_key.is_some();
        keyed.then(|| Fingerprint::of(job).as_bytes().to_vec())
    };
    jobs.iter().map(of).collect()
}
