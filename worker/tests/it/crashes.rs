//! Jobs of a worker process that is killed, suspended, or stopped with SIGTERM.

use std::{sync::Arc, time::Duration};

use storm_shared::{
    models::{EventKind, FailureReason, Request, Status},
    services::report,
};
use tokio::sync::Semaphore;

use crate::{
    process::WorkerProcess,
    receiver::Receiver,
    rows::{Rows as _, ended_when_due},
    table::Table,
};

fn kinds(row: &Request) -> Vec<EventKind> {
    row.events.iter().map(|event| event.event).collect()
}

/// A receiver that holds its first response until a permit is added, and returns all others at
/// once.
async fn holds_the_first(status: u16) -> (Receiver, Arc<Semaphore>) {
    let release = Arc::new(Semaphore::new(0));
    let gate = release.clone();
    let receiver = Receiver::answering_when(move |nth, _| {
        let gate = gate.clone();
        async move {
            if nth == 0 {
                drop(gate.acquire().await);
            }
            status
        }
    });
    (receiver.await, release)
}

#[tokio::test]
async fn a_killed_workers_job_is_reclaimed_and_repeats_only_the_attempt_in_flight() {
    let table = Table::new().await;
    let (mut receiver, _never) = holds_the_first(200).await;
    let killed = table.worker(&[]);
    let id = table.accept(1, Some(receiver.url())).await;
    let first = receiver.next().await; // received, not yet answered
    let other = table.worker(&[]);
    killed.signal("KILL");
    let row = table.ended(id).await;
    assert_eq!(receiver.next().await, first, "the same bytes");
    assert_eq!((row.status, row.attempts.len()), (Status::Completed, 1));
    assert_eq!((row.claims, row.lost_claims), (2, 1));
    assert_eq!(kinds(&row), [EventKind::ClaimLost]);
    drop(other);
}

#[tokio::test]
async fn a_stored_report_is_reused_and_failed_attempts_still_count() {
    let table = Table::new().await;
    // 500, then no response until the worker is dead, then 200.
    let gate = Arc::new(Semaphore::new(0));
    let held = gate.clone();
    let mut receiver = Receiver::answering_when(move |nth, _| {
        let gate = held.clone();
        async move {
            if nth == 1 {
                drop(gate.acquire().await);
            }
            if nth == 0 { 500 } else { 200 }
        }
    })
    .await;
    let quick = ("CALLBACK_RETRY_DELAYS", "50ms,50ms");
    let killed = table.worker(&[quick]);
    let id = table.accept(1, Some(receiver.url())).await;
    receiver.next().await;
    receiver.next().await;
    let stored = table.find(id).await.result_payload.unwrap();
    killed.signal("KILL");
    // No computation gives this checksum, so a callback with it shows the stored report.
    let other_report = report::Report {
        checksum: "0".repeat(64),
        ..serde_json::from_str(stored.get()).unwrap()
    };
    let other_text = serde_json::to_string(&other_report).unwrap();
    let edit = format!("UPDATE requests SET result_payload = '{other_text}'");
    table.database().await.change(1, &edit).await;
    let _other = table.worker(&[quick]);
    let row = table.ended(id).await;
    assert_eq!((row.status, row.attempts.len()), (Status::Completed, 2));
    let body: serde_json::Value = serde_json::from_slice(&receiver.next().await).unwrap();
    assert_eq!(body["checksum"], other_report.checksum);
    assert_eq!(
        kinds(&row),
        [EventKind::AttemptFailed, EventKind::ClaimLost]
    );
}

