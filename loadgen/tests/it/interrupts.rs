//! Signals: what an interrupted run says of what it did not await.

use std::{
    fs,
    process::{Child, Command, Output},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{
    binary::{TempFile, program},
    fake_api::{Act, FakeApi},
};

pub(crate) fn signal(child: &Child, name: &str) {
    let pid = child.id().to_string();
    let sent = Command::new("kill").args([name, &pid]).status().unwrap();
    assert!(sent.success());
}

pub(crate) async fn end(child: Child) -> Output {
    tokio::task::spawn_blocking(|| child.wait_with_output().unwrap())
        .await
        .unwrap()
}

/// Asserts status 130, and a text about an interrupted run that calls nothing lost.
fn assert_interrupted(output: Output) -> String {
    let text = String::from_utf8(output.stdout).unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{text}{error}");
    assert!(text.starts_with("interrupted: "), "{text}");
    assert!(!text.contains("lost"), "{text}");
    // A slow machine may be told what the run does.
    let is_progress = |line: &str| ["storm ", "demo "].iter().any(|it| line.starts_with(it));
    assert!(error.lines().all(is_progress), "{error}");
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_storm_says_not_awaited_and_never_lost() {
    let api = FakeApi::start(|name| match name {
        "Storm_Test_0001" => Act::Right,
        _ => Act::NeverCallsBack,
    })
    .await;
    let (json, csv) = (TempFile::new("storm.json"), TempFile::new("storm.csv"));
    let line = format!(
        "storm --mode async --api {} --listen localhost:0 --rate 50 --duration 1h --records 1 \
         --json {} --csv {}",
        api.url(),
        json.path(),
        csv.path()
    );
    let child = program(&line).spawn().unwrap();
    api.has_received(6).await;
    signal(&child, "-INT");
    let text = assert_interrupted(end(child).await);
    assert!(
        text.contains(" not awaited; ideal") && text.contains("p50"),
        "{text}"
    );

    let json: Value = serde_json::from_str(&json.read()).unwrap();
    assert_eq!(
        (&json["passed"], &json["interrupted"]),
        (&false.into(), &true.into())
    );
    assert_eq!(json["jobs"]["lost"], 0);
    assert_eq!(json["jobs"]["not_awaited"], json["jobs"]["accepted"]);
    let csv = csv.read();
    let mut rows = csv.lines().map(|line| line.split(',').collect::<Vec<_>>());
    let (names, values) = (rows.next().unwrap(), rows.next().unwrap());
    let value = |name| values[names.iter().position(|it| *it == name).unwrap()];
    assert_eq!((value("lost"), value("interrupted")), ("0", "true"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_demo_prints_its_summary_and_never_says_lost() {
    // SIGTERM is handled as Ctrl-C is, and the demo as much while it sends as while it waits.
    for (act, requests, name) in [
        (Act::Hangs, 4, "-INT"),
        (Act::NeverCallsBack, 8, "-INT"),
        (Act::NeverCallsBack, 8, "-TERM"),
    ] {
        let api = FakeApi::start(move |_| act).await;
        let json = TempFile::new("demo.json");
        let line = format!(
            "demo --api {} --listen localhost:0 --requests 4 --records 1 --json {}",
            api.url(),
            json.path()
        );
        let child = program(&line).spawn().unwrap();
        api.has_received(requests).await;
        signal(&child, name);
        let text = assert_interrupted(end(child).await);
        assert!(
            text.contains("not awaited") && text.contains("p95"),
            "{text}"
        );
        let json: Value = serde_json::from_str(&json.read()).unwrap();
        assert_eq!(
            (&json["interrupted"], &json["jobs"]["lost"]),
            (&true.into(), &0.into())
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interruption_before_the_first_request_leaves_the_files_as_they_were() {
    let api = FakeApi::start(|_| Act::Hangs).await; // also for the test job
    let json = TempFile::new("before.json");
    fs::write(json.path(), "{\"command\": \"storm\"}").unwrap();
    let line = format!(
        "storm --mode async --api {} --listen localhost:0 --rate 50 --duration 1h --records 1 \
         --json {}",
        api.url(),
        json.path()
    );
    let child = program(&line).spawn().unwrap();
    api.has_received(1).await;
    signal(&child, "-INT");
    assert_interrupted(end(child).await);
    assert_eq!(json.read(), "{\"command\": \"storm\"}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_ctrl_c_ends_at_once_even_if_the_output_is_stuck() {
    use std::io::{ErrorKind, Write as _, pipe};

    // A full pipe, which nobody reads: printing the summary would take for ever.
    let (_reader, mut writer) = pipe().unwrap();
    rustix::io::ioctl_fionbio(&writer, true).unwrap();
    while writer.write(&[b'x'; 4096]).map_err(|error| error.kind()) != Err(ErrorKind::WouldBlock) {}
    rustix::io::ioctl_fionbio(&writer, false).unwrap();

    let api = FakeApi::start(|_| Act::Hangs).await;
    let mut command = program(&format!("demo --api {} --listen localhost:0", api.url()));
    let mut child = command.stdout(writer).spawn().unwrap();
    api.has_received(1).await;
    let status = loop {
        // Two signals at once may arrive as one, so there may be more than two.
        signal(&child, "-INT");
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(status.code(), Some(130));
}

#[test]
fn receive_prints_its_counts_at_the_end() {
    use std::io::{BufRead as _, BufReader};

    for name in ["-INT", "-TERM"] {
        let mut child = program("receive --listen 127.0.0.1:0").spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut String::new()).unwrap();
        signal(&child, name);
        let rest = std::io::read_to_string(stdout).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0));
        assert!(rest.contains("received: 0 in total, 0 unique"), "{rest}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn an_interrupted_chaos_run_ends_with_130_and_kills_its_processes() {
    use std::{
        io::{BufRead as _, BufReader},
        os::unix::fs::PermissionsExt as _,
    };

    // A Redis that never answers: the run waits for it.
    let folder = TempDir::new().unwrap();
    let (redis, pid) = (folder.path().join("redis"), folder.path().join("pid"));
    let script = format!("#!/bin/sh\necho $$ >{}\nexec sleep 600\n", pid.display());
    fs::write(&redis, script).unwrap();
    fs::set_permissions(&redis, fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = program("chaos --bin nothing --seed 5");
    command.arg("--dir").arg(folder.path().join("run"));
    command.arg("--redis-server").arg(&redis);
    let mut child = command.spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert_eq!(line, "seed 5\n");
    let redis = loop {
        match fs::read_to_string(&pid) {
            Ok(pid) if pid.ends_with('\n') => break pid,
            _ => std::thread::yield_now(),
        }
    };
    signal(&child, "-INT");
    let rest = std::io::read_to_string(stdout).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{rest}");
    assert_eq!(rest, "interrupted: before the first request\n");
    // Killed with its parent: it is gone, or a zombie that nobody has collected yet.
    let stat = fs::read_to_string(format!("/proc/{}/stat", redis.trim()));
    assert!(stat.is_err() || stat.is_ok_and(|stat| stat.contains(") Z ")));
}
