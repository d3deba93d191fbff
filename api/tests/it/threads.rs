//! A process that may start no more threads.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::{
        fs::{MetadataExt as _, chown},
        process::CommandExt as _,
    },
    path::Path,
    process::{Command, ExitStatus, Stdio},
    sync::Arc,
};

use tempfile::TempDir;
use tokio::{task::spawn_blocking, time::timeout};

use crate::{
    PATIENCE,
    client::post,
    service::{Service, database, exited_with, program},
};

const JOB: &str = r#"{"records": 10, "report_name": "Q1_Finance"}"#;

/// A folder, and the user that it belongs to. The limit of threads does not hold for root, so root
/// runs the program as this user, which needs no entry in the user database. It counts the threads
/// of all processes of a user: each test has a user of its own.
struct Home {
    folder: TempDir,
    user: u32,
}

impl Home {
    fn of(user: u32) -> Self {
        let folder = TempDir::new().unwrap();
        if is_root() {
            chown(folder.path(), Some(user), Some(user)).unwrap();
        }
        Self { folder, user }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }
}

fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}

/// A command that runs as a user for whom limits hold.
fn unprivileged(mut command: Command, home: &Home) -> Command {
    if is_root() {
        command.uid(home.user).gid(home.user);
    }
    command
}

/// Whether that user may run the program, and the limit of threads holds for it. In a user
/// namespace any user can be root outside, for whom it does not hold, as in Nix's sandbox.
fn limits_hold(home: &Home) -> bool {
    let mut version = Command::new(env!("CARGO_BIN_EXE_storm-api"));
    version.arg("--version");
    if output(unprivileged(version, home)).is_none() {
        return false;
    }
    // timeout(1) forks.
    let mut fork = Command::new("bash");
    fork.args(["-c", "ulimit -u 1 && exec timeout 60 true"]);
    let forked = unprivileged(fork, home).output().unwrap();
    if forked.status.success() {
        println!("skipped: `ulimit -u` does not hold for the user of this test");
    }
    !forked.status.success()
}

/// The output of a command that should succeed as that user. If not, prints why.
fn output(mut command: Command) -> Option<String> {
    match command.output() {
        Ok(output) if output.status.success() => String::from_utf8(output.stdout).ok(),
        tried => {
            println!("skipped: {command:?}: {tried:?}");
            None
        }
    }
}

/// Limits the threads of a process with prlimit(1), as its user: the system call needs a privilege
/// for processes of others, which root in a container lacks. Returns the limit before.
fn limit_threads(service: &Service, home: &Home, limit: &str) -> Option<String> {
    let prlimit = |arguments: &[&str]| {
        let mut command = Command::new("prlimit");
        let pid = service.pid().to_string();
        command.args(["--pid", &pid]).args(arguments);
        output(unprivileged(command, home))
    };
    let before = prlimit(&["--nproc", "--output=SOFT", "--noheadings", "--raw"])?;
    prlimit(&[&format!("--nproc={limit}:")])?;
    Some(before.trim().to_owned())
}

#[tokio::test]
async fn sync_without_a_thread_says_so_to_its_clients_and_once_in_the_log() {
    let home = Home::of(64_997);
    if !limits_hold(&home) {
        return;
    }
    let command = unprivileged(program(home.path()), &home);
    let service = Service::spawn(command, home.path()).await;
    service.is_open().await;
    // The threads of now stay, and are more than one.
    let Some(before) = limit_threads(&service, &home, "1") else {
        return;
    };
    let lines = service.log_lines();
    for _ in 0..20 {
        let answer = service.ask(post("/sync", JOB)).await;
        assert_eq!(answer.problem(), "503 saturated");
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains("no thread"), "{detail}");
        assert!(!detail.contains("waiting"), "{detail}");
        assert_eq!(service.ask(post("/async", JOB)).await.status, 202);
    }
    let warning = service.says("no thread can be started").await;
    assert_eq!(warning["level"], "WARN");
    let message = warning["message"].as_str().unwrap();
    assert!(
        message.contains("ulimit -u") && message.contains("TasksMax="),
        "{message}"
    );
    assert_eq!(service.log_lines(), lines + 1);
    let database = database(home.path()).await;
    let failures = "requests WHERE failure_reason = 'internal_error'";
    let recorded = async {
        // SQLite's answer is there at once: the API, on the same thread, needs its turn.
        while database.count(failures).await != 20 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, recorded).await.expect("the records");

    limit_threads(&service, &home, &before).unwrap();
    assert_eq!(service.ask(post("/sync", JOB)).await.status, 200);
    assert!(exited_with(service.stop().await, 0));
}

/// How a start with `ulimit -u` at `limit` went: the lines on standard error up to "starting", or
/// all of them and the exit status.
fn start_with(limit: u32, home: &Home) -> (Vec<String>, Option<ExitStatus>) {
    let plain = program(home.path());
    let mut command = Command::new("bash");
    let script = format!("ulimit -u {limit} && exec \"$0\"");
    command.args(["-c", &script]).arg(plain.get_program());
    command.env_clear().current_dir(home.path());
    for (name, value) in plain.get_envs() {
        command.env(name, value.unwrap());
    }
    let mut command = unprivileged(command, home);
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut said = Vec::new();
    for line in BufReader::new(child.stderr.take().unwrap()).lines() {
        said.push(line.unwrap());
        if said.last().unwrap().contains("\"starting\"") {
            child.kill().unwrap();
            child.wait().unwrap();
            return (said, None);
        }
    }
    (said, Some(child.wait().unwrap()))
}

#[tokio::test]
async fn a_start_without_threads_ends_with_one_line_that_says_what_to_raise() {
    let home = Arc::new(Home::of(64_998));
    if !limits_hold(&home) {
        return;
    }
    for limit in 1..=20 {
        let started = spawn_blocking({
            let home = Arc::clone(&home);
            move || start_with(limit, &home)
        });
        let (said, ended) = timeout(PATIENCE, started).await.expect("an end").unwrap();
        let Some(status) = ended else {
            assert!(limit > 1, "one thread is not enough: {said:?}");
            return;
        };
        assert!(exited_with(status, 1), "{limit}: {said:?}");
        assert_eq!(said.len(), 1, "{limit}: {said:?}");
        for word in ["the process cannot start: ", "ulimit -u", "TasksMax="] {
            assert!(said[0].contains(word), "{limit}: {said:?}");
        }
    }
}

#[test]
fn a_number_of_runtime_threads_that_is_none_is_refused_in_one_line_that_names_it() {
    let folder = TempDir::new().unwrap();
    for value in ["0", "x", "", "-1"] {
        let mut command = program(folder.path());
        command.env("TOKIO_WORKER_THREADS", value);
        let output = command.stderr(Stdio::piped()).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(exited_with(output.status, 2), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.starts_with("TOKIO_WORKER_THREADS="), "{said}");
    }
}
