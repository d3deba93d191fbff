//! Children of this process: what they say is kept, and they don't outlive it.

use std::{
    ffi::OsStr,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use storm_loadgen::chaos::process::{Process, Program};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

const TETHER: &str = env!("CARGO_BIN_EXE_storm-loadgen");

/// Long enough for anything that ends at all.
const PATIENCE: Duration = Duration::from_mins(1);

/// Starts a shell that says its process id and then does `script`.
fn start(folder: &TempDir, script: &str) -> Process {
    let script = format!("echo pid $$; {script}");
    Process::start(&Program {
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
        assert!(Instant::now() < deadline, "it never happened");
        sleep(Duration::from_millis(5)).await;
    }
}

fn log(folder: &TempDir) -> String {
    std::fs::read_to_string(folder.path().join("log")).unwrap_or_default()
}

/// The process id that the child says.
async fn pid(folder: &TempDir) -> String {
    let said = || {
        log(folder)
            .lines()
            .find_map(|line| Some(line.strip_prefix("pid ")?.to_owned()))
    };
    until(said).await
}

/// R, S, T, ... of a process; none when it is gone. A zombie that nobody has waited for is dead, too.
fn state(pid: &str) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let state = stat.rsplit(") ").next()?.chars().next()?;
    (state != 'Z').then_some(state)
}

async fn is_gone(pid: &str) {
    until(|| state(pid).is_none().then_some(())).await;
}

#[tokio::test]
async fn a_child_is_gone_when_it_is_dropped() {
    let folder = TempDir::new().unwrap();
    let child = start(&folder, "exec sleep 600");
    let pid = pid(&folder).await;
    assert!(state(&pid).is_some());
    drop(child);
    assert_eq!(state(&pid), None);
}

/// The tether is this program itself: here with a shell for its parent, which is killed.
#[tokio::test]
async fn a_child_is_gone_when_its_parent_is_killed() {
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
fn nothing_is_started_for_a_parent_that_is_gone() {
    let output = Command::new(TETHER)
        .args(["tether", "1", "--", "/bin/sh", "-c", "echo started"])
        .stdout(Stdio::piped())
        .output()
        .unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
}

#[tokio::test]
async fn what_a_child_says_is_kept_and_its_environment_is_what_was_given() {
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
async fn a_child_is_frozen_thawed_and_told_to_end() {
    let folder = TempDir::new().unwrap();
    // What is told before the trap is set kills it.
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
    assert!(child.freeze().is_err(), "there is nobody to be frozen");
}

#[tokio::test]
async fn a_limit_on_files_holds_until_it_is_lifted_and_does_not_cut_the_log() {
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
