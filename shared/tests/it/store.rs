//! The store's promises, against real `SQLite` files.

use std::{path::Path, sync::Arc, time::Duration};

use rusqlite::Connection;
use storm_shared::{
    config::{Settings, StoreSettings},
    models::{
        AttemptClass, CallbackUrl, EventKind, Failure, FailureReason, Records, ReportName,
        ReportSpec, RequestId, Status, Traceparent,
    },
    services::{
        report,
        store::{
            AttemptRecord, Candidate, Claim, DueJobs, DueQuery, Job, NewJob, Outcome, OwnerId,
            Store, StoreError,
        },
    },
};
use tempfile::TempDir;

pub(crate) fn settings(folder: &Path) -> StoreSettings {
    let url = format!("sqlite:{}", folder.join("storm.db").display());
    Settings::with([("DB_URL", url.as_str()), ("DB_SYNCHRONOUS", "normal")])
        .unwrap()
        .store
}

pub(crate) async fn new_store() -> (Store, TempDir) {
    let folder = TempDir::new().unwrap();
    (Store::open(&settings(folder.path())).await.unwrap(), folder)
}

pub(crate) fn direct(folder: &TempDir) -> Connection {
    Connection::open(folder.path().join("storm.db")).unwrap()
}

pub(crate) fn spec() -> ReportSpec {
    ReportSpec {
        report_name: ReportName::try_from("Q1_Finance".to_owned()).unwrap(),
        records: Records::new(10, Records::MAX_ASYNC).unwrap(),
    }
}

pub(crate) fn callback(url: &str) -> CallbackUrl {
    CallbackUrl::parse(url).unwrap()
}

pub(crate) async fn accept(store: &Store) -> RequestId {
    try_accept(store).await.unwrap()
}

pub(crate) async fn try_accept(store: &Store) -> Result<RequestId, StoreError> {
    let id = RequestId::generate();
    let url = callback("http://example.com/hook?a=1");
    let job = NewJob::new(id, spec(), Some(url));
    store.accept(job).await.map(|()| id)
}

pub(crate) async fn new_worker(store: &Store) -> OwnerId {
    let owner = OwnerId::generate();
    store.register(owner).await.unwrap();
    owner
}

/// Claims a job as a notified worker does: only if it was never claimed.
async fn claim_one(store: &Store, id: RequestId) -> Option<Job> {
    let owner = new_worker(store).await;
    let candidates = vec![Candidate::notified(id)];
    store.claim(owner, candidates).await.unwrap().pop()
}

/// Claims all due jobs and all suspects.
pub(crate) async fn claim_due(store: &Store) -> Vec<Job> {
    let owner = new_worker(store).await;
    let mut due = due_jobs(store, 100).await.due;
    due.extend(store.suspects(100).await.unwrap());
    store.claim(owner, due).await.unwrap()
}

/// Fails the first attempt, with the retry due at once. Returns the stored report.
pub(crate) async fn fail_attempt(store: &Store, job: &Job) -> report::Report {
    let (report, now) = (report::expected(&job.spec), jiff::Timestamp::now());
    store
        .schedule_retry(job.claim, &report, timeout(1), now)
        .await
        .unwrap();
    report
}

