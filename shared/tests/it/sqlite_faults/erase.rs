//! Erased contents in the database's files: a file keeps what is deleted until it is overwritten.

use std::{fs, time::Duration};

use futures_util::poll;
use rusqlite::Connection;
use serde_json::json;
use storm_shared::{
    models::{CallbackUrl, ReportSpec, RequestId},
    services::{
        report::Report,
        store::{Job, NewJob, Outcome, Scope, Settlement, Store, WorkResult},
    },
};
use tempfile::TempDir;

use super::{direct, new_store, settings};
use crate::jobs::{claim_due, claim_one, finish, result_of, retry, timeout};

/// The number of times that `text` occurs in the files of the database.
fn occurrences(folder: &TempDir, text: &str) -> usize {
    let files = fs::read_dir(folder.path()).unwrap();
    let of_file = |file: std::io::Result<fs::DirEntry>| {
        let bytes = fs::read(file.unwrap().path()).unwrap();
        bytes
            .windows(text.len())
            .filter(|it| *it == text.as_bytes())
            .count()
    };
    files.map(of_file).sum()
}

/// A job whose texts all have its `name`. The longer its URL, the more pages of the file it takes.
async fn submit(store: &Store, name: &str, length: usize) -> RequestId {
    let long = format!("{name}{}", "x".repeat(200 - name.len()));
    let spec: ReportSpec =
        serde_json::from_value(json!({"records": 1, "report_name": long})).unwrap();
    let url = format!("https://{name}.example/{}{name}", "hook".repeat(length));
    let id = RequestId::generate();
    let callback = CallbackUrl::parse(&url).unwrap();
    let job = NewJob::new(id, spec, Some(callback));
    store.accept(job).await.unwrap();
    id
}

/// Makes the first attempt of a job, which fails.
async fn fail(store: &Store, id: RequestId, error: String) {
    let job = claim_one(store, id).await.unwrap();
    let mut attempt = timeout(1);
    attempt.internal_detail = Some(error);
    let failed = retry(attempt, Duration::ZERO);
    let report = result_of(&job);
    let settled = store.settle(job.claim, Some(report.clone()), failed);
    settled.await.unwrap();
}

/// Makes the last attempt of all jobs.
async fn end_all(store: &Store) {
    for job in claim_due(store).await {
        finish(store, &job, timeout(2), Outcome::Completed).await;
    }
}

async fn erase(store: &Store, id: RequestId) {
    store.erase(Scope::All, id).await.unwrap().unwrap();
}

#[tokio::test]
async fn what_was_erased_is_in_no_file_once_the_log_is_checkpointed() {
    let (store, folder) = new_store().await;
    let names: Vec<_> = (0..60).map(|n| format!("customer-{n:02}")).collect();
    let mut ids = Vec::new();
    for (number, name) in names.iter().enumerate() {
        // Most rows share a page with others, and some take several.
        let length = if number % 5 < 3 { 5 } else { 8 * number };
        ids.push(submit(&store, name, length).await);
    }
    for (id, name) in ids.iter().zip(&names) {
        fail(&store, *id, name.repeat(100)).await;
    }
    end_all(&store).await;
    for id in ids.iter().step_by(2) {
        erase(&store, *id).await;
    }
    store.close().await;
    for (number, name) in names.iter().enumerate() {
        let left = occurrences(&folder, name);
        assert_eq!(left > 0, number % 2 == 1, "{name}: {left}");
    }
}

/// Ends the claim of a job, with a result that has its `name`: as often as a row or a body of its
/// own can have it.
async fn settle(store: &Store, job: &Job, name: &str, number: usize, outcome: Option<Outcome>) {
    let mut attempt = timeout(1);
    attempt.internal_detail = Some(name.repeat(50));
    let report = Report {
        report_id: uuid::Uuid::nil(),
        checksum: name.repeat([1, 40, 600][number % 3]),
    };
    let settlement = match outcome {
        Some(outcome) => Settlement::Finish {
            attempt: Some(attempt),
            outcome,
        },
        None => retry(attempt, Duration::ZERO),
    };
    let settled = store.settle(job.claim, Some(WorkResult::of(&report)), settlement);
    settled.await.unwrap();
}

