//! Inserting requests: accepting async jobs.
//!
//! One statement a batch: the keys are taken, and the jobs that have none or have won theirs are
//! inserted. What the others are is read in a second statement, since a statement does not see what
//! others have committed meanwhile.

use std::{
    collections::HashSet,
    sync::{Arc, LazyLock},
    time::{Duration, SystemTime},
};

use tokio_postgres::types::Type;
use uuid::Uuid;

use super::{
    Sessions,
    batches::{Batches, Running},
    columns,
    confirm::CONFIRM,
    error::Error,
    function::Function,
    idempotency::{self, Key},
};
use crate::{
    config::StoreSettings,
    models::{CallbackUrl, ClientName},
    services::store::{Acceptance, NewJob, StoreError, Trouble},
};

/// What became of a job in its batch.
pub(super) type Answer = Result<Acceptance, StoreError>;

/// As often a job is inserted whose key was free, and was taken and freed by others meanwhile.
const TRIES: u32 = 5;

/// The first of several jobs with a key takes it. Keys are sorted, so that two processes lock those
/// of a batch in the same order. A repeat takes no key: its own may belong to another job by now. A
/// scalar subquery is a search by the primary key, however many rows the planner expects.
pub(super) static INSERT: LazyLock<Function> = LazyLock::new(|| {
    Function::new(
        "accept",
        &[
            Type::UUID_ARRAY,
            Type::TEXT_ARRAY,
            Type::TEXT_ARRAY,
            Type::TIMESTAMPTZ_ARRAY,
            Type::TEXT_ARRAY,
            Type::TEXT_ARRAY,
            Type::TEXT_ARRAY,
            Type::TEXT_ARRAY,
            Type::INT8_ARRAY,
            Type::BOOL_ARRAY,
            Type::TEXT_ARRAY,
            Type::TEXT_ARRAY,
            Type::TEXT_ARRAY,
            Type::BYTEA_ARRAY,
            Type::TIMESTAMPTZ_ARRAY,
            Type::INT8,
        ],
        "id uuid",
        "
WITH new AS (
    SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::timestamptz[], $5::text[],
        $6::text[], $7::text[], $8::text[], $9::bigint[], $10::boolean[], $11::text[],
        $12::text[], $13::text[], $14::bytea[], $15::timestamptz[]) WITH ORDINALITY
    AS new (id, input, callback_url, created_at, callback_target, traceparent, created_by,
        origin, grace, is_long, handler, tenant, key, fingerprint, expected_at, place)
), keyed AS (
    INSERT INTO idempotency_keys (request_id, tenant, key, fingerprint, expires, expected_at)
    SELECT id, tenant, key, fingerprint, now() + $16 * interval '1 millisecond', expected_at
    FROM new
    WHERE key IS NOT NULL AND (SELECT true FROM requests WHERE requests.id = new.id) IS NULL
    ORDER BY tenant, key, place
    ON CONFLICT DO NOTHING
    RETURNING request_id
)
INSERT INTO requests (id, mode, status, input_payload, callback_url, created_at, callback_target,
    traceparent, created_by, origin, due, is_long, handler)
SELECT id, 'async', 'PENDING', input::json, callback_url, created_at, callback_target, traceparent,
    created_by, origin, now() + grace * interval '1 millisecond', is_long, handler
FROM new WHERE key IS NULL OR id IN (SELECT request_id FROM keyed)
ORDER BY id, place
ON CONFLICT (id) DO NOTHING
RETURNING id",
    )
});

/// Which of these ids are taken, and whether by the very job. Of an erased request only what is
/// left can be compared.
static STORED: LazyLock<String> = LazyLock::new(|| {
    format!(
        "
SELECT new.place, {CONFIRM}, requests.mode = 'async' AND requests.created_at = new.created_at
        AND requests.created_by IS NOT DISTINCT FROM new.created_by
        AND requests.handler IS NOT DISTINCT FROM new.handler
        AND (erased_at IS NOT NULL OR (input_payload::text = input
            AND requests.callback_url IS NOT DISTINCT FROM new.callback_url)) AS is_it
FROM unnest($1::uuid[], $2::text[], $3::text[], $4::timestamptz[], $5::text[], $6::text[])
    WITH ORDINALITY AS new (id, input, callback_url, created_at, created_by, handler, place)
    JOIN requests ON requests.id = new.id"
    )
});