#[tokio::test]
async fn rows_edited_into_nonsense_end_failed_and_the_jobs_beside_them_are_delivered() {
    let table = Table::new().await;
    let mut receiver = Receiver::answering(|_, _| 200).await;
    let mut broken = Vec::new();
    let database = table.database().await;
    // PostgreSQL stores no text that is no text, and no JSON that is none.
    for edit in [
        database.either(
            "input_payload = CAST(x'ff00' AS TEXT)",
            "input_payload = '{}'",
        ),
        database.either(
            "result_payload = CAST(x'ff00' AS TEXT)",
            "result_payload = '[]'",
        ),
        database.either(
            "callback_url = CAST(x'ff00' AS TEXT)",
            "callback_url = 'no URL'",
        ),
    ] {
        let id = table.accept(1, Some(receiver.url())).await;
        let edit = format!("UPDATE requests SET {edit} WHERE id = '{id}'");
        database.change(1, &edit).await;
        broken.push(id);
    }
    let sound = table.accept(1, Some(receiver.url())).await;
    let _worker = table.worker(&[]);
    assert_eq!(table.ended(sound).await.status, Status::Completed);
    for id in broken {
        let row = table.ended(id).await;
        let failure = row.failure.unwrap();
        assert_eq!(failure.reason, FailureReason::InvalidRow);
        assert!(failure.detail.starts_with("The row can't be parsed: "));
    }
    receiver.next().await;
    assert!(receiver.more().is_empty(), "only the sound one was called");
}

#[tokio::test]
async fn a_worker_resumed_after_lease_expiry_is_fenced_off_and_works_again() {
    let table = Table::new().await;
    let (mut receiver, release) = holds_the_first(200).await;
    let frozen = table.worker(&[]);
    let id = table.accept(1, Some(receiver.url())).await;
    receiver.next().await;
    let other = table.worker(&[]);
    // A heartbeat holds the database lock briefly. A process suspended with it would block all
    // others, so the test holds the lock during the suspension.
    let lock = table.database().await;
    lock.lock().await;
    frozen.freeze().await;
    lock.unlock().await;
    let ended = table.ended(id).await;
    assert_eq!((ended.status, ended.claims), (Status::Completed, 2));

    release.add_permits(1); // the response is there when the worker resumes
    frozen.signal("CONT");
    for lost in ["claims", "leases"] {
        let lost = format!("storm_worker_lost_{lost}_total 1");
        frozen.until_shown("/metrics", &lost).await;
    }
    let row = table.find(id).await;
    assert_eq!(row.completed_at, ended.completed_at);
    assert_eq!((row.claims, row.attempts.len()), (2, 1));

    // It claims jobs again, under a new worker id.
    other.signal("TERM");
    assert!(other.ended().await.success());
    let next = table.accept(1, Some(receiver.url())).await;
    assert_eq!(table.ended(next).await.status, Status::Completed);
}

#[tokio::test]
async fn killing_a_worker_loses_no_scheduled_retry() {
    let table = Table::new().await;
    let receiver = Receiver::answering(|nth, _| if nth == 0 { 500 } else { 200 }).await;
    let delays = ("CALLBACK_RETRY_DELAYS", "500ms");
    let killed = table.worker(&[delays]);
    let id = table.accept(1, Some(receiver.url())).await;
    let scheduled = table.row_when(id, |row| row.attempts.len() == 1).await;
    killed.signal("KILL");
    let _other = table.worker(&[delays]);
    let row = table.ended(id).await;
    assert_eq!((row.status, row.attempts.len()), (Status::Completed, 2));
    assert_eq!((row.claims, row.lost_claims), (2, 0));
    assert!(ended_when_due(&row, &scheduled));
}

#[tokio::test]
async fn on_sigterm_a_worker_releases_the_jobs_it_cannot_finish() {
    let table = Table::new().await;
    let (mut receiver, _never) = holds_the_first(200).await;
    let stopping = table.worker(&[("DRAIN_TIMEOUT", "100ms")]);
    let id = table.accept(1, Some(receiver.url())).await;
    receiver.next().await;
    // Nothing expires under this lease: the other worker gets the job only if it is released.
    let other = WorkerProcess::start(table.folder.path(), &[("WORKER_LEASE", "1h")]);
    stopping.signal("TERM");
    assert!(stopping.ended().await.success());
    let row = table.ended(id).await;
    assert_eq!((row.status, row.attempts.len()), (Status::Completed, 1));
    assert_eq!((row.claims, row.lost_claims), (2, 0));
    assert_eq!(kinds(&row), [EventKind::GivenBack]);
    drop(other);
}