/// An attempt record.
pub(crate) fn attempted(number: u32, class: AttemptClass) -> AttemptRecord {
    AttemptRecord {
        number,
        started_at: jiff::Timestamp::now(),
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
    let query = DueQuery {
        notification_grace: Duration::ZERO,
        longest_wait: Duration::from_mins(1),
        limit,
    };
    store.due_jobs(query).await.unwrap()
}

fn ids(backlog: &DueJobs) -> Vec<RequestId> {
    backlog.due.iter().map(|candidate| candidate.id).collect()
}

/// Waits until ids generated so far lie in a past millisecond.
async fn next_millisecond() {
    tokio::time::sleep(Duration::from_millis(2)).await;
}

pub(crate) async fn event_kinds(store: &Store, id: RequestId) -> Vec<EventKind> {
    let row = store.find(id).await.unwrap().unwrap();
    row.events.iter().map(|event| event.event).collect()
}

pub(crate) async fn status(store: &Store, id: RequestId) -> Status {
    store.find(id).await.unwrap().unwrap().status
}

fn is_claim_lost(result: &Result<(), StoreError>) -> bool {
    matches!(result, Err(StoreError::ClaimLost))
}

#[tokio::test]
async fn an_accepted_job_is_committed_when_accept_returns() {
    let (store, folder) = new_store().await;
    let id = accept(&store).await;
    let row: (String, String, String, String) = direct(&folder)
        .query_row(
            "SELECT status, mode, input_payload, created_at FROM requests WHERE id = ?1",
            [id.to_string()],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)),
        )
        .unwrap();
    assert_eq!(row.0, "PENDING");
    assert_eq!(row.1, "async");
    assert_eq!(row.2, r#"{"report_name":"Q1_Finance","records":10}"#);
    assert_eq!(row.3, format!("{:.3}", id.created_at()));
}

#[tokio::test]
async fn a_job_goes_from_accepted_to_completed() {
    let (store, _folder) = new_store().await;
    let id = accept(&store).await;
    let job = claim_one(&store, id).await.unwrap();
    assert_eq!(
        (job.claim.number, job.attempts, job.report.clone()),
        (1, 0, None)
    );
    assert_eq!(job.spec, spec());

    let report = report::expected(&job.spec);
    store.store_result(job.claim, &report).await.unwrap();
    let stored = store.find(id).await.unwrap().unwrap();
    assert_eq!(stored.status, Status::Processing);
    assert_eq!(
        serde_json::from_str::<report::Report>(stored.result_payload.unwrap().get()).unwrap(),
        report
    );

    store
        .finalise(job.claim, None, Some(success()), Outcome::Completed)
        .await
        .unwrap();
    let done = store.find(id).await.unwrap().unwrap();
    assert_eq!(
        (done.status, done.attempts.len(), done.claims),
        (Status::Completed, 1, 1)
    );
    assert!(done.failure.is_none() && done.completed_at.unwrap() >= done.created_at);
}

#[tokio::test]
async fn a_failed_job_keeps_its_result_and_its_reason() {
    let (store, _folder) = new_store().await;
    let id = accept(&store).await;
    let job = claim_one(&store, id).await.unwrap();
    store
        .store_result(job.claim, &report::expected(&job.spec))
        .await
        .unwrap();
    let failure = Failure::new(FailureReason::CallbackFailed, "It answered 500.");
    store
        .finalise(
            job.claim,
            None,
            Some(timeout(4)),
            Outcome::Failed(failure.clone()),
        )
        .await
        .unwrap();
    let row = store.find(id).await.unwrap().unwrap();
    assert_eq!((row.status, row.failure), (Status::Failed, Some(failure)));
    assert!(row.result_payload.is_some());
}

#[tokio::test]
async fn exactly_one_of_many_concurrent_claims_on_a_job_wins() {
    let (store, folder) = new_store().await;
    let other = Store::open(&settings(folder.path())).await.unwrap();
    let ids: Vec<_> = futures_util::future::join_all((0..100).map(|_| accept(&store))).await;
    let claims = (0..8).map(|n| {
        let (store, ids) = (
            if n % 2 == 0 {
                store.clone()
            } else {
                other.clone()
            },
            ids.clone(),
        );
        tokio::spawn(async move {
            let owner = new_worker(&store).await;
            let notified = ids.into_iter().map(Candidate::notified).collect();
            store.claim(owner, notified).await.unwrap()
        })
    });
    let mut won: Vec<_> = futures_util::future::join_all(claims)
        .await
        .into_iter()
        .flat_map(Result::unwrap)
        .map(|job| job.claim.id)
        .collect();
    won.sort();
    assert_eq!(won, {
        let mut ids = ids;
        ids.sort();
        ids
    });
}

