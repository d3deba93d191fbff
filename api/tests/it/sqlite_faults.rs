//! Disk faults: a full disk, corruption, and files and folders that are read-only.

use std::{
    fs::{self, Permissions},
    os::unix::{
        fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, chown},
        process::CommandExt as _,
    },
    path::Path,
    process::Command,
};

use futures_util::future::join_all;
use rusqlite::Connection;
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    client::{Answer, bare, health, post},
    program_database::folder_on_sqlite,
    service::{Service, exited_with, lines, program},
};

const JOB: &str = r#"{"records": 10, "report_name": "Q1_Finance"}"#;

/// The uid of `nobody`.
const NOBODY: u32 = 65534;

async fn accept(service: &Service) -> Answer {
    service.ask(post("/async", JOB)).await
}

fn id(accepted: &Answer) -> String {
    assert_eq!(accepted.status, 202);
    accepted.json()["request_id"].as_str().unwrap().to_owned()
}

/// The database check of `/healthz`.
async fn database_is(service: &Service) -> Value {
    health(service.addr).await.json()["database"].clone()
}

async fn find(service: &Service, id: &str) -> Answer {
    service.ask(bare("GET", &format!("/requests/{id}"))).await
}

fn rows(folder: &Path) -> Vec<String> {
    let database = database(folder);
    let mut query = database
        .prepare("SELECT id FROM requests ORDER BY id")
        .unwrap();
    let rows = query.query_map([], |row| row.get(0)).unwrap();
    rows.collect::<Result<_, _>>().unwrap()
}

#[tokio::test]
async fn a_full_disk_returns_503_database_full_and_no_accepted_job_is_lost() {
    let folder = folder_on_sqlite();
    let mut service = Service::start(&folder).await;
    let mut accepted = Vec::new();
    for _ in 0..10 {
        accepted.push(id(&accept(&service).await));
    }
    // First no space at all, so that even the WAL cannot grow; then half a page of WAL.
    let log_size = fs::metadata(folder.path().join("storm.db-wal")).unwrap();
    for room in [0, log_size.len() + 2000] {
        service.limit_files(room);
        let mut refused = accept(&service).await;
        while refused.status == 202 {
            accepted.push(id(&refused)); // until the file reaches its limit
            refused = accept(&service).await;
        }
        assert_eq!(refused.problem(), "503 database-full");
        assert!(refused.header("retry-after").is_some());
        assert_eq!(accept(&service).await.problem(), "503 database-full");
        assert_eq!(database_is(&service).await, "full");
        assert_eq!(find(&service, &accepted[0]).await.status, 200);

        service.limit_files(rlimit::INFINITY);
        accepted.push(id(&accept(&service).await));
        assert_eq!(database_is(&service).await, "ok");
    }
    let said = service.says("rejects writes").await;
    assert_eq!(said["trouble"], "full");
    service.says("accepts writes again").await;
    assert!(service.is_alive());
    for id in &accepted {
        assert_eq!(find(&service, id).await.status, 200);
    }
    assert!(exited_with(service.stop().await, 0));
    assert_eq!(rows(folder.path()), accepted, "exactly the accepted jobs");
}

#[tokio::test]
async fn an_intermittently_full_disk_under_load_loses_no_accepted_job() {
    let folder = folder_on_sqlite();
    let service = Service::start(&folder).await;
    let mut accepted = Vec::new();
    let mut refused = 0;
    for turn in 0..30 {
        // The limit changes while these requests are in progress.
        let asking = join_all((0..20).map(|_| accept(&service)));
        let changing = async {
            for step in 0..=turn % 7 {
                tokio::task::yield_now().await;
                service.limit_files(if step % 2 == 0 { 0 } else { rlimit::INFINITY });
            }
        };
        let (answers, ()) = tokio::join!(asking, changing);
        for answer in answers {
            if answer.status == 202 {
                accepted.push(id(&answer));
            } else {
                assert_eq!(answer.problem(), "503 database-full");
                refused += 1;
            }
        }
        service.limit_files(rlimit::INFINITY);
        accepted.push(id(&accept(&service).await));
    }
    assert!(refused > 0, "the limit took effect");
    drop(service); // kill -9
    accepted.sort();
    assert_eq!(rows(folder.path()), accepted, "exactly the accepted jobs");
}