#[tokio::test]
async fn work_longer_than_the_drain_is_warned_of_once_a_process_and_counted() {
    let table = Table::new().await;
    // Two claims in each of two processes: the first of them releases both.
    let jobs = [
        table.accept(1000, None).await,
        table.accept(1000, None).await,
    ];
    for claims in 1..=2 {
        let worker = table.worker(&[("DRAIN_TIMEOUT", "100ms")]);
        for id in jobs {
            table.row_when(id, |row| row.claims == claims).await;
        }
        let counted = "storm_worker_long_work_total 2";
        worker.until_shown("/metrics", counted).await;
        worker.logs("takes longer than DRAIN_TIMEOUT").await;
        assert_eq!(worker.log().matches("longer than DRAIN_TIMEOUT").count(), 1);
        worker.signal("TERM");
        assert!(worker.ended().await.success());
    }
    let row = table.find(jobs[0]).await;
    assert_eq!(kinds(&row), [EventKind::GivenBack, EventKind::GivenBack]);
}

#[tokio::test]
async fn with_its_database_deleted_a_worker_fails_its_health_check() {
    let table = Table::on_sqlite().await;
    let worker = table.worker(&[]);
    worker.until_healthy().await;
    std::fs::remove_file(table.folder.path().join("storm.db")).unwrap();
    let health = worker.get("/healthz").await.unwrap();
    assert!(
        health.contains(r#""database":"file moved or deleted""#),
        "{health}"
    );
    assert_eq!(worker.healthcheck().await, Some(1));
    worker.logs("no longer at its path").await;
}

#[tokio::test]
async fn a_second_sigterm_ends_the_worker_at_once() {
    let table = Table::new().await;
    let worker = table.worker(&[("DRAIN_TIMEOUT", "1h")]);
    let id = table.accept(100_000, None).await;
    table
        .row_when(id, |row| row.status == Status::Processing)
        .await;
    worker.signal("TERM");
    // Wait until the first signal is handled: two pending SIGTERMs are merged into one.
    worker.logs("a second signal ends at once").await;
    worker.signal("TERM");
    assert_eq!(worker.ended().await.code(), Some(143));
    let _other = table.worker(&[]);
    table.row_when(id, |row| row.claims == 2).await;
}

#[tokio::test]
async fn the_healthcheck_passes_for_a_live_worker_and_fails_for_a_frozen_or_dead_one() {
    let table = Table::new().await;
    let worker = table.worker(&[]);
    worker.until_healthy().await;
    worker.freeze().await;
    assert_eq!(worker.healthcheck().await, Some(1));
    worker.signal("CONT");
    worker.until_healthy().await;
    worker.signal("KILL");
    assert_eq!(worker.healthcheck().await, Some(1));
}

/// One poison job kills every worker that delivers it, with a thousand other jobs in progress.
#[tokio::test]
async fn one_poison_job_is_quarantined_and_every_other_job_completes() {
    const JOBS: usize = 1000;
    let table = Table::new().await;
    let receiver = Receiver::answering(|_, _| 200).await;
    let mut others = Vec::with_capacity(JOBS - 1);
    let mut poison = None;
    for nth in 0..JOBS {
        if nth == JOBS / 2 {
            let url = "http://poison.example/".to_owned();
            poison = Some(table.accept(1, Some(url)).await);
        } else {
            others.push(table.accept(20, Some(receiver.url())).await);
        }
    }
    let poison = poison.unwrap();
    let (mut deaths, mut worker) = (0, None::<WorkerProcess>);
    let quarantined = loop {
        let row = table.find(poison).await;
        if row.status == Status::Failed {
            break row;
        }
        if !worker.as_mut().is_some_and(WorkerProcess::is_alive) {
            deaths += usize::from(worker.is_some());
            worker = Some(WorkerProcess::start_mortal(
                table.folder.path(),
                &[("WORKER_LEASE", "500ms")],
            ));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert_eq!(quarantined.failure.unwrap().reason, FailureReason::Poison);
    assert_eq!((quarantined.lost_claims, deaths), (5, 5));
    assert!(quarantined.attempts.is_empty(), "a crash spends no attempt");
    let mut hit_by_a_crash = 0;
    for id in others {
        let row = table.ended(id).await;
        assert_eq!(row.status, Status::Completed, "{row:?}");
        hit_by_a_crash += usize::from(row.lost_claims > 0);
    }
    assert!(hit_by_a_crash > 0, "no other job ran beside the poison job");
}