#[tokio::test]
async fn a_lost_claim_can_write_nothing() {
    let (store, _folder) = new_store().await;
    let id = accept(&store).await;
    let first = claim_one(&store, id).await.unwrap();
    assert_eq!(store.deregister(first.claim.owner).await.unwrap(), 1);
    let second = claim_due(&store).await.pop().unwrap();
    assert_eq!(second.claim.number, 2);

    let report = report::expected(&first.spec);
    let old_number = first.claim;
    let other_owner = Claim {
        owner: first.claim.owner,
        ..second.claim
    };
    for claim in [old_number, other_owner] {
        assert!(is_claim_lost(&store.store_result(claim, &report).await));
        assert!(is_claim_lost(
            &store
                .schedule_retry(claim, &report, timeout(1), jiff::Timestamp::now())
                .await
        ));
        assert!(is_claim_lost(
            &store
                .finalise(claim, None, Some(success()), Outcome::Completed)
                .await
        ));
    }
    let row = store.find(id).await.unwrap().unwrap();
    assert_eq!((row.status, row.attempts.len()), (Status::Processing, 0));
    assert!(row.result_payload.is_none());
    store
        .finalise(second.claim, None, Some(success()), Outcome::Completed)
        .await
        .unwrap();
    assert!(
        is_claim_lost(
            &store
                .finalise(second.claim, None, Some(success()), Outcome::Completed)
                .await
        ),
        "a finished job can't be finished again"
    );
}

#[tokio::test]
async fn a_scheduled_job_is_not_due_before_its_time_and_records_its_failure() {
    let (store, _folder) = new_store().await;
    let id = accept(&store).await;
    let job = claim_one(&store, id).await.unwrap();
    let report = report::expected(&job.spec);
    let soon = jiff::Timestamp::now() + Duration::from_secs(30);
    store
        .schedule_retry(job.claim, &report, timeout(2), soon)
        .await
        .unwrap();
    let row = store.find(id).await.unwrap().unwrap();
    assert_eq!((row.status, row.attempts[0].number), (Status::Pending, 2));
    assert_eq!(row.next_attempt_at, Some(format!("{soon:.3}")));
    assert_eq!(row.events.len(), 1);
    let event = &row.events[0];
    assert_eq!(
        (event.event, event.claim, event.detail.as_deref()),
        (EventKind::AttemptFailed, 1, Some("timeout"))
    );

    // Not claimable before its time, not even by a late notification.
    let backlog = due_jobs(&store, 9).await;
    assert_eq!(backlog.due, []);
    let next_due = backlog.next_due.unwrap();
    assert_eq!(next_due.as_millisecond(), soon.as_millisecond());
    assert!(claim_one(&store, id).await.is_none());
}

#[tokio::test]
async fn a_resend_is_recorded_under_its_claim_before_the_event_that_ends_it() {
    let (store, _folder) = new_store().await;
    let id = accept(&store).await;
    let first = claim_one(&store, id).await.unwrap();
    store.record_resend(first.claim).await.unwrap();
    assert_eq!(event_kinds(&store, id).await, [EventKind::Resent]);
    fail_attempt(&store, &first).await;
    let late = store.record_resend(first.claim).await;
    assert!(is_claim_lost(&late), "its claim has ended: {late:?}");

    let second = claim_due(&store).await.pop().unwrap();
    store.record_resend(second.claim).await.unwrap();
    let row = store.find(id).await.unwrap().unwrap();
    let events: Vec<_> = row.events.iter().map(|it| (it.event, it.claim)).collect();
    assert_eq!(
        events,
        [
            (EventKind::Resent, 1),
            (EventKind::AttemptFailed, 1),
            (EventKind::Resent, 2)
        ]
    );
}

