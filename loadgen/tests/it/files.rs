//! `--json`, `--csv`, `--series` and `--html`: tried before the run, and never at the cost of
//! another file.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
    process::{Command, Output},
};

use tempfile::TempDir;

use crate::{
    binary::{output, program},
    fake_api::{Act, FakeApi},
};

fn storm(api: &FakeApi, more: &[&str]) -> Command {
    let mut command = program(&format!(
        "storm --mode sync --api {} --rate 100 --duration 20ms --records 1",
        api.url()
    ));
    command.args(more);
    command
}

async fn ok(command: Command) -> Output {
    let output = output(command).await;
    let error = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(0), "{error}");
    output
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let name = |entry: Result<fs::DirEntry, _>| entry.unwrap().file_name().into_string().unwrap();
    let mut names: Vec<_> = entries.map(name).collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_file_that_can_not_be_written_is_refused_before_the_first_request() {
    let api = FakeApi::start(|_| panic!("no request may be sent")).await;
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    fs::create_dir(path("folder")).unwrap();
    fs::write(path("notes"), "mine\n").unwrap();
    fs::write(path("cut.csv"), "mode,rate").unwrap();
    symlink(path("nowhere"), path("dangling")).unwrap();
    let before = names(folder.path());
    for (name, problem) in [
        ("folder", "it is a folder"),
        ("missing/result", "missing can't be used"),
        ("notes/result", "Not a directory"),
        ("notes", "the file exists"),
        ("cut.csv", "the file exists"),
        ("dangling", "a symbolic link to a file that does not exist"),
        #[cfg(target_os = "linux")]
        ("/dev/full", "No space left on device"),
        #[cfg(target_os = "linux")]
        ("/proc/result", "no temporary file can be created in /proc"),
    ] {
        for option in ["--json", "--csv", "--series", "--html"] {
            let output = output(storm(&api, &[option, &path(name)])).await;
            let error = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(1), "{option} {name}: {error}");
            let named = error.contains(&format!("{option} {}", path(name)));
            assert!(named && error.contains(problem), "{option} {name}: {error}");
            assert_eq!(error.lines().count(), 1, "{error}");
            assert!(output.stdout.is_empty());
        }
    }
    assert_eq!(names(folder.path()), before, "nothing may be left behind");
    assert_eq!(fs::read_to_string(path("notes")).unwrap(), "mine\n");
    assert_eq!(fs::read_to_string(path("cut.csv")).unwrap(), "mode,rate");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_file_for_two_results_is_refused() {
    let api = FakeApi::start(|_| panic!("no request may be sent")).await;
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("result");
    let (path, again) = (path.to_str().unwrap(), folder.path().join("./result"));
    for [one, other] in [
        ["--json", "--csv"],
        ["--json", "--series"],
        ["--json", "--html"],
        ["--csv", "--series"],
        ["--csv", "--html"],
        ["--series", "--html"],
    ] {
        let command = storm(&api, &[one, path, other, again.to_str().unwrap()]);
        let output = output(command).await;
        let error = String::from_utf8(output.stderr).unwrap();
        let same = format!("{one} and {other} name the same file");
        assert!(error.contains(&same), "{error}");
    }
    assert!(names(folder.path()).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_earlier_result_is_replaced_as_a_whole_and_only_by_a_run() {
    let folder = TempDir::new().unwrap();
    let (file, link) = (folder.path().join("file"), folder.path().join("link"));
    symlink(&file, &link).unwrap();
    fs::write(&file, "{\n  \"command\": \"demo\", \"old\": true").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();

    let mut failed =
        program("storm --mode sync --rate 1 --duration 1s --records 1 --api http://[::1]:1");
    failed.arg("--json").arg(&link);
    assert_eq!(output(failed).await.status.code(), Some(1));
    assert!(fs::read_to_string(&file).unwrap().contains("old"));

    let api = FakeApi::start(|_| Act::Right).await;
    ok(storm(&api, &["--json", link.to_str().unwrap()])).await;
    let text = fs::read_to_string(&file).unwrap();
    assert!(
        text.contains("\"command\": \"storm\"") && !text.contains("\"old\""),
        "{text}"
    );
    assert_eq!(
        fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert!(
        link.is_symlink(),
        "the file is replaced, and not the link to it"
    );
    assert_eq!(names(folder.path()), ["file", "link"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_may_go_to_a_pipe() {
    let api = FakeApi::start(|_| Act::Right).await;
    for (option, contents) in [
        ("--json", "\"mode\": \"sync\""),
        ("--csv", "\nmode,rate,"),
        ("--series", "\nmode,at_ms,"),
        ("--html", "\n<!doctype html>\n"),
    ] {
        let output = ok(storm(&api, &[option, "/dev/stdout"])).await;
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("passed: 2 of 2"), "{text}");
        assert!(text.contains(contents), "{option}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipe_that_nobody_reads_is_refused() {
    let api = FakeApi::start(|_| panic!("no request may be sent")).await;
    let folder = TempDir::new().unwrap();
    let pipe = folder.path().join("pipe");
    assert!(
        Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap()
            .success()
    );
    let output = output(storm(&api, &["--json", pipe.to_str().unwrap()])).await;
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        error.contains("it is a pipe that no program reads"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn output_that_is_redirected_to_the_result_file_is_not_replaced() {
    let api = FakeApi::start(|_| Act::Right).await;
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("out");
    let mut command = storm(&api, &["--json", "/dev/stdout"]);
    command.stdout(
        fs::File::options()
            .create(true)
            .append(true)
            .open(&file)
            .unwrap(),
    );
    let mut child = command.spawn().unwrap();
    let status = tokio::task::spawn_blocking(move || child.wait().unwrap()).await;
    assert_eq!(status.unwrap().code(), Some(0));
    let text = fs::read_to_string(&file).unwrap();
    assert!(
        text.contains("passed: 2 of 2") && text.contains("\"command\""),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_written_at_the_end_is_printed() {
    let api = FakeApi::start(|_| Act::Right).await;
    let folder = TempDir::new().unwrap();
    let results = folder.path().join("results");
    fs::create_dir(&results).unwrap();
    let [json, csv, series] = ["json", "csv", "series"].map(|name| results.join(name));
    let mut command = program(&format!(
        "storm --mode sync --api {} --rate 50 --duration 1h --records 1",
        api.url()
    ));
    command.arg("--json").arg(&json).arg("--csv").arg(&csv);
    command.arg("--series").arg(&series);
    let child = command.spawn().unwrap();
    api.has_received(2).await;
    fs::remove_dir_all(&results).unwrap();
    let pid = child.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-INT", &pid])
            .status()
            .unwrap()
            .success()
    );
    let output = tokio::task::spawn_blocking(|| child.wait_with_output().unwrap());
    let output = output.await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}{error}");
    assert!(text.contains("\"command\": \"storm\""), "{text}");
    assert!(
        text.contains("\nmode,rate,") && text.contains("\nsync,50,"),
        "{text}"
    );
    assert!(
        text.contains("\nmode,at_ms,") && text.contains("\nsync,0,100,"),
        "{text}"
    );
    assert!(
        error.contains(json.to_str().unwrap()) && error.contains("standard output instead"),
        "{error}"
    );
}

/// A shell sets the limit: `ulimit -f` counts blocks of 512 or 1024 bytes.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_told_before_the_first_request() {
    let api = FakeApi::start(|_| panic!("no request may be sent")).await;
    let folder = TempDir::new().unwrap();
    for option in ["--json", "--csv", "--series"] {
        let limited = format!(
            "ulimit -f 4; exec {} storm --mode sync --api {} --rate 1 --duration 1s --records 1 \
             {option} {}",
            program("").get_program().to_str().unwrap(),
            api.url(),
            folder.path().join("result").display()
        );
        let mut shell = Command::new("sh");
        shell.args(["-c", &limited]);
        let output = output(shell).await;
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.contains("there is no room for it"), "{error}");
    }
    assert!(names(folder.path()).is_empty());
}
