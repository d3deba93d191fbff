//! The `demo` command: what passes, what fails, and what it prints.

use storm_loadgen::{
    Cli,
    cli::{Command, DemoOptions},
    demo::{self, DemoResult},
    report,
    signatures::Signatures,
};
use tokio_util::sync::CancellationToken;

use crate::fake_api::{Act, FakeApi, SECRET, number};

fn options(api: &str, more: &str) -> DemoOptions {
    let line = format!("storm-loadgen demo --api {api} --listen localhost:0 --records 1 {more}");
    match Cli::read(line.split_whitespace()).unwrap().command {
        Command::Demo(options) => options,
        _ => panic!("not a demo"),
    }
}

/// Runs a demo with 4 requests per endpoint. `script` gets true for `/sync`, and the number.
async fn demo(more: &str, script: fn(bool, u32) -> Act) -> (DemoResult, String) {
    checked_demo(SECRET, more, script).await
}

/// The same; `secrets` verify the callbacks.
async fn checked_demo(
    secrets: &str,
    more: &str,
    script: fn(bool, u32) -> Act,
) -> (DemoResult, String) {
    let signatures = Signatures::parse(secrets).unwrap();
    let api = FakeApi::start(move |name| script(name.starts_with("Sync"), number(name))).await;
    let result = demo::run(
        &options(&api.url(), &format!("--requests 4 {more}")),
        signatures,
        &CancellationToken::new(),
    )
    .await
    .unwrap()
    .unwrap();
    let text = report::demo::render(&result, 80);
    (result, text)
}

#[tokio::test]
async fn it_passes_if_every_job_is_correct_even_with_early_and_repeated_callbacks() {
    let (result, text) = demo("", |sync, number| match number {
        _ if sync => Act::Right,
        1 => Act::CallsBackFirst,
        2 => Act::CallsBackTwice,
        _ => Act::Right,
    })
    .await;
    assert!(result.passed(), "{text}");
    assert_eq!(
        (
            result.jobs.right,
            result.jobs.repeated,
            result.jobs.unexpected
        ),
        (4, 1, 0)
    );
    assert_eq!((result.sync.answers.ok, result.ack.answers.ok), (4, 4));
    for (side, completed) in [(&result.sync, 0), (&result.ack, 4)] {
        // All were due at the start, and the clock of each side starts with it.
        assert_eq!(side.series.points[0].offered, 4);
        let points = &side.series.points;
        assert_eq!(points.iter().map(|it| it.completed).sum::<u64>(), completed);
        let buckets = &side.distribution.completion;
        assert_eq!(buckets.iter().map(|it| it.count).sum::<u64>(), completed);
    }
    assert!(text.contains("4 of 4 correct"), "{text}");
    assert!(text.contains("with 0 of 4 timed out or refused"), "{text}");
    assert!(text.contains("signed:   all 5 verified"), "{text}");
}

#[tokio::test]
async fn a_bad_signature_fails_it_and_is_reported_by_kind() {
    let (result, text) = demo("", |sync, number| match number {
        _ if sync => Act::Right,
        1 => Act::Unsigned,
        2 => Act::Forged,
        3 => Act::Stale,
        _ => Act::ForAnotherId,
    })
    .await;
    assert!(!result.passed());
    let jobs = result.jobs;
    assert_eq!((jobs.right, jobs.wrong, jobs.lost), (0, 0, 0));
    let line = "signed:   4 of 4 bad: 1 with missing or invalid headers, 1 for another id, \
                1 with an old or future timestamp, 1 with a wrong signature";
    assert!(text.contains(line), "{text}");
    assert!(text.contains("4 bad signature"), "{text}");
}

#[tokio::test]
async fn one_bad_signature_among_valid_ones_fails_it() {
    let (result, text) = demo("", |sync, number| match number {
        2 if !sync => Act::Forged,
        _ => Act::CallsBackFirst,
    })
    .await;
    assert!(!result.passed());
    assert_eq!((result.jobs.right, result.jobs.signatures.bad()), (3, 1));
    assert!(text.contains("3 of 4 correct"), "{text}");
}

#[tokio::test]
async fn without_secrets_it_says_that_signatures_are_not_checked() {
    let (result, text) = checked_demo("", "", |_, _| Act::Unsigned).await;
    assert!(result.passed(), "{text}");
    let line = "signed:   not checked: CALLBACK_SIGNING_SECRETS is not set";
    assert!(
        text.contains(line) && !text.contains("bad signature"),
        "{text}"
    );
}