#[tokio::test]
async fn later_corruption_returns_503_and_the_api_keeps_running() {
    let folder = folder_on_sqlite();
    let mut service = Service::start(&folder).await;
    let accepted = id(&accept(&service).await);
    damage(folder.path(), "requests");
    let answer = find(&service, &accepted).await;
    assert_eq!(answer.problem(), "503 database-corrupt");
    let detail = answer.json()["detail"].as_str().unwrap().to_owned();
    assert!(
        detail.contains("damaged") && detail.contains("backup"),
        "{detail}"
    );
    assert_eq!(answer.header("retry-after"), None, "a retry would not help");
    assert_eq!(accept(&service).await.problem(), "503 database-corrupt");

    damage(folder.path(), "store");
    assert_eq!(database_is(&service).await, "corrupt");
    assert!(service.is_alive());
    assert!(exited_with(service.stop().await, 0));
}

/// Checkpoints the WAL into the database, then overwrites the first page of a table.
fn damage(folder: &Path, table: &str) {
    let connection = database(folder);
    let page: u32 = connection
        .query_row(
            "SELECT rootpage FROM sqlite_schema WHERE name = ?1",
            [table],
            |row| row.get(0),
        )
        .unwrap();
    let busy: bool = connection
        .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))
        .unwrap();
    assert!(!busy);
    drop(connection);
    let file = fs::File::options()
        .write(true)
        .open(folder.join("storm.db"))
        .unwrap();
    file.write_all_at(&[0xA5; 4096], u64::from(page - 1) * 4096)
        .unwrap();
}

#[tokio::test]
async fn with_its_database_moved_the_api_refuses_jobs_and_fails_its_health_check() {
    let folder = folder_on_sqlite();
    let service = Service::start(&folder).await;
    let kept = id(&accept(&service).await);
    let (path, away) = (
        folder.path().join("storm.db"),
        folder.path().join("away.db"),
    );
    fs::rename(&path, &away).unwrap();
    for _ in 0..3 {
        let refused = accept(&service).await;
        assert_eq!(refused.problem(), "503 database-moved");
        assert!(refused.header("retry-after").is_some());
    }
    assert_eq!(health(service.addr).await.status, 503);
    assert_eq!(database_is(&service).await, "file moved or deleted");
    assert_eq!(find(&service, &kept).await.status, 200);

    fs::rename(&away, &path).unwrap();
    assert_eq!(database_is(&service).await, "ok");
    id(&accept(&service).await);
    service.says("at its path again").await;
    assert_eq!(errors(folder.path()).len(), 1, "logged once");
    assert!(exited_with(service.stop().await, 0));
}

#[tokio::test]
async fn a_file_that_is_not_a_database_stops_startup_and_is_not_modified() {
    let folder = folder_on_sqlite();
    let path = folder.path().join("storm.db");
    fs::write(&path, "somebody's letters").unwrap();
    let status = program(folder.path()).status().unwrap();
    assert!(exited_with(status, 1));
    let errors = errors(folder.path());
    assert_eq!(errors.len(), 1, "{errors:?}");
    let said = errors[0]["error"].as_str().unwrap();
    assert!(
        said.starts_with("DB_URL: /") && said.contains("storm.db: is not an SQLite database"),
        "{said}"
    );
    assert_eq!(fs::read(&path).unwrap(), b"somebody's letters");
    assert_eq!(names(folder.path()), ["api.log", "storm.db"]);
}

#[tokio::test]
async fn a_read_only_database_file_delays_startup_and_is_not_modified() {
    let folder = folder_of_nobody();
    let path = folder.path().join("storm.db");
    Connection::open(&path)
        .unwrap()
        .execute_batch("PRAGMA application_id = 0x53745271; VACUUM")
        .unwrap();
    let may = |mode| fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    may(0o444);
    let before = fs::read(&path).unwrap();
    let waits = as_nobody(folder.path());
    let waits = Service::spawn(waits, folder.path()).await;
    let said = waits.says("can't be opened yet").await;
    assert_eq!(said["trouble"], "read-only");
    let answer = accept(&waits).await;
    assert_eq!(answer.status, 503);
    let kind = answer.json()["type"].clone();
    assert_eq!(kind, "urn:storm:problem:database-unavailable");
    assert_eq!(fs::read(&path).unwrap(), before);
    assert!(
        !names(folder.path())
            .iter()
            .any(|name| name.starts_with("storm.db-"))
    );
    may(0o666);
    waits.says("the database is open").await;
    while accept(&waits).await.status != 202 {}
    assert!(exited_with(waits.stop().await, 0));
}