#[tokio::test]
async fn a_due_retry_runs_under_a_new_claim_with_the_stored_report() {
    let (store, _folder) = new_store().await;
    let id = accept(&store).await;
    let job = claim_one(&store, id).await.unwrap();
    let report = fail_attempt(&store, &job).await;
    let again = claim_due(&store).await.pop().unwrap();
    assert_eq!((again.claim.number, again.attempts), (2, 1));
    assert_eq!(again.report, Some(report));
    let row = store.find(id).await.unwrap().unwrap();
    assert_eq!(
        (row.status, row.next_attempt_at),
        (Status::Processing, None)
    );
}

#[tokio::test]
async fn due_jobs_are_read_oldest_first_and_only_after_the_notification_grace() {
    let (store, _folder) = new_store().await;
    let mut accepted = Vec::new();
    for _ in 0..5 {
        accepted.push(accept(&store).await);
    }
    claim_one(&store, accepted[0]).await.unwrap();
    next_millisecond().await;
    assert_eq!(ids(&due_jobs(&store, 3).await), accepted[1..4]);
    let within_grace = DueQuery {
        notification_grace: Duration::from_mins(1),
        longest_wait: Duration::ZERO,
        limit: 3,
    };
    assert_eq!(store.due_jobs(within_grace).await.unwrap().due, []);
}

#[tokio::test]
async fn jobs_scheduled_before_the_clock_was_set_back_are_due_at_once() {
    let (store, folder) = new_store().await;
    let tomorrow = jiff::Timestamp::now() + Duration::from_hours(24);
    // As written before the clock was set back by a day.
    let new = RequestId::floor(tomorrow);
    store.accept(NewJob::new(new, spec(), None)).await.unwrap();
    let waits = accept(&store).await;
    let job = claim_one(&store, waits).await.unwrap();
    store
        .schedule_retry(
            job.claim,
            &report::expected(&job.spec),
            timeout(1),
            tomorrow,
        )
        .await
        .unwrap();
    assert_eq!(ids(&due_jobs(&store, 9).await), [waits, new]);
    direct(&folder)
        .execute("UPDATE requests SET next_attempt_at = 'soon'", [])
        .unwrap();
    assert_eq!(
        due_jobs(&store, 9).await.due.len(),
        2,
        "an invalid time is due, too"
    );
    assert_eq!(claim_due(&store).await.len(), 2);
}

#[tokio::test]
async fn a_sync_request_is_recorded_once_and_never_claimed() {
    let (store, _folder) = new_store().await;
    let (good, bad) = (RequestId::generate(), RequestId::generate());
    let failure = Failure::new(FailureReason::SyncTimeout, "Not done within 5s.");
    store
        .record_sync(good, &spec(), None, Ok(&report::expected(&spec())))
        .await
        .unwrap();
    store
        .record_sync(bad, &spec(), None, Err(&failure))
        .await
        .unwrap();
    assert_eq!(status(&store, good).await, Status::Completed);
    assert_eq!(
        store.find(bad).await.unwrap().unwrap().failure,
        Some(failure)
    );
    assert!(claim_one(&store, good).await.is_none());
}

#[tokio::test]
async fn a_failed_write_does_not_fail_its_group_commit() {
    let folder = TempDir::new().unwrap();
    // Four slots. That all four writes below are queued shows that the writer holds the first one,
    // which waits for the lock; so the four share the next transaction.
    let four = StoreSettings {
        write_queue: 4,
        ..settings(folder.path())
    };
    let store = Arc::new(Store::open(&four).await.unwrap());
    let accepting = |id| {
        let store = Arc::clone(&store);
        tokio::spawn(async move { store.accept(NewJob::new(id, spec(), None)).await })
    };
    let lock = direct(&folder);
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    let first = accepting(RequestId::generate());
    for _ in 0..10 {
        tokio::task::yield_now().await; // single-threaded: the task queues it, the writer takes it
    }
    let twice = RequestId::generate();
    let writes = [twice, RequestId::generate(), twice, RequestId::generate()].map(accepting);
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    lock.execute_batch("ROLLBACK").unwrap();
    first.await.unwrap().unwrap();
    let mut failed = Vec::new();
    for write in writes {
        failed.extend(write.await.unwrap().err());
    }
    assert!(matches!(failed[..], [StoreError::Sqlite(_)]), "{failed:?}");
    let rows: u32 = direct(&folder)
        .query_row("SELECT count(*) FROM requests", [], |row| row.get(0))
        .unwrap();
    assert_eq!(rows, 4);
}