#[tokio::test]
async fn a_lost_callback_fails_it_and_is_looked_up() {
    let (result, text) = demo("--patience 200ms", |_, number| match number {
        3 => Act::NeverCallsBack,
        _ => Act::CallsBackFirst,
    })
    .await;
    assert!(!result.passed());
    assert_eq!(
        (result.jobs.accepted, result.jobs.right, result.jobs.lost),
        (4, 3, 1)
    );
    assert!(
        text.contains("3 of 4 correct; 0 not accepted, 1 lost"),
        "{text}"
    );
    assert!(text.contains("is PROCESSING"), "{text}");
}

#[tokio::test]
async fn a_failed_job_is_shown_with_its_reason() {
    let (result, text) = demo("--patience 200ms", |_, _| Act::Fails).await;
    assert!(!result.passed());
    assert_eq!((result.jobs.right, result.jobs.lost), (0, 4));
    assert!(
        text.contains("is FAILED") && text.contains("scripted failure"),
        "{text}"
    );
}

#[tokio::test]
async fn a_wrong_checksum_fails_it() {
    let (result, text) = demo("", |sync, number| match number {
        2 if !sync => Act::WrongChecksum,
        _ => Act::CallsBackFirst,
    })
    .await;
    assert!(!result.passed());
    assert_eq!(
        (result.jobs.right, result.jobs.wrong, result.jobs.lost),
        (3, 1, 0)
    );
    assert!(text.contains("1 with a wrong checksum"), "{text}");
}

#[tokio::test]
async fn a_callback_with_the_report_of_another_job_fails_it() {
    let (result, _) = demo("", |_, number| match number {
        2 => Act::AnothersReport,
        _ => Act::CallsBackFirst,
    })
    .await;
    assert!(!result.passed());
    assert_eq!((result.jobs.right, result.jobs.wrong), (3, 1));
}

#[tokio::test]
async fn a_wrong_sync_report_fails_it() {
    let (result, _) = demo("", |sync, number| match number {
        1 if sync => Act::WrongChecksum,
        2 if sync => Act::Garbage,
        _ => Act::Right,
    })
    .await;
    assert!(!result.passed());
    assert_eq!(
        (
            result.sync.answers.ok,
            result.sync.answers.failed.wrong_answer,
            result.jobs.right
        ),
        (2, 2, 4)
    );
}

#[tokio::test]
async fn refused_sync_requests_are_counted_separately_and_shown_in_the_verdict() {
    let (result, text) = demo("", |sync, number| match number {
        1 | 2 if sync => Act::Refuses,
        3 if sync => Act::AnotherStatus,
        _ => Act::Right,
    })
    .await;
    assert!(
        result.passed(),
        "refused sync requests must not fail the demo: {text}"
    );
    let failed = result.sync.answers.failed;
    assert_eq!(
        (result.sync.answers.ok, failed.refused, failed.other_status),
        (1, 2, 1)
    );
    assert!(
        text.contains("2 of 4 timed out or refused, and 1 failed for other reasons"),
        "{text}"
    );
    assert!(
        text.contains("2 refused (503)") && text.contains("1 other status"),
        "{text}"
    );
}

#[tokio::test]
async fn without_a_successful_sync_request_there_is_no_p95() {
    let (result, text) = demo("--timeout 300ms --patience 200ms", |_, _| Act::Hangs).await;
    assert!(!result.passed());
    assert_eq!(
        (
            result.sync.answers.failed.timeout,
            result.sync.answers.latency
        ),
        (4, None)
    );
    assert!(
        text.contains("no successful answer, with 4 of 4 timed out or refused"),
        "{text}"
    );
    assert!(
        text.contains("none of 4 requests was acknowledged"),
        "{text}"
    );
}

#[tokio::test]
async fn a_job_that_is_not_accepted_fails_it() {
    let (result, text) = demo("", |sync, number| match number {
        1 if !sync => Act::Refuses,
        2 if !sync => Act::RefusesCallbackUrl,
        _ => Act::Right,
    })
    .await;
    assert!(!result.passed());
    assert_eq!(
        (result.ack.answers.ok, result.jobs.right, result.jobs.lost),
        (2, 2, 0)
    );
    assert!(text.contains("2 of 4 correct; 2 not accepted"), "{text}");
}

#[tokio::test]
async fn without_an_api_the_error_is_one_line_that_names_the_option() {
    let unused = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let error = demo::run(
        &options(&format!("http://{unused}"), ""),
        Signatures::default(),
        &CancellationToken::new(),
    )
    .await
    .unwrap_err();
    let error = format!("{error:#}");
    assert!(
        error.contains(&unused.to_string()) && error.contains("--api"),
        "{error}"
    );
    assert!(!error.contains('\n'), "{error}");
}