/// Starts to gather jobs.
pub(super) fn batches(
    sessions: &Arc<Sessions>,
    settings: &StoreSettings,
) -> Batches<NewJob, Answer> {
    let (of, window) = (Arc::clone(sessions), settings.idempotency_window);
    let run = move |jobs: Arc<[NewJob]>| -> Running<Answer> {
        let sessions = Arc::clone(&of);
        Box::pin(async move { accept(&sessions, &jobs, window).await })
    };
    Batches::start(sessions, super::IN_FLIGHT, run)
}

/// Accepts a batch. An error is one of all its jobs.
async fn accept(
    sessions: &Sessions,
    jobs: &[NewJob],
    window: Duration,
) -> Result<Vec<Answer>, Error> {
    let jobs: Vec<&NewJob> = jobs.iter().collect();
    let inserted = insert(sessions, &jobs, window).await?;
    let mut answers: Vec<Answer> = vec![Ok(Acceptance::Stored); jobs.len()];
    let left: Vec<usize> = (0..jobs.len()).filter(|at| !inserted[*at]).collect();
    if !left.is_empty() {
        let others: Vec<&NewJob> = left.iter().map(|at| jobs[*at]).collect();
        let found = accept_others(sessions, &others, window).await;
        for (at, answer) in left.into_iter().zip(found) {
            answers[at] = answer;
        }
    }
    for (job, answer) in jobs.into_iter().zip(&answers) {
        if let (Ok(Acceptance::Stored), Some(on_stored)) = (answer, &job.on_stored) {
            on_stored();
        }
    }
    Ok(answers)
}

/// Accepts jobs that were not inserted, since their ids or keys were there before. An error is one
/// of these jobs alone: the others of their batch are committed.
async fn accept_others(sessions: &Sessions, jobs: &[&NewJob], window: Duration) -> Vec<Answer> {
    let mut answers: Vec<Option<Answer>> = vec![None; jobs.len()];
    let mut left: Vec<usize> = (0..jobs.len()).collect();
    for _ in 0..TRIES {
        let others: Vec<&NewJob> = left.iter().map(|at| jobs[*at]).collect();
        match try_others(sessions, &others, window).await {
            Ok(found) => {
                for (at, answer) in left.iter().zip(found) {
                    answers[*at] = answer;
                }
            }
            Err(error) => {
                let error = error.into_store(true);
                for at in &left {
                    answers[*at] = Some(Err(error.clone()));
                }
            }
        }
        left.retain(|at| answers[*at].is_none());
        if left.is_empty() {
            break;
        }
    }
    let contended = || {
        Err(failed(
            Trouble::Busy,
            "the key was taken and freed in between",
        ))
    };
    let answered = |answer: Option<Answer>| answer.unwrap_or_else(contended);
    answers.into_iter().map(answered).collect()
}

/// What each of these jobs is; `None` if another try will tell.
async fn try_others(
    sessions: &Sessions,
    jobs: &[&NewJob],
    window: Duration,
) -> Result<Vec<Option<Answer>>, Error> {
    // First the keys: one that belongs to the very job shows that the job is there, and is found.
    let keys = idempotency::find(sessions, jobs).await?;
    let mut answers = stored(sessions, jobs).await?;
    let mut free = Vec::new();
    for (answer, key) in answers.iter_mut().zip(keys) {
        match key {
            _ if answer.is_some() => {}
            Key::Of(earlier) => *answer = Some(Ok(earlier)),
            Key::Free(last) => free.extend(last),
        }
    }
    if !free.is_empty() {
        idempotency::release(sessions, free).await?;
    }
    let left: Vec<usize> = (0..jobs.len())
        .filter(|at| answers[*at].is_none())
        .collect();
    let others: Vec<&NewJob> = left.iter().map(|at| jobs[*at]).collect();
    let inserted = if others.is_empty() {
        Vec::new()
    } else {
        insert(sessions, &others, window).await?
    };
    for (at, inserted) in left.into_iter().zip(inserted) {
        answers[at] = inserted.then_some(Ok(Acceptance::Stored));
    }
    Ok(answers)
}

