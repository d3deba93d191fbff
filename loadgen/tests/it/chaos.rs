//! The chaos commands without a stack. `make chaos` tests a whole run.

use std::{
    fs,
    process::{Command, Output},
};

use tempfile::TempDir;

fn program(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_storm-loadgen"));
    command.args(arguments).output().unwrap()
}

#[test]
fn a_run_refuses_a_folder_that_is_not_empty() {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("mine"), "").unwrap();
    let dir = folder.path().to_str().unwrap();
    let output = program(&["chaos", "--bin", "a", "--redis-server", "b", "--dir", dir]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(error.contains("is not empty"), "{error}");
    assert_eq!(fs::read_dir(dir).unwrap().count(), 1);
}

#[test]
fn check_gives_a_verdict_on_a_stored_history() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("history.jsonl");
    let limits = r#"{"record":"limits","attempts":4,"max_claims":8,"faults":["kill_api"],"log":1,
        "redis_growth":1,"resident_growth":1}"#;
    fs::write(&file, limits.replace('\n', "") + "\n").unwrap();
    let output = program(&["check", file.to_str().unwrap()]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.contains("`kill_api` was planned and never injected"),
        "{text}"
    );
}

#[test]
fn a_file_that_is_not_a_history_is_an_error_that_names_the_problem() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("history.jsonl");
    fs::write(&file, "{}\n").unwrap();
    for (path, problem) in [
        (&file, "line 1"),
        (&folder.path().join("none"), "can't read"),
    ] {
        let output = program(&["check", path.to_str().unwrap()]);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(
            error.contains(problem) && error.lines().count() == 1,
            "{error}"
        );
    }
}