#[tokio::test]
async fn what_survived_a_sweep_and_was_erased_after_it_is_in_no_file() {
    let (store, folder) = new_store().await;
    let names: Vec<_> = (0..400).map(|n| format!("customer-{n:03}")).collect();
    let mut ids = Vec::new();
    for name in &names {
        ids.push(submit(&store, name, 5).await);
    }
    let survives = |number: usize| number.is_multiple_of(8);
    for (number, (id, name)) in ids.iter().zip(&names).enumerate() {
        let job = claim_one(&store, *id).await.unwrap();
        let outcome = (!survives(number)).then_some(Outcome::Completed);
        settle(&store, &job, name, number, outcome).await;
    }
    let swept = store.sweep(Duration::ZERO, None).await.unwrap();
    assert_eq!(swept.deleted, 350);
    end_all(&store).await;
    for id in ids.iter().step_by(8) {
        erase(&store, *id).await;
    }
    store.close().await;
    let mut survivors = names.iter().step_by(8);
    assert_eq!(
        survivors.find(|name| occurrences(&folder, name) > 0),
        None,
        "what a sweep moves must be erased, too"
    );
}

fn log_bytes(folder: &TempDir) -> u64 {
    fs::metadata(folder.path().join("storm.db-wal")).map_or(0, |log| log.len())
}

/// A connection of another process in the middle of a read.
fn reading(folder: &TempDir) -> Connection {
    let connection = direct(folder);
    connection.execute_batch("BEGIN").unwrap();
    let _: i64 = connection
        .query_row("SELECT count(*) FROM requests", [], |row| row.get(0))
        .unwrap();
    connection
}

/// Waits until the log is truncated, by a paused clock.
async fn truncated(folder: &TempDir) {
    while log_bytes(folder) > 0 {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// A finished job named `customer`, whose texts are in the log.
async fn in_the_log(store: &Store, folder: &TempDir) -> RequestId {
    truncated(folder).await; // once after each start
    let id = submit(store, "customer", 400).await;
    fail(store, id, "customer".repeat(800)).await;
    end_all(store).await;
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert!(log_bytes(folder) > 0, "a small log is left alone");
    id
}

#[tokio::test(start_paused = true)]
async fn the_log_is_truncated_soon_after_an_erasure_however_small_it_is() {
    let (store, folder) = new_store().await;
    let id = in_the_log(&store, &folder).await;
    erase(&store, id).await;
    truncated(&folder).await;
    assert_eq!(occurrences(&folder, "customer"), 0);
}

#[tokio::test(start_paused = true)]
async fn the_log_is_truncated_after_an_erasure_whose_client_is_gone() {
    let (store, folder) = new_store().await;
    let id = in_the_log(&store, &folder).await;
    let mut erasing = Box::pin(store.erase(Scope::All, id));
    assert!(poll!(&mut erasing).is_pending(), "its write is queued");
    drop(erasing);
    truncated(&folder).await;
    assert_eq!(occurrences(&folder, "customer"), 0);
}

#[tokio::test(start_paused = true)]
async fn the_log_is_truncated_before_the_process_of_an_erasure_ends() {
    let (store, folder) = new_store().await;
    let id = in_the_log(&store, &folder).await;
    // The last process to close the database deletes the log. This is another one.
    let other = reading(&folder);
    other.execute_batch("COMMIT").unwrap();
    erase(&store, id).await;
    store.close().await;
    assert_eq!(log_bytes(&folder), 0);
    assert_eq!(occurrences(&folder, "customer"), 0);
}

#[tokio::test(start_paused = true)]
async fn the_log_is_truncated_after_the_next_start_if_the_end_came_too_soon() {
    let (store, folder) = new_store().await;
    let id = in_the_log(&store, &folder).await;
    let other = reading(&folder);
    erase(&store, id).await;
    store.close().await;
    assert!(occurrences(&folder, "customer") > 0, "a reader prevents it");
    other.execute_batch("COMMIT").unwrap();
    let store = Store::open(&settings(folder.path())).await.unwrap();
    truncated(&folder).await;
    assert_eq!(occurrences(&folder, "customer"), 0);
    store.close().await;
}