/// Inserts jobs that are due after their grace. Returns which of them were inserted.
async fn insert(
    sessions: &Sessions,
    jobs: &[&NewJob],
    window: Duration,
) -> Result<Vec<bool>, Error> {
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
    let window = columns::millis(window);
    let long: Vec<bool> = jobs.iter().map(|job| job.is_long).collect();
    let traces: Vec<Option<String>> = jobs
        .iter()
        .map(|job| job.traceparent.map(|trace| trace.to_string()))
        .collect();
    let fingerprints = idempotency::fingerprints(jobs);
    let rows = sessions
        .call(
            &INSERT,
            &INSERT.with(&[
                &ids,
                &inputs,
                &texts(jobs, sent),
                &created,
                &texts(jobs, target),
                &traces,
                &texts(jobs, client),
                &texts(jobs, |job| Some(job.callback.as_ref()?.origin().as_str())),
                &graces,
                &long,
                &texts(jobs, |job| columns::handler(&job.handler)),
                &texts(jobs, |job| Some(idempotency::tenant(job))),
                &texts(jobs, idempotency::key),
                &fingerprints,
                &expected,
                &window,
            ]),
        )
        .await?;
    let mut stored: HashSet<Uuid> = columns::ids(&rows)?.into_iter().collect();
    // Of several jobs with one id, the first was inserted.
    Ok(ids.iter().map(|id| stored.remove(id)).collect())
}

/// What each job is whose id is taken: stored, or an error.
async fn stored(sessions: &Sessions, jobs: &[&NewJob]) -> Result<Vec<Option<Answer>>, Error> {
    let ids: Vec<Uuid> = jobs.iter().map(|job| job.id.uuid()).collect();
    let created: Vec<SystemTime> = jobs
        .iter()
        .map(|job| columns::stored(job.created_at))
        .collect();
    let rows = sessions
        .commit_one(
            &STORED,
            &[
                (&ids, Type::UUID_ARRAY),
                (&texts(jobs, |job| Some(&job.input)), Type::TEXT_ARRAY),
                (&texts(jobs, sent), Type::TEXT_ARRAY),
                (&created, Type::TIMESTAMPTZ_ARRAY),
                (&texts(jobs, client), Type::TEXT_ARRAY),
                (
                    &texts(jobs, |job| columns::handler(&job.handler)),
                    Type::TEXT_ARRAY,
                ),
            ],
        )
        .await?;
    let mut answers = vec![None; jobs.len()];
    for row in rows {
        let answer = if row.try_get("is_it")? {
            Ok(Acceptance::Stored)
        } else {
            Err(failed(Trouble::Other, "another request has this id"))
        };
        columns::set(&mut answers, &row, Some(answer))?;
    }
    Ok(answers)
}

fn failed(trouble: Trouble, message: &str) -> StoreError {
    StoreError::Failed {
        trouble,
        message: message.into(),
    }
}

/// This text of each job.
fn texts<'a>(
    jobs: &[&'a NewJob],
    of: impl Fn(&'a NewJob) -> Option<&'a str>,
) -> Vec<Option<&'a str>> {
    jobs.iter().copied().map(of).collect()
}

/// The URL as it was sent.
fn sent(job: &NewJob) -> Option<&str> {
    job.callback.as_ref().map(CallbackUrl::as_str)
}

fn client(job: &NewJob) -> Option<&str> {
    job.created_by.as_ref().map(ClientName::as_str)
}

/// The URL in normal form, if that differs from the one that was sent.
fn target(job: &NewJob) -> Option<&str> {
    let callback = job.callback.as_ref()?;
    Some(callback.target()).filter(|target| *target != callback.as_str())
}