#[tokio::test]
async fn a_read_only_folder_delays_startup_until_it_is_writable() {
    let folder = folder_of_nobody();
    // One process gets SIGTERM while it waits; the other gets write access back.
    let closed = || fs::set_permissions(folder.path(), Permissions::from_mode(0o555)).unwrap();
    let opened = || fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    let (stopped, waits) = (as_nobody(folder.path()), as_nobody(folder.path()));
    closed();
    let stopped = Service::spawn(stopped, folder.path()).await;
    let said = stopped.says("can't be opened yet").await;
    assert_eq!(said["trouble"], "read-only");
    assert!(exited_with(stopped.stop().await, 0));

    let waits = Service::spawn(waits, folder.path()).await;
    waits.says("can't be opened yet").await;
    opened();
    waits.says("the database is open").await;
    while accept(&waits).await.status != 202 {}
    assert!(exited_with(waits.stop().await, 0));
}

#[tokio::test]
async fn an_unwritable_folder_or_file_names_the_uid_that_needs_it_and_the_command_to_fix_it() {
    let user = if is_root() {
        NOBODY
    } else {
        fs::metadata("/proc/self").unwrap().uid()
    };
    for unwritable in ["", "storm.db"] {
        let folder = folder_of_nobody();
        let database = folder.path().join("storm.db");
        let mut places = folder.path().display().to_string();
        if !unwritable.is_empty() {
            Connection::open(&database)
                .unwrap()
                .execute_batch("VACUUM")
                .unwrap();
            places = format!("{places} {}*", database.display());
        }
        let service = as_nobody(folder.path());
        let place = folder.path().join(unwritable);
        let may = |mode| fs::set_permissions(&place, Permissions::from_mode(mode)).unwrap();
        may(0o555);
        let waits = Service::spawn(service, folder.path()).await;
        let said = waits.says("can't be opened yet").await["error"].to_string();
        let named = format!("{unwritable}: is not writable by uid {user}, which runs this process");
        let command = format!(": chown {user} {places} && chmod u+rwX {places}: Permission denied");
        assert!(said.contains(&named) && said.contains(&command), "{said}");
        assert!(exited_with(waits.stop().await, 0));
        may(0o755);
    }
}

/// A folder that the service's user owns. Root ignores file permissions, so if the tests run as
/// root, the service runs as `nobody`, from a copy of the program that `nobody` can execute.
fn folder_of_nobody() -> TempDir {
    let folder = folder_on_sqlite();
    if is_root() {
        chown(folder.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        // `cp` copies, not this process: a child forked by another test could inherit the file
        // while it is open for writing, and executing it would fail (ETXTBSY).
        let copied = Command::new("cp")
            .arg(env!("CARGO_BIN_EXE_storm-api"))
            .arg(folder.path())
            .status();
        assert!(copied.unwrap().success());
    }
    folder
}

fn as_nobody(folder: &Path) -> Command {
    let plain = program(folder);
    if !is_root() {
        return plain;
    }
    for name in names(folder) {
        chown(folder.join(name), Some(NOBODY), Some(NOBODY)).unwrap();
    }
    let mut command = Command::new(folder.join("storm-api"));
    command.env_clear();
    for (name, value) in plain.get_envs() {
        command.env(name, value.unwrap());
    }
    let log = fs::File::options()
        .append(true)
        .open(folder.join("api.log"));
    command
        .current_dir(folder)
        .stderr(log.unwrap())
        .uid(NOBODY)
        .gid(NOBODY);
    command
}

fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}

/// The log lines of level ERROR.
fn errors(folder: &Path) -> Vec<Value> {
    let mut lines = lines(&folder.join("api.log"));
    lines.retain(|line| line["level"] == "ERROR");
    lines
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn database(folder: &Path) -> Connection {
    Connection::open(folder.join("storm.db")).unwrap()
}
