//! `storm-api healthcheck`, as a container engine runs it.

use std::{
    net::TcpListener,
    process::{Output, Stdio},
    time::Duration,
};

use tempfile::TempDir;
use tokio::{
    task::spawn_blocking,
    time::{sleep, timeout},
};

use crate::{
    PATIENCE,
    client::{Client, LATE, bare, health, post},
    program_database::folder_on_sqlite,
    server::NO_REDIS,
    service::{Service, database, exited_with, program},
};

/// Runs `healthcheck` against `addr`.
async fn healthcheck(addr: &str) -> Output {
    let folder = TempDir::new().unwrap();
    let mut command = program(folder.path());
    command
        .arg("healthcheck")
        .env("API_ADDR", addr)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap()
}

/// Exit status and output of `healthcheck`. Retries a check that timed out on a busy machine.
async fn says(addr: &str) -> (Option<i32>, String) {
    loop {
        let output = healthcheck(addr).await;
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.lines().count() <= 1, "{said}");
        assert!(output.stdout.is_empty());
        if !said.contains(LATE) {
            return (output.status.code(), said.trim_end().to_owned());
        }
    }
}

/// The write of a health check can be a second old.
async fn until_it_says(addr: &str, expected: (Option<i32>, String)) {
    let waiting = async {
        while says(addr).await != expected {
            sleep(Duration::from_millis(100)).await;
        }
    };
    let waited = timeout(PATIENCE, waiting).await;
    assert!(waited.is_ok(), "it never says {expected:?}");
}

#[tokio::test]
async fn a_healthy_service_exits_0_also_at_an_unspecified_address() {
    let folder = TempDir::new().unwrap();
    let service = Service::start(&folder).await;
    let well = (Some(0), String::new());
    assert_eq!(says(&service.addr.to_string()).await, well);
    let everywhere = format!("0.0.0.0:{}", service.addr.port());
    assert_eq!(says(&everywhere).await, well);
}

#[tokio::test]
async fn an_unreachable_redis_alone_exits_0() {
    let folder = TempDir::new().unwrap();
    let mut command = program(folder.path());
    command.envs([NO_REDIS]);
    let service = Service::spawn(command, folder.path()).await;
    service.is_open().await;
    let health = health(service.addr).await;
    assert_eq!(health.status, 503);
    assert_eq!(health.json()["redis"], "unreachable");
    assert_eq!(says(&service.addr.to_string()).await.0, Some(0));
}

#[tokio::test]
async fn an_unusable_database_exits_1_and_is_reported() {
    let folder = folder_on_sqlite(); // a full disk is that of this host
    let service = Service::start(&folder).await;
    let addr = service.addr.to_string();
    service.limit_files(0);
    let line = format!(r#"API_ADDR={addr}: database: "full""#);
    until_it_says(&addr, (Some(1), line)).await;
    service.limit_files(rlimit::INFINITY);
    until_it_says(&addr, (Some(0), String::new())).await;
}

#[tokio::test]
async fn a_service_that_waits_for_its_database_exits_1_and_is_named_as_not_ready() {
    let folder = TempDir::new().unwrap();
    let lock = database(folder.path()).await;
    lock.lock_opening().await;
    let service = Service::spawn(program(folder.path()), folder.path()).await;
    let addr = service.addr.to_string();
    let (status, said) = says(&addr).await;
    assert_eq!(status, Some(1));
    let expected =
        format!("API_ADDR={addr}: not ready: database-unavailable: \"The database is not");
    assert!(said.starts_with(&expected), "{said}");
    lock.unlock().await;
    service.is_open().await;
    assert_eq!(says(&addr).await.0, Some(0));
}

#[tokio::test]
async fn a_refused_connection_exits_1() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    drop(listener);
    let (status, said) = says(&addr).await;
    assert_eq!(status, Some(1));
    assert!(said.contains("no answer: "), "{said}");
}

#[tokio::test]
async fn an_unresponsive_service_exits_1() {
    // The kernel completes the handshake; nothing reads from the connection.
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let (status, said) = says(&listener.local_addr().unwrap().to_string()).await;
    assert_eq!(status, Some(1));
    assert!(said.ends_with("no answer within 3 s"), "{said}");
}

#[tokio::test]
async fn a_service_at_its_connection_limit_exits_0() {
    let folder = TempDir::new().unwrap();
    let mut command = program(folder.path());
    command.envs([("HTTP_CONNECTIONS", "1"), ("HTTP_TIMEOUT", "10m")]);
    let service = Service::spawn(command, folder.path()).await;
    // Retries until the database is open and the previous connection has freed its permit.
    let only = loop {
        let mut only = Client::connect(service.addr).await;
        only.send(post("/async", r#"{"records": 1, "report_name": "a"}"#))
            .await;
        let answer = only.answer().await;
        if answer.status == 202 {
            break only;
        }
        assert_eq!(answer.status, 503);
    };
    let answer = service.ask(bare("GET", "/healthz")).await;
    assert_eq!(answer.problem(), "503 too-many-connections");
    assert_eq!(says(&service.addr.to_string()).await.0, Some(0));
    drop(only);
    assert!(exited_with(service.stop().await, 0));
}

#[tokio::test]
async fn invalid_settings_and_arguments_exit_2() {
    let (status, said) = says("127.0.0.1:0").await;
    assert_eq!(status, Some(2));
    assert!(said.starts_with("API_ADDR=127.0.0.1:0: "), "{said}");
    let (status, said) = says("nowhere").await;
    assert_eq!(status, Some(2));
    assert!(said.starts_with("API_ADDR=nowhere: expected"), "{said}");
    let folder = TempDir::new().unwrap();
    let status = program(folder.path()).arg("healthchek").status().unwrap();
    assert!(exited_with(status, 2));
}