#[tokio::test]
async fn a_corrupt_row_ends_failed_and_blocks_no_other() {
    let (store, folder) = new_store().await;
    let breakages = [
        "input_payload = '{}'",
        "input_payload = 'no JSON'",
        "input_payload = CAST(x'ff' AS TEXT)",
        "result_payload = '[]'",
        "attempts = -1",
    ];
    for breakage in breakages {
        let (broken, good) = (accept(&store).await, accept(&store).await);
        direct(&folder)
            .execute(
                &format!("UPDATE requests SET {breakage} WHERE id = ?1"),
                [broken.to_string()],
            )
            .unwrap();
        let jobs = store
            .claim(
                new_worker(&store).await,
                [broken, good].map(Candidate::notified).to_vec(),
            )
            .await
            .unwrap();
        assert_eq!(jobs.len(), 1, "{breakage}");
        let row = store.find(broken).await.unwrap().unwrap();
        assert_eq!(row.status, Status::Failed);
        assert_eq!(
            row.failure.unwrap().reason,
            FailureReason::InvalidRow,
            "{breakage}"
        );
    }
}

#[tokio::test]
async fn a_job_with_an_unreadable_trace_gets_a_trace_of_its_own() {
    let (store, folder) = new_store().await;
    for trace in ["NULL", "'00-nonsense'", "CAST(x'ff' AS TEXT)"] {
        let id = accept(&store).await;
        let set = format!("UPDATE requests SET traceparent = {trace} WHERE id = ?1");
        direct(&folder).execute(&set, [id.to_string()]).unwrap();
        assert_eq!(
            claim_one(&store, id).await.unwrap().traceparent,
            Traceparent::of(id)
        );
        assert_eq!(
            store.find(id).await.unwrap().unwrap().traceparent,
            Traceparent::of(id)
        );
    }
}

#[tokio::test]
async fn a_row_with_an_invalid_id_is_rejected_by_the_table() {
    let (store, folder) = new_store().await;
    let id = accept(&store).await.to_string();
    for bad in [
        id.to_uppercase().as_str(),
        "1",
        "--------------7---------------------",
        "",
    ] {
        let renamed = direct(&folder).execute("UPDATE requests SET id = ?1", [bad]);
        assert!(renamed.is_err(), "{bad}");
    }
}

#[tokio::test]
async fn only_async_rows_are_due_and_claimable() {
    let (store, folder) = new_store().await;
    let id = accept(&store).await;
    direct(&folder)
        .execute("UPDATE requests SET mode = 'sync'", [])
        .unwrap();
    next_millisecond().await;
    assert_eq!(due_jobs(&store, 9).await.due, []);
    assert!(claim_one(&store, id).await.is_none());
}

#[tokio::test]
async fn a_database_that_can_not_be_written_fails_the_health_check() {
    let (store, folder) = new_store().await;
    store.check().await.unwrap();
    let lock = direct(&folder);
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert!(
        store.check().await.is_err(),
        "the check needs the write lock, within BUSY_TIMEOUT"
    );
    lock.execute_batch("ROLLBACK").unwrap();
    store.check().await.unwrap();
}

#[tokio::test]
async fn a_closed_store_is_not_taken_for_one_whose_file_was_moved() {
    let (store, _folder) = new_store().await;
    store.check().await.unwrap();
    store.clone().close().await; // SQLite deletes the write-ahead log
    let checked = store.check().await;
    assert!(matches!(checked, Err(StoreError::Closed)), "{checked:?}");
}

