//! The `storm` command with jobs of a handler.

use storm_loadgen::{
    Cli,
    cli::Command,
    report,
    report::export::CsvFile,
    signatures::Signatures,
    storm::{self, Completion, StormResult},
};
use tokio_util::sync::CancellationToken;

use crate::fake_api::{Act, FakeApi, SECRET, number};

/// It has what a value would not keep: white space, two equal keys and a zero.
const PAYLOAD: &str = r#"{"image" : "cat.png", "n": 2.50, "n": 1}"#;

/// A storm of 40 jobs of a handler in 200 ms, numbered from 1. The test job succeeds.
async fn run(api: &FakeApi, handler: &str, more: &str) -> StormResult {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("{PAYLOAD}\n")).unwrap();
    let line = format!(
        "storm-loadgen storm --api {} --listen localhost:0 --handler {handler} --payload {} \
         --rate 200 --duration 200ms {more}",
        api.url(),
        file.path().display()
    );
    let Command::Storm(options) = Cli::read(line.split_whitespace()).unwrap().command else {
        panic!("not a storm")
    };
    let signatures = Signatures::parse(SECRET).unwrap();
    storm::run(&options, signatures, &CancellationToken::new())
        .await
        .unwrap()
        .unwrap()
}

async fn api(script: fn(u32) -> Act) -> FakeApi {
    FakeApi::start(move |name| match name {
        name if name.contains("Test") => Act::Right,
        name => script(number(name)),
    })
    .await
}

#[tokio::test]
async fn jobs_of_a_handler_are_paired_with_their_callbacks() {
    let api = api(|number| match number {
        1..=10 => Act::Refuses,
        11..=20 => Act::CallsBackFirst,
        21 => Act::CallsBackTwice,
        _ => Act::Right,
    })
    .await;
    let result = run(&api, "thumbnails", "").await;
    let bodies = api.handler_bodies();
    assert_eq!(bodies.len(), 40);
    let begin = format!(r#"{{"payload":{PAYLOAD},"callback_url":"http://localhost:"#);
    for body in &bodies {
        let body = str::from_utf8(body).unwrap();
        assert!(
            body.starts_with(&begin) && body.ends_with("/webhook\"}"),
            "{body}"
        );
    }
    assert_eq!(result.completion, Some(Completion::Callback));
    assert_eq!((result.answers.ok, result.answers.failed.refused), (30, 10));
    let jobs = result.jobs.as_ref().unwrap();
    assert_eq!((jobs.accepted, jobs.right, jobs.repeated), (30, 30, 1));
    assert!(result.passed());
    let text = report::storm::render(&result, 80);
    for line in [
        "async/thumbnails: 200 requests/s for 200 ms, 40 bytes each,",
        "signatures: all 31 verified",
    ] {
        assert!(text.contains(line), "{text}");
    }
    for no in ["ideal", "lateness", "checksum"] {
        assert!(!text.contains(no), "{text}");
    }
}

#[tokio::test]
async fn a_callback_that_is_not_of_the_job_fails_a_storm() {
    let api = api(|number| match number {
        1 => Act::CallsBackFailed,
        2 => Act::WithoutResult,
        3 => Act::AnothersReport,
        4 => Act::CallsBackAnew,
        5 => Act::Forged,
        6 => Act::NeverCallsBack,
        _ => Act::CallsBackFirst,
    })
    .await;
    let result = run(&api, "thumbnails", "--patience 200ms").await;
    assert!(!result.passed());
    let jobs = result.jobs.as_ref().unwrap();
    // The fourth is right at first; its repeat is not.
    assert_eq!(
        (jobs.right, jobs.failed, jobs.wrong, jobs.lost),
        (35, 1, 3, 1)
    );
    assert_eq!(jobs.signatures.bad(), 1);
    let text = report::storm::render(&result, 80);
    assert!(text.contains("1 lost, 3 wrong, 1 failed"), "{text}");
}

#[tokio::test]
async fn jobs_of_a_handler_can_be_polled() {
    let api = api(|number| match number {
        1 => Act::Fails,
        _ => Act::Right,
    })
    .await;
    let result = run(&api, "thumbnails", "--poll").await;
    let jobs = result.jobs.as_ref().unwrap();
    assert_eq!((jobs.right, jobs.failed, jobs.lost), (39, 1, 0));
    let body = &api.handler_bodies()[0];
    assert_eq!(
        str::from_utf8(body).unwrap(),
        format!(r#"{{"payload":{PAYLOAD}}}"#)
    );
}

#[tokio::test]
async fn a_handler_that_there_is_not_fails_a_storm_with_the_answer() {
    let api = api(|_| Act::Right).await;
    let result = run(&api, "unknown", "").await;
    assert!(!result.passed());
    assert_eq!(
        (result.answers.ok, result.answers.failed.other_status),
        (0, 40)
    );
    let text = report::storm::render(&result, 80);
    assert!(
        text.contains("/async/unknown") && text.contains("no handler has this name"),
        "{text}"
    );
}

#[tokio::test]
async fn a_storm_of_a_handler_has_its_name_in_the_files() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("storms.csv");
    let result = run(&api(|_| Act::Right).await, "thumbnails", "").await;
    CsvFile::prepare(&file).unwrap().append(&result).unwrap();
    let text = std::fs::read_to_string(&file).unwrap();
    let lines: Vec<Vec<_>> = text.lines().map(|line| line.split(',').collect()).collect();
    let of = |name: &str| lines[1][lines[0].iter().position(|it| *it == name).unwrap()];
    assert_eq!(
        [of("handler"), of("payload_bytes"), of("records")],
        ["thumbnails", "40", ""]
    );
    let json = serde_json::to_value(&result).unwrap();
    assert_eq!(
        (&json["handler"], &json["payload_bytes"]),
        (&"thumbnails".into(), &40.into())
    );
}
