//! Child processes: their output is logged, and they never outlive this process.

use std::{
    ffi::OsStr,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use storm_loadgen::chaos::process::{Process, ProcessSpec};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

const TETHER: &str = env!("CARGO_BIN_EXE_storm-loadgen");

/// The deadline of every wait, long enough for a slow machine.
const PATIENCE: Duration = Duration::from_mins(1);

/// Starts a shell that prints its process id and then runs `script`.
fn start(folder: &TempDir, script: &str) -> Process {
    let script = format!("echo pid $$; {script}");
    Process::start(&ProcessSpec {
        tether: Path::new(TETHER),
        program: Path::new("/bin/sh"),
        arguments: &["-c", &script].map(OsStr::new),
        environment: &[("WORD", "heard".to_owned())],
        log: &folder.path().join("log"),
    })
    .unwrap()
}

async fn until<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "timed out");
        sleep(Duration::from_millis(5)).await;
    }
}

fn log(folder: &TempDir) -> String {
    std::fs::read_to_string(folder.path().join("log")).unwrap_or_default()
}

/// The process id that the child prints.
async fn pid(folder: &TempDir) -> String {
    let printed = || {
        log(folder)
            .lines()
            .find_map(|line| Some(line.strip_prefix("pid ")?.to_owned()))
    };
    until(printed).await
}

/// The state of a process (R, S, T, ...) from `/proc`; none if it has ended. A zombie has ended.
fn state(pid: &str) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let state = stat.rsplit(") ").next()?.chars().next()?;
    (state != 'Z').then_some(state)
}

async fn is_gone(pid: &str) {
    until(|| state(pid).is_none().then_some(())).await;
}

#[tokio::test]
async fn a_child_is_killed_when_it_is_dropped() {
    let folder = TempDir::new().unwrap();
    let child = start(&folder, "exec sleep 600");
    let pid = pid(&folder).await;
    assert!(state(&pid).is_some());
    drop(child);
    assert_eq!(state(&pid), None);
}

/// `storm-loadgen tether` is started by a shell, and the shell is killed.
#[tokio::test]
async fn a_child_is_killed_when_its_parent_is_killed() {
    let folder = TempDir::new().unwrap();
    let log = folder.path().join("log");
    let script = format!(
        "{TETHER} tether $$ -- /bin/sh -c 'echo pid $$; exec sleep 600' >{}; true",
        log.display()
    );
    let mut parent = Command::new("/bin/sh")
        .args(["-c", &script])
        .spawn()
        .unwrap();
    let pid = pid(&folder).await;
    assert!(state(&pid).is_some());
    parent.kill().unwrap();
    parent.wait().unwrap();
    is_gone(&pid).await;
}

#[test]
fn nothing_is_started_if_the_parent_has_ended() {
    let output = Command::new(TETHER)
        .args(["tether", "1", "--", "/bin/sh", "-c", "echo started"])
        .stdout(Stdio::piped())
        .output()
        .unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
}

#[tokio::test]
async fn the_output_of_a_child_is_logged_and_its_environment_is_only_the_given_one() {
    let folder = TempDir::new().unwrap();
    for _ in 0..2 {
        let mut child = start(
            &folder,
            "echo \"$WORD ${HOME-none}\"; echo error >&2; exit 7",
        );
        let ended = child.end_by(Instant::now() + PATIENCE).await.unwrap();
        assert_eq!(ended.and_then(|status| status.code()), Some(7));
    }
    let twice = |word| log(&folder).matches(word).count() == 2;
    until(|| (twice("heard none\n") && twice("error\n")).then_some(())).await;
}

#[tokio::test]
async fn a_child_can_be_frozen_thawed_and_terminated() {
    let folder = TempDir::new().unwrap();
    // A SIGTERM before the trap is set would kill the shell.
    let script = "trap 'exit 3' TERM; echo trapped; while :; do sleep 0.01; done";
    let mut child = start(&folder, script);
    let pid = pid(&folder).await;
    until(|| log(&folder).contains("trapped").then_some(())).await;
    child.freeze().unwrap();
    until(|| (state(&pid) == Some('T')).then_some(())).await;
    child.thaw().unwrap();
    child.terminate().unwrap();
    let ended = child.end_by(Instant::now() + PATIENCE).await.unwrap();
    assert_eq!(ended.and_then(|status| status.code()), Some(3));
    assert!(child.freeze().is_err(), "an ended child can't be frozen");
}

#[tokio::test]
async fn a_file_size_limit_holds_until_it_is_lifted_and_does_not_truncate_the_log() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("file");
    let script = format!(
        "trap '' XFSZ; while :; do echo 0123456789 >{} && echo written || echo full; sleep 0.01; done",
        file.display()
    );
    let mut child = start(&folder, &script);
    until(|| log(&folder).contains("written").then_some(())).await;
    child.limit_files(Some(4)).unwrap();
    until(|| log(&folder).contains("full").then_some(())).await;
    child.limit_files(None).unwrap();
    let since = log(&folder).len();
    until(|| log(&folder)[since..].contains("written").then_some(())).await;
    assert!(child.resident() > 0);
}
