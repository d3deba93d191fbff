//! A process that may open few files.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use tempfile::TempDir;
use tokio::time::timeout;

use crate::{
    PATIENCE,
    client::{Client, bare, post},
    service::{Service, exited_with, program},
};

const JOB: &str = r#"{"records": 10, "report_name": "Q1_Finance"}"#;

/// The program with this limit of open files, `ulimit -Hn`.
fn limited(descriptors: u32, folder: &Path) -> Command {
    let plain = program(folder);
    let mut command = Command::new("/bin/sh");
    let script = format!("ulimit -n {descriptors} && exec \"$0\"");
    command.args(["-c", &script]).arg(plain.get_program());
    command.env_clear().current_dir(folder);
    for (name, value) in plain.get_envs() {
        command.env(name, value.unwrap());
    }
    let log = std::fs::File::options()
        .create(true)
        .append(true)
        .open(folder.join("api.log"));
    command.stderr(log.unwrap());
    command
}

#[tokio::test]
async fn with_few_descriptors_a_client_past_the_bound_gets_503_and_others_are_served_later() {
    let folder = TempDir::new().unwrap();
    let mut command = limited(64, folder.path());
    command.env("HTTP_TIMEOUT", "10m"); // the idle clients stay
    let service = Service::spawn(command, folder.path()).await;
    let warning = service.says("the limit of open files").await;
    assert_eq!(warning["limit"], 64);
    assert!(warning["needed"].as_u64().unwrap() > 10_000, "{warning}");
    assert!(warning["http_connections"].as_u64().unwrap() < 64);
    service.is_open().await;

    let mut idle = Vec::new();
    for _ in 0..100 {
        idle.push(Client::connect(service.addr).await);
    }
    for _ in 0..3 {
        let refused = service.ask(bare("GET", "/healthz")).await;
        assert_eq!(refused.problem(), "503 too-many-connections");
    }
    assert!(service.log_lines() < 10, "{}", service.log_lines());

    drop(idle);
    let served = async { while service.ask(post("/async", JOB)).await.status != 202 {} };
    timeout(PATIENCE, served).await.expect("it serves again");
    assert!(exited_with(service.stop().await, 0));
}

#[tokio::test]
async fn too_few_descriptors_to_work_at_all_stop_the_start_with_one_line() {
    let folder = TempDir::new().unwrap();
    let output = limited(20, folder.path())
        .env("LOG", "off")
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    assert!(exited_with(output.status, 1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains("is 20, and at least "), "{said}");
    assert!(
        said.contains("ulimit -n") && said.contains("LimitNOFILE="),
        "{said}"
    );
}

#[tokio::test]
async fn descriptors_that_run_out_later_are_logged_once_and_clients_are_served_afterwards() {
    let folder = TempDir::new().unwrap();
    let service = Service::start(&folder).await;
    let before = service.limit_descriptors(1);
    let mut waiting = Client::connect(service.addr).await;
    waiting.send(post("/async", JOB)).await;
    service.says("connections cannot be accepted").await;
    // Every failure is followed by another one 50 ms later.
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    let lines = service.log_lines();
    service.limit_descriptors(before);
    assert_eq!(waiting.answer().await.status, 202, "it has waited");
    assert!(lines < 10, "{lines} lines");
    assert!(exited_with(service.stop().await, 0));
}

#[tokio::test]
async fn with_few_descriptors_clients_in_the_kernels_queue_at_the_close_get_their_answer() {
    let folder = TempDir::new().unwrap();
    let service = Service::spawn(limited(36, folder.path()), folder.path()).await;
    service.is_open().await;
    // Frozen, so that all of them are in the queue when the close begins.
    service.signal("STOP");
    let mut queued = Vec::new();
    for _ in 0..100 {
        let mut client = Client::connect(service.addr).await;
        client.send(bare("GET", "/healthz")).await;
        queued.push(client);
    }
    service.signal("INT");
    service.signal("CONT");
    let mut answers = Vec::new();
    for client in &mut queued {
        answers.push(client.answer().await.status);
    }
    assert!(
        answers.iter().all(|status| matches!(status, 200 | 503)),
        "{answers:?}"
    );
    assert!(answers.contains(&200), "{answers:?}");
    assert!(exited_with(service.ended().await, 0));
}
