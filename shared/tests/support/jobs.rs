//! The steps of a job's life cycle, for tests of the store.

use std::time::Duration;

use jiff::Timestamp;
use storm_shared::{
    models::{
        AttemptClass, CallbackUrl, EventKind, Failure, FailureReason, Records, ReportName,
        ReportSpec, Request, RequestId, Stage, Status,
    },
    services::{
        report,
        store::{
            AttemptRecord, Candidate, Capacity, Claim, DueJobs, Ended, Expired, Heartbeat, Job,
            NewJob, Outcome, OwnerId, Scope, Settlement, Store, StoreError, Unredeliverable,
            WorkResult,
        },
    },
};
use tokio::task::JoinHandle;

/// Lost claims in a row that make a job poison.
pub(crate) const MAX_CLAIMS: u32 = 5;

pub(crate) fn spec() -> ReportSpec {
    ReportSpec {
        report_name: ReportName::try_from("Q1_Finance".to_owned()).unwrap(),
        records: Records::new(10, Records::MAX_ASYNC).unwrap(),
    }
}

pub(crate) async fn accept(store: &Store) -> RequestId {
    try_accept(store).await.unwrap()
}

pub(crate) async fn try_accept(store: &Store) -> Result<RequestId, StoreError> {
    let job = new_job();
    let id = job.id;
    store.accept(job).await.map(|_| id)
}

/// A job that was not accepted yet.
pub(crate) fn new_job() -> NewJob {
    let callback = CallbackUrl::parse("http://example.com/hook?a=1").unwrap();
    NewJob::new(RequestId::generate(), spec(), Some(callback))
}

/// Begins to accept `count` jobs, each in a task of its own.
pub(crate) async fn accept_in_tasks(
    store: &Store,
    count: usize,
) -> Vec<JoinHandle<Result<RequestId, StoreError>>> {
    let accept = |_| {
        let store = store.clone();
        tokio::spawn(async move { try_accept(&store).await })
    };
    let writes = (0..count).map(accept).collect();
    tokio::task::yield_now().await;
    writes
}

/// The jobs that such writes have accepted. Of the others, nobody knows.
#[cfg(feature = "postgres")]
pub(crate) async fn accepted_by(
    writes: Vec<JoinHandle<Result<RequestId, StoreError>>>,
) -> Vec<RequestId> {
    let mut accepted = Vec::new();
    for write in writes {
        accepted.extend(write.await.unwrap().ok());
    }
    accepted
}

/// Asserts that each of these jobs is there, and that nobody has claimed it.
#[cfg(feature = "postgres")]
pub(crate) async fn assert_pending(store: &Store, jobs: &[RequestId]) {
    for id in jobs {
        assert_eq!(row(store, *id).await.status, Status::Pending);
    }
}

pub(crate) async fn new_worker(store: &Store) -> OwnerId {
    let owner = OwnerId::generate();
    store.register(owner, &[]).await.unwrap();
    owner
}

/// Claims `candidates`, none of which is invalid.
pub(crate) async fn claim(store: &Store, owner: OwnerId, candidates: Vec<Candidate>) -> Vec<Job> {
    let claimed = store.claim(owner, candidates, usize::MAX).await.unwrap();
    claimed.jobs.into_iter().map(Result::unwrap).collect()
}

/// Claims the jobs as a notified worker does: only those that were never claimed.
pub(crate) async fn claim_new(store: &Store, owner: OwnerId, ids: &[RequestId]) -> Vec<Job> {
    let notified = ids.iter().copied().map(Candidate::notified).collect();
    claim(store, owner, notified).await
}

/// Claims a job for a new worker, if it was never claimed.
pub(crate) async fn claim_one(store: &Store, id: RequestId) -> Option<Job> {
    claim_new(store, new_worker(store).await, &[id]).await.pop()
}

/// Claims all due jobs and all suspects for a new worker.
pub(crate) async fn claim_due(store: &Store) -> Vec<Job> {
    let owner = new_worker(store).await;
    let mut due = due_jobs(store, 100).await.due;
    due.extend(store.suspects(&[], 100).await.unwrap());
    claim(store, owner, due).await
}

/// Accepts and claims a new job.
pub(crate) async fn claimed(store: &Store) -> Job {
    let id = accept(store).await;
    claim_one(store, id).await.unwrap()
}

/// The specification of a claimed report.
pub(crate) fn spec_of(job: &Job) -> ReportSpec {
    serde_json::from_slice(&job.input).unwrap()
}

/// The stored result of a claimed job.
pub(crate) fn stored_result(job: &Job) -> Option<WorkResult> {
    job.worked.clone().map(Result::unwrap)
}

/// The result of a claimed report.
pub(crate) fn result_of(job: &Job) -> WorkResult {
    WorkResult::of(&report::expected(&spec_of(job)))
}

/// Fails the first attempt, with the retry due at once. Returns the stored result.
pub(crate) async fn fail_attempt(store: &Store, job: &Job) -> WorkResult {
    let result = result_of(job);
    let failed = retry(timeout(1), Duration::ZERO);
    store
        .settle(job.claim, Some(result.clone()), failed)
        .await
        .unwrap();
    result
}

