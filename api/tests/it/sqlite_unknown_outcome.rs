//! Commits whose outcome is unknown: the sync of the database's log fails (`EIO`), as on a failing
//! disk. A library that is preloaded into the API makes it fail while a file exists.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use rusqlite::Connection;
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    client::{Answer, bare, post},
    idempotency::{accepted, keyed},
    program_database::folder_on_sqlite,
    service::{Service, exited_with, program},
};

/// The log is synced at each commit (`DB_SYNCHRONOUS=full`), by one of these two functions.
const FAILING_SYNC: &str = r#"
    #define _GNU_SOURCE
    #include <errno.h>
    #include <stdio.h>
    #include <stdlib.h>
    #include <string.h>
    #include <sys/syscall.h>
    #include <unistd.h>

    static int fails(int fd) {
        char link[64], path[4096];
        const char *while_this_exists = getenv("FAIL_SYNC_WHILE");
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        ssize_t length = readlink(link, path, sizeof path - 1);
        if (length < 4 || while_this_exists == NULL) return 0;
        path[length] = 0;
        return strcmp(path + length - 4, "-wal") == 0 && access(while_this_exists, F_OK) == 0;
    }

    static int sync_by(long call, int fd) {
        if (fails(fd)) { errno = EIO; return -1; }
        return (int) syscall(call, fd);
    }

    int fsync(int fd) { return sync_by(SYS_fsync, fd); }
    int fdatasync(int fd) { return sync_by(SYS_fdatasync, fd); }
"#;

const JOB: &str = r#"{"records": 10, "report_name": "Q1_Finance"}"#;

/// Compiles the library into `folder`.
fn library(folder: &Path) -> PathBuf {
    let (source, library) = (folder.join("sync.c"), folder.join("sync.so"));
    fs::write(&source, FAILING_SYNC).unwrap();
    let compiled = Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .args([&library, &source])
        .status();
    assert!(compiled.unwrap().success());
    library
}

/// The file that makes syncs fail while it exists.
fn fault(folder: &TempDir) -> PathBuf {
    folder.path().join("disk-fails")
}

/// Starts the API, with `HTTP_TIMEOUT` as the limit of repeats.
async fn start(folder: &TempDir, http_timeout: &str) -> Service {
    let mut command = program(folder.path());
    command
        .env("LD_PRELOAD", library(folder.path()))
        .env("FAIL_SYNC_WHILE", fault(folder))
        .env("DB_SYNCHRONOUS", "full")
        .env("HTTP_TIMEOUT", http_timeout);
    let service = Service::spawn(command, folder.path()).await;
    service.is_open().await;
    service
}

async fn submit(service: &Service) -> Answer {
    service.ask(post("/async", JOB)).await
}

async fn find(service: &Service, id: &str) -> Answer {
    service.ask(bare("GET", &format!("/requests/{id}"))).await
}

/// The id in an answer that says that the outcome is unknown, to a submission with a key.
fn unknown_with_key(answer: &Answer) -> String {
    assert_eq!(answer.problem(), "503 outcome-unknown");
    assert_eq!(answer.header("retry-after"), Some("30"));
    answer.json()["request_id"].as_str().unwrap().to_owned()
}

/// The same without a key.
fn unknown(answer: &Answer) -> String {
    assert_eq!(answer.problem(), "503 outcome-unknown");
    assert_eq!(answer.header("retry-after"), None, "no blind retry");
    let body = answer.json();
    let id = body["request_id"].as_str().unwrap().to_owned();
    let detail = body["detail"].as_str().unwrap();
    assert!(
        detail.contains(&format!("GET /requests/{id} tells")),
        "{detail}"
    );
    id
}

fn ids(database: &Connection) -> Vec<String> {
    let mut query = database.prepare("SELECT id FROM requests").unwrap();
    let rows = query.query_map([], |row| row.get(0)).unwrap();
    rows.collect::<Result<_, _>>().unwrap()
}

