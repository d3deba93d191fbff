//! The program itself: its exit statuses and what it says.

use std::{
    io::{BufRead as _, BufReader},
    net::TcpListener,
    process::{Command, Output, Stdio},
};

use tempfile::TempDir;

use crate::{
    client::{Client, bare},
    server::NO_REDIS,
};

fn program(folder: &TempDir) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_storm-api"));
    command
        .env_clear()
        .envs([NO_REDIS, ("API_ADDR", "127.0.0.1:0")]);
    command.current_dir(folder.path());
    command
}

fn standard_error(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn a_bad_setting_is_one_line_and_exit_status_2() {
    let folder = TempDir::new().unwrap();
    let output = program(&folder)
        .env("SYNC_THREADS", "none")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = standard_error(&output);
    assert!(
        said.lines().count() == 1 && said.contains("SYNC_THREADS=none"),
        "{said}"
    );
}

#[test]
fn a_busy_address_is_named_with_its_setting_and_exit_status_1() {
    let folder = TempDir::new().unwrap();
    let busy = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let addr = busy.local_addr().unwrap().to_string();
    let output = program(&folder).env("API_ADDR", &addr).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = standard_error(&output);
    assert!(said.contains(&format!("API_ADDR={addr}")), "{said}");
}

#[tokio::test]
async fn it_says_where_it_listens_and_what_it_uses_and_ends_in_order_at_sigterm() {
    let folder = TempDir::new().unwrap();
    let mut child = program(&folder)
        .env("QUEUE_NAME", "my_queue")
        .env("SYNC_TREADS", "4")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap())
        .lines()
        .map(Result::unwrap);
    let warning = lines.next().unwrap();
    assert!(warning.contains("SYNC_TREADS"), "{warning}");
    let started = lines.find(|line| line.contains("starting")).unwrap();
    let started: serde_json::Value = serde_json::from_str(&started).unwrap();
    let database = std::path::Path::new(started["database"].as_str().unwrap());
    assert!(database.is_absolute() && database.ends_with("data/storm.db"));
    assert_eq!(started["queue"], "my_queue");

    let addr = started["addr"].as_str().unwrap().parse().unwrap();
    let mut client = Client::connect(addr).await;
    client.send(bare("GET", "/nothing")).await;
    assert_eq!(client.answer().await.status, 404);
    let told = Command::new("kill")
        .args(["-TERM", &child.id().to_string()])
        .status();
    assert!(told.unwrap().success());
    let rest: Vec<_> = lines.collect();
    assert!(child.wait().unwrap().success(), "{rest:?}");
}