#[tokio::test]
async fn queued_writes_are_committed_when_the_store_closes() {
    let (store, folder) = new_store().await;
    let writes: Vec<_> = (0..500)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move {
                store
                    .accept(NewJob::new(RequestId::generate(), spec(), None))
                    .await
            })
        })
        .collect();
    tokio::task::yield_now().await;
    store.close().await;
    let mut accepted = 0;
    for write in writes {
        match write.await.unwrap() {
            Ok(()) => accepted += 1,
            Err(error) => assert!(matches!(error, StoreError::Closed), "{error}"),
        }
    }
    let rows: u32 = direct(&folder)
        .query_row("SELECT count(*) FROM requests", [], |row| row.get(0))
        .unwrap();
    assert_eq!(rows, accepted);
    let log = folder.path().join("storm.db-wal");
    assert!(
        !log.exists(),
        "closing the last connection checkpoints and deletes the WAL"
    );
}

#[tokio::test]
async fn writes_queued_behind_a_lock_fail_with_the_first_one() {
    let (store, folder) = new_store().await;
    let lock = direct(&folder);
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    // Several transactions' worth: if each waited separately, the last would find the lock free.
    let mut writes = tokio::task::JoinSet::new();
    for _ in 0..4000 {
        let store = store.clone();
        writes.spawn(async move {
            store
                .accept(NewJob::new(RequestId::generate(), spec(), None))
                .await
        });
    }
    let first = writes.join_next().await.unwrap().unwrap();
    assert!(first.is_err(), "{first:?}");
    lock.execute_batch("ROLLBACK").unwrap();
    let mut refused = 0;
    while let Some(write) = writes.join_next().await {
        refused += usize::from(write.unwrap().is_err());
    }
    assert!(refused > 2 * 1024, "only {refused} failed together");
}

#[tokio::test(start_paused = true)]
async fn after_a_load_the_wal_is_truncated() {
    let (store, folder) = new_store().await;
    let accepting = (0..5000).map(|_| accept(&store));
    futures_util::future::join_all(accepting).await;
    let log = folder.path().join("storm.db-wal");
    let size = || std::fs::metadata(&log).unwrap().len();
    assert!(size() > 1 << 20, "{}", size());
    while size() > 0 {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    next_millisecond().await;
    assert_eq!(due_jobs(&store, 10_000).await.due.len(), 5000);
}

#[tokio::test]
async fn stores_opened_concurrently_agree_on_one_database() {
    let folder = TempDir::new().unwrap();
    let opened = (0..6).map(|_| {
        let settings = settings(&folder.path().join("new/folder"));
        tokio::spawn(async move { Store::open(&settings).await.unwrap() })
    });
    let stores: Vec<_> = futures_util::future::join_all(opened)
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    assert!(stores.windows(2).all(|pair| pair[0].id() == pair[1].id()));
}

#[tokio::test]
async fn an_error_about_a_file_that_is_no_database_names_the_file() {
    let folder = TempDir::new().unwrap();
    std::fs::write(
        folder.path().join("storm.db"),
        "no database at all, but long enough".repeat(99),
    )
    .unwrap();
    let error = Store::open(&settings(folder.path()))
        .await
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("storm.db"), "{error}");
}

#[tokio::test]
async fn a_full_write_queue_rejects_at_once() {
    let folder = TempDir::new().unwrap();
    let few = StoreSettings {
        write_queue: 1,
        ..settings(folder.path())
    };
    let store = Store::open(&few).await.unwrap();
    let lock = direct(&folder);
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    // The writer holds at most one write and the queue one: of three, one is rejected.
    let mut writes = tokio::task::JoinSet::new();
    for _ in 0..3 {
        let store = store.clone();
        writes.spawn(async move {
            store
                .accept(NewJob::new(RequestId::generate(), spec(), None))
                .await
        });
    }
    let first = writes.join_next().await.unwrap().unwrap();
    assert!(matches!(first, Err(StoreError::QueueFull)), "{first:?}");
    lock.execute_batch("ROLLBACK").unwrap();
    assert!(writes.join_all().await.iter().any(Result::is_ok));
}
