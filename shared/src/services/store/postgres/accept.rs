//! Inserting requests: accepting async jobs.
//!
//! One statement a batch: the keys are taken, and the jobs that have none or have won theirs are
//! inserted. What became of the others is read in a second statement, since a statement does not
//! see what others have committed meanwhile.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio_postgres::types::Type;
use uuid::Uuid;

use super::{
    Sessions,
    batches::{Batches, Running},
    columns,
    error::Error,
};
use crate::{
    config::StoreSettings,
    models::{CallbackUrl, ClientName, IdempotencyKey},
    services::store::{NewJob, idempotency::Fingerprint},
};

/// What became of a job in its batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Accepted {
    Stored,
    /// The id, or the key, was there before.
    NotStored,
}

/// Keys are sorted, so that two processes lock those of a batch in the same order.
const INSERT: &str = "
WITH new AS (
    SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::timestamptz[], $5::text[],
        $6::text[], $7::text[], $8::text[], $9::bigint[], $10::boolean[], $11::text[],
        $12::text[], $13::text[], $14::bytea[], $15::timestamptz[], $16::bigint[])
    AS new (id, input, callback_url, created_at, callback_target, traceparent, created_by,
        origin, grace, is_long, handler, tenant, key, fingerprint, expected_at, window_ms)
), keyed AS (
    INSERT INTO idempotency_keys (request_id, tenant, key, fingerprint, expires, expected_at)
    SELECT id, tenant, key, fingerprint, now() + window_ms * interval '1 millisecond', expected_at
    FROM new WHERE key IS NOT NULL ORDER BY tenant, key
    ON CONFLICT DO NOTHING
    RETURNING request_id
)
INSERT INTO requests (id, mode, status, input_payload, callback_url, created_at, callback_target,
    traceparent, created_by, origin, due, is_long, handler)
SELECT id, 'async', 'PENDING', input::json, callback_url, created_at, callback_target, traceparent,
    created_by, origin, now() + grace * interval '1 millisecond', is_long, handler
FROM new WHERE key IS NULL OR id IN (SELECT request_id FROM keyed)
ORDER BY id
ON CONFLICT (id) DO NOTHING
RETURNING id";

/// Starts to gather jobs.
pub(super) fn batches(
    sessions: &Arc<Sessions>,
    settings: &StoreSettings,
) -> Batches<NewJob, Accepted> {
    let (of, window) = (Arc::clone(sessions), settings.idempotency_window);
    let run = move |jobs: Arc<[NewJob]>| -> Running<Accepted> {
        let sessions = Arc::clone(&of);
        Box::pin(async move { insert(&sessions, &jobs, window).await })
    };
    Batches::start(sessions, super::IN_FLIGHT, run)
}

async fn insert(
    sessions: &Sessions,
    jobs: &[NewJob],
    window: Duration,
) -> Result<Vec<Accepted>, Error> {
    let all =
        |of: fn(&NewJob) -> Option<&str>| -> Vec<Option<&str>> { jobs.iter().map(of).collect() };
    let ids: Vec<Uuid> = jobs.iter().map(|job| job.id.uuid()).collect();
    let inputs: Vec<&str> = jobs.iter().map(|job| &*job.input).collect();
    let created: Vec<SystemTime> = jobs
        .iter()
        .map(|job| columns::stored(job.created_at))
        .collect();
    let expected: Vec<SystemTime> = jobs
        .iter()
        .map(|job| columns::stored(job.expected_at))
        .collect();
    let graces: Vec<i64> = jobs
        .iter()
        .map(|job| columns::millis(job.notification_grace))
        .collect();
    let windows = vec![columns::millis(window); jobs.len()];
    let long: Vec<bool> = jobs.iter().map(|job| job.is_long).collect();
    let traces: Vec<Option<String>> = jobs
        .iter()
        .map(|job| job.traceparent.map(|trace| trace.to_string()))
        .collect();
    let fingerprints: Vec<Option<Vec<u8>>> = jobs
        .iter()
        .map(|job| {
            let keyed = job.idempotency_key.as_ref();
            keyed.map(|_| Fingerprint::of(job).as_bytes().to_vec())
        })
        .collect();
    let rows = sessions
        .commit_one(
            INSERT,
            &[
                (&ids, Type::UUID_ARRAY),
                (&inputs, Type::TEXT_ARRAY),
                (
                    &all(|job| job.callback.as_ref().map(CallbackUrl::as_str)),
                    Type::TEXT_ARRAY,
                ),
                (&created, Type::TIMESTAMPTZ_ARRAY),
                (&all(target), Type::TEXT_ARRAY),
                (&traces, Type::TEXT_ARRAY),
                (
                    &all(|job| job.created_by.as_ref().map(ClientName::as_str)),
                    Type::TEXT_ARRAY,
                ),
                (
                    &all(|job| Some(job.callback.as_ref()?.origin().as_str())),
                    Type::TEXT_ARRAY,
                ),
                (&graces, Type::INT8_ARRAY),
                (&long, Type::BOOL_ARRAY),
                (&all(|job| columns::handler(&job.handler)), Type::TEXT_ARRAY),
                // No client name is empty.
                (
                    &all(|job| Some(job.created_by.as_ref().map_or("", ClientName::as_str))),
                    Type::TEXT_ARRAY,
                ),
                (
                    &all(|job| job.idempotency_key.as_ref().map(IdempotencyKey::as_str)),
                    Type::TEXT_ARRAY,
                ),
                (&fingerprints, Type::BYTEA_ARRAY),
                (&expected, Type::TIMESTAMPTZ_ARRAY),
                (&windows, Type::INT8_ARRAY),
            ],
        )
        .await?;
    let stored: HashSet<Uuid> = rows
        .iter()
        .map(|row| row.try_get(0))
        .collect::<Result<_, _>>()?;
    let of = |id: &Uuid| {
        if stored.contains(id) {
            Accepted::Stored
        } else {
            Accepted::NotStored
        }
    };
    Ok(ids.iter().map(of).collect())
}

/// The URL in normal form, if that differs from the one that was sent.
fn target(job: &NewJob) -> Option<&str> {
    let callback = job.callback.as_ref()?;
    Some(callback.target()).filter(|target| *target != callback.as_str())
}
