//! `--fail-if`: the exit status, the lines, and what the result file says.

use serde_json::{Value, json};

use crate::{
    binary::{TempFile, output, program},
    fake_api::{Act, FakeApi},
    interrupts::{end, signal},
};

struct Ran {
    status: Option<i32>,
    text: String,
    json: Value,
}

/// Runs a command at this API with these conditions.
async fn run(api: &FakeApi, line: &str, conditions: &[&str]) -> Ran {
    let file = TempFile::new("thresholds.json");
    let mut command = program(&format!(
        "{line} --api {} --listen localhost:0 --json {}",
        api.url(),
        file.path()
    ));
    for condition in conditions {
        command.args(["--fail-if", condition]);
    }
    let output = output(command).await;
    Ran {
        status: output.status.code(),
        text: String::from_utf8(output.stdout).unwrap(),
        json: serde_json::from_str(&file.read()).unwrap(),
    }
}

const STORM: &str = "storm --mode async --rate 100 --duration 50ms --records 1";

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_passes_but_not_its_thresholds_exits_with_3() {
    let api = FakeApi::start(|_| Act::Right).await;
    let kept = run(&api, STORM, &["ok<5", "callback.p99 > 1h", "lost>0"]).await;
    assert_eq!(kept.status, Some(0), "{}", kept.text);
    assert!(kept.text.starts_with("passed: 5 of 5"), "{}", kept.text);
    assert!(kept.text.contains("\n✓ fail if ok<5: 5\n"), "{}", kept.text);
    assert!(
        kept.text.contains("\n✓ fail if callback.p99 > 1h: "),
        "{}",
        kept.text
    );
    assert_eq!(kept.json["passed"], true);

    let broken = run(&api, STORM, &["ok>=100%", "lost>0"]).await;
    assert_eq!(broken.status, Some(3), "{}", broken.text);
    let first = "failed: 1 of 2 thresholds; 5 of 5 requests ok, 5 of 5 jobs correct\n\
                 ✗ fail if ok>=100%: 100.00 %\n✓ fail if lost>0: 0\n";
    assert!(broken.text.starts_with(first), "{}", broken.text);
    assert_eq!(broken.json["passed"], false);
    assert_eq!(
        broken.json["thresholds"],
        json!([
            {"fail_if": "ok>=100%", "figure": "ok", "measured": 100.0, "unit": "%",
                "exceeded": true},
            {"fail_if": "lost>0", "figure": "lost", "measured": 0.0, "unit": null,
                "exceeded": false},
        ])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_fails_by_itself_exits_with_1_whatever_its_thresholds() {
    let api = FakeApi::start(|name| match name {
        "Storm_0002" => Act::WrongChecksum,
        _ => Act::Right,
    })
    .await;
    for (condition, mark) in [("wrong>0", '✗'), ("wrong>1", '✓')] {
        let ran = run(&api, STORM, &[condition]).await;
        assert_eq!(ran.status, Some(1), "{}", ran.text);
        assert!(
            ran.text.starts_with("failed: 5 of 5 requests ok, 4 of 5"),
            "{}",
            ran.text
        );
        let line = format!("\n{mark} fail if {condition}: 1\n");
        assert!(ran.text.contains(&line), "{}", ran.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_figure_that_was_not_measured_fails_the_run() {
    let api = FakeApi::start(|name| {
        if name.starts_with("Sync") {
            Act::Refuses
        } else {
            Act::Right
        }
    })
    .await;
    let line = "demo --requests 3 --records 1";
    let ran = run(
        &api,
        line,
        &["sync.p99>1h", "async.p99>1h", "sync.refused<100%"],
    )
    .await;
    assert_eq!(ran.status, Some(3), "{}", ran.text);
    assert!(
        ran.text.starts_with("failed: 1 of 3 thresholds; every job"),
        "{}",
        ran.text
    );
    let lines = "\n✗ fail if sync.p99>1h: not measured\n✓ fail if async.p99>1h: ";
    assert!(ran.text.contains(lines), "{}", ran.text);
    assert!(
        ran.text
            .contains("\n✓ fail if sync.refused<100%: 100.00 %\n"),
        "{}",
        ran.text
    );
    assert_eq!(ran.json["thresholds"][0]["measured"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_run_judges_no_threshold() {
    let api = FakeApi::start(|_| Act::Right).await;
    let file = TempFile::new("interrupted.json");
    let line = format!(
        "storm --mode async --api {} --listen localhost:0 --rate 50 --duration 1h --records 1 \
         --fail-if ok>0 --json {}",
        api.url(),
        file.path()
    );
    let child = program(&line).spawn().unwrap();
    api.has_received(3).await;
    signal(&child, "-INT");
    let output = end(child).await;
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(130), "{text}");
    assert!(!text.contains("fail if"), "{text}");
    let json: Value = serde_json::from_str(&file.read()).unwrap();
    assert_eq!(json["thresholds"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_threshold_of_what_the_run_can_not_have_is_an_invalid_option() {
    let storm = "storm --rate 1 --duration 1s";
    for (line, told) in [
        (
            format!("{storm} --mode sync --records 1 --fail-if callback.p99>1s"),
            "it is a figure of jobs, and /sync makes none",
        ),
        (
            format!("{storm} --mode async --records 1 --fail-if p99>50"),
            "compare it with a whole number and a unit",
        ),
        (
            "demo --fail-if p99>1s".to_owned(),
            "there are sync.p50, sync.p95",
        ),
    ] {
        let output = output(program(&line)).await;
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(error.contains(told) && output.stdout.is_empty(), "{error}");
    }
}
