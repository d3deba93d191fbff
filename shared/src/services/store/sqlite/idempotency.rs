//! Idempotency keys: each belongs to the job that it has made.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{clock::StoreTime, columns};
use crate::{
    models::{ClientName, Status},
    services::store::{Acceptance, NewJob, expected_at, idempotency::Fingerprint},
};

/// What of a job with an idempotency key the table has.
pub(super) struct KeyedJob {
    id: String,
    tenant: String,
    key: String,
    fingerprint: Fingerprint,
    expected_at: String,
    /// How long its work takes, if that is known.
    takes: Duration,
}

impl KeyedJob {
    /// `None` if the job has no key.
    pub(super) fn of(job: &NewJob) -> Option<Self> {
        let key = job.idempotency_key.as_ref()?;
        let tenant = job.created_by.as_ref().map(ClientName::as_str);
        Some(Self {
            id: job.id.to_string(),
            // No client name is empty.
            tenant: tenant.unwrap_or_default().to_owned(),
            key: key.as_str().to_owned(),
            fingerprint: Fingerprint::of(job),
            expected_at: columns::time(job.expected_at),
            takes: job
                .report_spec()
                .map_or(Duration::ZERO, |spec| spec.ideal_duration()),
        })
    }
}

/// Gives the job its key for `window`, before the job is inserted in the same transaction. Returns
/// what the job is instead, if the key belongs to an earlier one.
pub(super) fn take(
    tx: &Connection,
    job: &KeyedJob,
    now: StoreTime,
    window: Duration,
) -> rusqlite::Result<Option<Acceptance>> {
    let expires = now.after(window);
    // A repeat of this very job is left to its insert, whoever has the key by now.
    if insert(tx, job, expires)? || is_stored(tx, job)? {
        return Ok(None);
    }
    if let Some(earlier) = find(tx, job, now)? {
        return Ok(Some(earlier));
    }
    // The key has expired, and belongs to this job from here on.
    tx.prepare_cached("DELETE FROM idempotency_keys WHERE tenant = ?1 AND key = ?2")?
        .execute([&job.tenant, &job.key])?;
    insert(tx, job, expires)?;
    Ok(None)
}

/// Stores the key of the job. Returns false if the key belongs to another one.
fn insert(tx: &Connection, job: &KeyedJob, expires: StoreTime) -> rusqlite::Result<bool> {
    let inserted = tx
        .prepare_cached(
            "INSERT INTO idempotency_keys
                 (request_id, tenant, key, fingerprint, expires, expected_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT DO NOTHING",
        )?
        .execute(params![
            job.id,
            job.tenant,
            job.key,
            job.fingerprint.as_bytes(),
            expires.millis(),
            job.expected_at,
        ])?;
    Ok(inserted == 1)
}

fn is_stored(tx: &Connection, job: &KeyedJob) -> rusqlite::Result<bool> {
    tx.prepare_cached("SELECT count(*) FROM requests WHERE id = ?1")?
        .query_one([&job.id], |row| row.get(0))
}

/// The request of a key, by tenant and key.
const FIND: &str = "SELECT id, created_at, status, fingerprint, expires, expected_at
     FROM idempotency_keys JOIN requests ON id = request_id
     WHERE tenant = ?1 AND key = ?2";

/// What the job is, if its key belongs to an earlier one. A key whose window is over belongs to a
/// job that has not ended, and no key to one that is gone.
pub(super) fn find(
    connection: &Connection,
    job: &KeyedJob,
    now: StoreTime,
) -> rusqlite::Result<Option<Acceptance>> {
    let found = connection
        .prepare_cached(FIND)?
        .query_row([&job.tenant, &job.key], |row| earlier(row, job, now))
        .optional()?;
    Ok(found.flatten())
}

fn earlier(row: &Row<'_>, job: &KeyedJob, now: StoreTime) -> rusqlite::Result<Option<Acceptance>> {
    let status = columns::parsed(row, 2)?;
    let is_over = matches!(status, Status::Completed | Status::Failed);
    if is_over && StoreTime::stored(row.get(4)?) <= now {
        return Ok(None);
    }
    if row.get_ref(3)?.as_blob()? != job.fingerprint.as_bytes() {
        return Ok(Some(Acceptance::Conflicting));
    }
    let expected = match columns::parsed_or_null(row, 5)? {
        Some(stored) => stored,
        // A key of the previous release. The submissions are the same, and so is their length.
        None => expected_at(columns::parsed(row, 1)?, job.takes),
    };
    Ok(Some(Acceptance::Replayed {
        id: columns::parsed(row, 0)?,
        expected_at: expected,
    }))
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::{super::schema, FIND};

    #[test]
    fn a_key_is_found_by_its_unique_index_and_its_request_by_its_id() {
        let mut db = Connection::open_in_memory().unwrap();
        schema::migrate(&mut db).unwrap();
        let sql = format!("EXPLAIN QUERY PLAN {FIND}");
        let mut statement = db.prepare(&sql).unwrap();
        let steps = statement.query_map(["", "k"], |row| row.get("detail"));
        let steps: Vec<String> = steps.unwrap().map(Result::unwrap).collect();
        assert_eq!(
            steps,
            [
                "SEARCH idempotency_keys USING INDEX sqlite_autoindex_idempotency_keys_2 \
                 (tenant=? AND key=?)",
                "SEARCH requests USING PRIMARY KEY (id=?)"
            ]
        );
    }
}