#[cfg_attr(
    target_feature = "crt-static",
    ignore = "a statically linked API loads no library"
)]
#[tokio::test]
async fn a_job_whose_commit_is_unknown_is_stored_again_under_its_id_until_it_is_accepted() {
    let folder = folder_on_sqlite();
    // Far longer than the fault lasts.
    let service = start(&folder, "10m").await;
    fs::write(fault(&folder), "").unwrap();
    let repaired = async {
        let said = service.says("rejects writes").await;
        assert_eq!(said["trouble"], "failing");
        fs::remove_file(fault(&folder)).unwrap();
    };
    let (accepted, ()) = tokio::join!(submit(&service), repaired);
    assert_eq!(accepted.status, 202);
    let id = accepted.json()["request_id"].clone();
    assert_eq!(
        Value::from(ids(&database(folder.path()))),
        Value::from([id])
    );
    assert!(exited_with(service.stop().await, 0));
}

#[cfg_attr(
    target_feature = "crt-static",
    ignore = "a statically linked API loads no library"
)]
#[tokio::test]
async fn a_job_whose_commit_stays_unknown_is_told_so_and_is_there_unless_a_power_cut_undoes_it() {
    let folder = folder_on_sqlite();
    let service = start(&folder, "1s").await;
    // So that the log has its header, which is synced within the commit.
    assert_eq!(submit(&service).await.status, 202);
    fs::write(fault(&folder), "").unwrap();
    let id = unknown(&submit(&service).await);
    let health = service.ask(bare("GET", "/healthz")).await;
    assert_eq!(health.status, 503, "it is not settled yet");
    assert_eq!(find(&service, &id).await.status, 200);
    drop(service); // kill -9

    // The log has the whole commit, although its sync failed.
    fs::remove_file(fault(&folder)).unwrap();
    let service = start(&folder, "1s").await;
    let found = find(&service, &id).await;
    assert_eq!(found.status, 200);
    assert_eq!(found.json()["status"], "PENDING");
    assert!(exited_with(service.stop().await, 0));
}

#[cfg_attr(
    target_feature = "crt-static",
    ignore = "a statically linked API loads no library"
)]
#[tokio::test]
async fn after_a_failed_sync_the_next_202_waits_until_the_database_has_all_that_the_log_has() {
    let folder = folder_on_sqlite();
    let service = start(&folder, "1s").await;
    assert_eq!(submit(&service).await.status, 202);
    fs::write(fault(&folder), "").unwrap();
    let unknown = unknown(&submit(&service).await);
    fs::remove_file(fault(&folder)).unwrap();
    let accepted = submit(&service).await;
    assert_eq!(accepted.status, 202);
    let accepted = accepted.json()["request_id"].as_str().unwrap().to_owned();
    // A log whose sync has failed may have a gap: what counts is what the database has without it.
    let without_log = folder_on_sqlite();
    let file = database(folder.path()).path().unwrap().to_owned();
    let name = Path::new(&file).file_name().unwrap();
    fs::copy(&file, without_log.path().join(name)).unwrap();
    let in_database = ids(&database(without_log.path()));
    assert!(in_database.contains(&unknown), "{in_database:?}");
    assert!(in_database.contains(&accepted), "{in_database:?}");
    assert!(exited_with(service.stop().await, 0));
}

