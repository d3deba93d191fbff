//! Jobs of handlers.

use serde_json::value::RawValue;
use storm_shared::{
    models::{AttemptClass, CallbackUrl, Failure, FailureReason, HandlerName, RequestId, Stage},
    services::store::{
        Acceptance, AttemptRecord, Capacity, Job, NewJob, Outcome, Settlement, Sought, Store,
        WorkResult,
    },
};

use crate::jobs::{attempted, claim, new_worker};

mod accept;
mod breakers;
mod failed;
mod filter;
mod search;
mod work;

pub(super) const RESULT: &str = r#"{"pages": 3}"#;

fn handler(name: &str) -> HandlerName {
    name.parse().unwrap()
}

fn json(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.to_owned()).unwrap()
}

pub(super) fn result(text: &str) -> WorkResult {
    WorkResult::from_json(json(text))
}

fn work_failed() -> Failure {
    Failure::new(FailureReason::WorkFailed, "It answered 422.")
}

/// A job of the handler `name` with a callback.
fn job_of(name: &str, payload: &str) -> NewJob {
    let callback = CallbackUrl::parse("http://example.com/hook").unwrap();
    let id = RequestId::generate();
    NewJob::for_handler(handler(name), id, &json(payload), Some(callback))
}

async fn store_job(store: &Store, job: NewJob) -> RequestId {
    let id = job.id;
    assert_eq!(store.accept(job).await.unwrap(), Acceptance::Stored);
    id
}

pub(super) async fn accept_of(store: &Store, name: &str) -> RequestId {
    store_job(store, job_of(name, "{}")).await
}

fn capacity_of(name: &str, jobs: usize) -> Capacity {
    Capacity {
        sought: Sought::WorkOf(handler(name)),
        ..Capacity::of(jobs)
    }
}

async fn found(store: &Store, capacity: Capacity) -> Vec<RequestId> {
    let due = store.due_jobs(capacity).await.unwrap().due;
    due.into_iter().map(|candidate| candidate.id).collect()
}

async fn work_of(store: &Store, name: &str) -> Vec<RequestId> {
    found(store, capacity_of(name, 100)).await
}

pub(super) async fn claim_work(store: &Store, id: RequestId) -> Job {
    claim_work_of(store, "pdf", id).await
}

async fn claim_work_of(store: &Store, name: &str, id: RequestId) -> Job {
    let owner = new_worker(store).await;
    let due = store.due_jobs(capacity_of(name, 100)).await.unwrap().due;
    let sought = due.into_iter().filter(|candidate| candidate.id == id);
    claim(store, owner, sought.collect()).await.pop().unwrap()
}

/// An attempt at the work.
fn worked(number: u32, class: AttemptClass) -> AttemptRecord {
    AttemptRecord {
        stage: Stage::Work,
        ..attempted(number, class)
    }
}

/// A job whose work has failed for good at its first attempt. It is claimed.
pub(super) async fn failed_work(store: &Store) -> Job {
    let id = accept_of(store, "pdf").await;
    let job = claim_work(store, id).await;
    let attempt = Some(worked(1, AttemptClass::Status));
    let stored = store.store_worked(job.claim, Err(work_failed()), attempt);
    stored.await.unwrap();
    job
}

/// Such a job that is over: its client has been told.
pub(super) async fn told_of_failed_work(store: &Store) -> RequestId {
    let job = failed_work(store).await;
    let told = Settlement::Finish {
        attempt: Some(attempted(2, AttemptClass::Success)),
        outcome: Outcome::Failed(work_failed()),
    };
    store.settle(job.claim, None, told).await.unwrap();
    job.claim.id
}