/// Ends a job with its last attempt.
pub(crate) async fn finish(store: &Store, job: &Job, last: AttemptRecord, outcome: Outcome) {
    let attempt = Some(last);
    let finish = Settlement::Finish { attempt, outcome };
    let settled = store.settle(job.claim, Some(result_of(job)), finish);
    settled.await.unwrap();
}

/// A job that finished with `outcome` after one attempt.
pub(crate) async fn finished(store: &Store, outcome: Outcome) -> RequestId {
    let job = claimed(store).await;
    let last = match outcome {
        Outcome::Completed => success(),
        Outcome::Failed(_) => timeout(1),
    };
    finish(store, &job, last, outcome).await;
    job.claim.id
}

pub(crate) async fn redeliver(store: &Store, id: RequestId) -> Result<(), Unredeliverable> {
    store.redeliver(Scope::All, id).await.unwrap()
}

/// The heartbeat of `owner` as another worker reads it.
pub(crate) async fn heartbeat_of(store: &Store, owner: OwnerId) -> Heartbeat {
    let observer = new_worker(store).await;
    let others = store
        .renew(observer, Ended::default())
        .await
        .unwrap()
        .others;
    store.deregister(observer).await.unwrap();
    others.into_iter().find(|it| it.owner == owner).unwrap()
}

/// Expires the lease of `owner`, as after its death.
pub(crate) async fn expire_lease(store: &Store, owner: OwnerId) -> Expired {
    let seen = heartbeat_of(store, owner).await;
    store.expire(seen, MAX_CLAIMS).await.unwrap().unwrap()
}

/// The settlement of a job whose first attempt succeeded.
pub(crate) fn delivered() -> Settlement {
    Settlement::Finish {
        attempt: Some(success()),
        outcome: Outcome::Completed,
    }
}

/// The settlement of a failed attempt that is repeated.
pub(crate) fn retry(attempt: AttemptRecord, wait: Duration) -> Settlement {
    Settlement::Retry { attempt, wait }
}

/// The outcome of a job whose callback failed.
pub(crate) fn failed(detail: &str) -> Outcome {
    Outcome::Failed(Failure::new(FailureReason::CallbackFailed, detail))
}

/// An attempt record.
pub(crate) fn attempted(number: u32, class: AttemptClass) -> AttemptRecord {
    AttemptRecord {
        number,
        stage: Stage::Callback,
        started_at: Timestamp::now(),
        duration: Duration::from_millis(7),
        class,
        status: None,
        error: None,
        internal_detail: None,
    }
}

/// A successful first attempt.
pub(crate) fn success() -> AttemptRecord {
    attempted(1, AttemptClass::Success)
}

/// A timed-out attempt.
pub(crate) fn timeout(number: u32) -> AttemptRecord {
    attempted(number, AttemptClass::Timeout)
}

pub(crate) async fn due_jobs(store: &Store, limit: usize) -> DueJobs {
    store.due_jobs(Capacity::of(limit)).await.unwrap()
}

pub(crate) async fn due_ids(store: &Store, limit: usize) -> Vec<RequestId> {
    let due = due_jobs(store, limit).await.due;
    due.into_iter().map(|candidate| candidate.id).collect()
}

/// Waits until ids generated so far lie in a past millisecond.
pub(crate) async fn next_millisecond() {
    tokio::time::sleep(Duration::from_millis(2)).await;
}

/// The request as its client sees it.
pub(crate) async fn row(store: &Store, id: RequestId) -> Request {
    store.find(id).await.unwrap().unwrap()
}

pub(crate) async fn status(store: &Store, id: RequestId) -> Status {
    row(store, id).await.status
}

pub(crate) async fn event_kinds(store: &Store, id: RequestId) -> Vec<EventKind> {
    let events = row(store, id).await.events;
    events.into_iter().map(|event| event.event).collect()
}

/// Tries every write under a `claim` that is lost. Each must be refused.
pub(crate) async fn writes_nothing(store: &Store, claim: Claim, result: &WorkResult) {
    let wait = Duration::ZERO;
    for settlement in [
        delivered(),
        retry(timeout(1), wait),
        Settlement::Park { wait },
        Settlement::GiveBack,
        Settlement::Finish {
            attempt: None,
            outcome: failed("It answered 500."),
        },
    ] {
        let settled = store.settle(claim, Some(result.clone()), settlement).await;
        assert!(is_claim_lost(&settled), "{settled:?}");
    }
    let failure = Failure::new(FailureReason::WorkFailed, "It answered 500.");
    for worked in [Ok(result.clone()), Err(failure)] {
        let stored = store.store_worked(claim, worked, None).await;
        assert!(is_claim_lost(&stored), "{stored:?}");
    }
    assert!(is_claim_lost(&store.record_resend(claim, 1).await));
}

pub(crate) fn is_claim_lost<T>(result: &Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::ClaimLost))
}