#[cfg_attr(
    target_feature = "crt-static",
    ignore = "a statically linked API loads no library"
)]
#[tokio::test]
async fn a_submission_with_a_key_is_safe_to_repeat_after_an_unknown_outcome() {
    let folder = folder_on_sqlite();
    let submit = async |service: &Service, key| service.ask(keyed(key, JOB)).await;
    // Longer than the fault lasts: the API's own repeats are no replays.
    let service = start(&folder, "10m").await;
    fs::write(fault(&folder), "").unwrap();
    let repaired = async {
        service.says("rejects writes").await;
        fs::remove_file(fault(&folder)).unwrap();
    };
    let (known, ()) = tokio::join!(submit(&service, "known"), repaired);
    let known = accepted(&known, false);
    assert_eq!(accepted(&submit(&service, "known").await, true), known);
    drop(service); // kill -9

    let service = start(&folder, "1s").await;
    accepted(&submit(&service, "before").await, false);
    fs::write(fault(&folder), "").unwrap();
    // A repeat is found by a read, and waits for a sync all the same.
    let unsynced = submit(&service, "known").await;
    assert_eq!(unsynced.problem(), "503 database-failing");
    let unknown = unknown_with_key(&submit(&service, "unknown").await);
    fs::remove_file(fault(&folder)).unwrap();
    assert_eq!(accepted(&submit(&service, "unknown").await, true), unknown);
    // So that the log has its header, which is synced within the commit.
    accepted(&submit(&service, "after").await, false);
    fs::write(fault(&folder), "").unwrap();
    let in_the_log = unknown_with_key(&submit(&service, "in-the-log").await);
    drop(service); // kill -9

    fs::remove_file(fault(&folder)).unwrap();
    let service = start(&folder, "1s").await;
    for (key, id) in [
        ("known", &known),
        ("unknown", &unknown),
        ("in-the-log", &in_the_log),
    ] {
        assert_eq!(accepted(&submit(&service, key).await, true), *id);
    }
    assert_eq!(ids(&database(folder.path())).len(), 5);
    assert!(exited_with(service.stop().await, 0));
}

#[cfg_attr(
    target_feature = "crt-static",
    ignore = "a statically linked API loads no library"
)]
#[tokio::test]
async fn a_redelivery_whose_commit_is_unknown_is_told_so_and_not_repeated() {
    let folder = folder_on_sqlite();
    let service = start(&folder, "1s").await;
    let id = submit(&service).await.json()["request_id"]
        .as_str()
        .unwrap()
        .to_owned();
    let ended = "UPDATE requests SET status = 'COMPLETED', result_payload = '{}', due = NULL,
                     callback_url = 'http://example.com/'";
    assert_eq!(database(folder.path()).execute(ended, []), Ok(1));
    fs::write(fault(&folder), "").unwrap();
    let redeliver = post(&format!("/requests/{id}/redeliver"), "");
    assert_eq!(unknown(&service.ask(redeliver).await), id);
    let page = service
        .ask(post("/requests/redeliver?status=COMPLETED", ""))
        .await;
    assert_eq!(page.problem(), "503 outcome-unknown");
    assert_eq!(page.json()["request_id"], Value::Null);
    fs::remove_file(fault(&folder)).unwrap();
    assert!(exited_with(service.stop().await, 0));
}

#[cfg_attr(
    target_feature = "crt-static",
    ignore = "a statically linked API loads no library"
)]
#[tokio::test]
async fn an_erasure_whose_commit_is_unknown_is_repeated_until_it_is_known() {
    let folder = folder_on_sqlite();
    // Longer than the fault lasts.
    let service = start(&folder, "10m").await;
    let id = submit(&service).await.json()["request_id"]
        .as_str()
        .unwrap()
        .to_owned();
    let ended = "UPDATE requests SET status = 'COMPLETED', result_payload = '{}', due = NULL";
    assert_eq!(database(folder.path()).execute(ended, []), Ok(1));
    fs::write(fault(&folder), "").unwrap();
    let erase = bare("POST", &format!("/requests/{id}/erase"));
    let repaired = async {
        service.says("rejects writes").await;
        fs::remove_file(fault(&folder)).unwrap();
    };
    let (erased, ()) = tokio::join!(service.ask(&erase), repaired);
    assert_eq!(erased.status, 200);
    let shown = find(&service, &id).await.json();
    assert_eq!(shown["erased_at"], erased.json()["erased_at"]);
    assert_eq!(shown["result_payload"], Value::Null);
    assert!(exited_with(service.stop().await, 0));
}

fn database(folder: &Path) -> Connection {
    Connection::open(folder.join("storm.db")).unwrap()
}
