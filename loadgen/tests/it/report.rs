//! `--html` and `report`: reports of real runs.

use std::{fs, path::Path};

use serde_json::Value;
use tempfile::TempDir;

use crate::{
    binary::{output, program},
    fake_api::{Act, FakeApi},
};

/// Runs the program, and returns its exit status and what it wrote to standard error.
async fn run(folder: &Path, line: &str) -> (Option<i32>, String) {
    let mut command = program(line);
    command.current_dir(folder);
    let output = output(command).await;
    let error = String::from_utf8(output.stderr).unwrap();
    (output.status.code(), error)
}

/// The data of a report's plots.
fn plots(report: &str) -> Vec<Value> {
    let (_, data) = report.split_once("id=\"plots\">").unwrap();
    let (data, _) = data.split_once("</script>").unwrap();
    serde_json::from_str(data).unwrap()
}

/// A report without the time of its result.
fn timeless(report: &str) -> String {
    let lines = report
        .lines()
        .filter(|line| !line.starts_with("<div><dt>at</dt>"));
    lines.collect::<Vec<_>>().join("\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_demo_writes_the_report_that_its_json_gives_later() {
    let api = FakeApi::start(|_| Act::Right).await;
    let folder = TempDir::new().unwrap();
    let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
    let line = format!(
        "demo --api {} --listen localhost:0 --requests 3 --records 1 --json json --html html",
        api.url()
    );
    assert_eq!(run(folder.path(), &line).await, (Some(0), String::new()));
    let plots = plots(&read("html"));
    assert_eq!(plots.len(), 4, "{plots:?}");
    let lines = plots[0]["lines"].as_array().unwrap();
    assert!(lines.iter().any(|it| it["name"] == "callback"), "{lines:?}");

    let again = run(folder.path(), "report --html later json").await;
    assert_eq!(again, (Some(0), String::new()));
    assert_eq!(timeless(&read("later")), timeless(&read("html")));
}

#[tokio::test(flavor = "multi_thread")]
async fn storms_of_both_endpoints_share_a_report_which_replaces_an_earlier_one_only() {
    let api = FakeApi::start(|_| Act::Right).await;
    let folder = TempDir::new().unwrap();
    let storm = |mode: &str, rate: u32| {
        format!(
            "storm --mode {mode} --api {} --listen localhost:0 --rate {rate} --duration 100ms \
             --records 1 --json {mode}-{rate} --html report",
            api.url()
        )
    };
    for (mode, rate) in [("sync", 50), ("async", 50), ("async", 100)] {
        let status = run(folder.path(), &storm(mode, rate)).await;
        assert_eq!(status, (Some(0), String::new()), "{mode} {rate}");
    }
    let all = "report --html report sync-50 async-50 async-100";
    assert_eq!(run(folder.path(), all).await, (Some(0), String::new()));
    let report = fs::read_to_string(folder.path().join("report")).unwrap();
    assert_eq!(plots(&report).len(), 10);

    // Results, which are no reports.
    let (status, error) = run(folder.path(), "report --html sync-50 async-50").await;
    assert_eq!(status, Some(1));
    assert!(
        error.contains("--html sync-50: the file exists and is no report"),
        "{error}"
    );
    let (status, error) = run(folder.path(), "report --html report report").await;
    assert_eq!(status, Some(1));
    assert!(
        error.contains("report is no result of storm-loadgen"),
        "{error}"
    );
    let kept = fs::read_to_string(folder.path().join("report")).unwrap();
    assert_eq!(kept, report);
}
