//! The `storm` command: constant request rates, callbacks and polling.

use std::{sync::Arc, time::Duration};

use storm_loadgen::{
    Cli,
    cli::{Command, StormOptions},
    latency::Bucket,
    report,
    series::Point,
    signatures::Signatures,
    storm::{self, Completion, StormResult},
};
use tokio_util::sync::CancellationToken;

use crate::fake_api::{Act, FakeApi, SECRET, number};

fn options(api: &FakeApi, more: &str) -> StormOptions {
    let api = api.url();
    let line = format!("storm-loadgen storm --api {api} --listen localhost:0 --records 5 {more}");
    match Cli::read(line.split_whitespace()).unwrap().command {
        Command::Storm(options) => options,
        _ => panic!("not a storm"),
    }
}

/// A storm of 40 requests in 200 ms, numbered from 1. The test job succeeds.
async fn storm(more: &str, script: fn(u32) -> Act) -> StormResult {
    let api = FakeApi::start(move |name| {
        if name.contains("Test") {
            Act::Right
        } else {
            script(number(name))
        }
    })
    .await;
    run(&api, &format!("--rate 200 --duration 200ms {more}")).await
}

fn signatures() -> Signatures {
    Signatures::parse(SECRET).unwrap()
}

async fn run(api: &FakeApi, more: &str) -> StormResult {
    storm::run(&options(api, more), signatures(), &CancellationToken::new())
        .await
        .unwrap()
        .unwrap()
}

#[tokio::test]
async fn an_async_storm_pairs_every_callback_and_counts_refusals_separately() {
    let result = storm("--mode async", |number| match number {
        1..=10 => Act::Refuses,
        11 => Act::AnotherStatus,
        12..=20 => Act::CallsBackFirst,
        21 => Act::CallsBackTwice,
        _ => Act::Right,
    })
    .await;
    assert_eq!(
        (result.offered, result.sent, result.unanswered),
        (40, 40, 0)
    );
    let failed = result.answers.failed;
    assert_eq!(
        (result.answers.ok, failed.refused, failed.other_status),
        (29, 10, 1)
    );
    assert_eq!(result.completion, Some(Completion::Callback));
    let jobs = result.jobs.as_ref().unwrap();
    assert_eq!(
        (jobs.accepted, jobs.right, jobs.lost, jobs.repeated),
        (29, 29, 0, 1)
    );
    assert!(jobs.completed_per_s > 0.0 && jobs.lateness.is_some());
    let total = |of: fn(&Point) -> u64| result.series.points.iter().map(of).sum::<u64>();
    assert_eq!(
        (
            total(|it| it.offered),
            total(|it| it.sent),
            total(|it| it.ok)
        ),
        (40, 40, 29)
    );
    assert_eq!(
        (
            total(|it| it.refused),
            total(|it| it.failed),
            total(|it| it.completed)
        ),
        (10, 1, 29)
    );
    assert_eq!(result.series.points.last().unwrap().in_flight, 0);
    let count = |buckets: &[Bucket]| buckets.iter().map(|it| it.count).sum::<u64>();
    assert_eq!(count(&result.distribution.answer), 29);
    assert_eq!(count(&result.distribution.completion), 29);
    assert!(!result.passed(), "an unexpected status must fail the storm");
    let text = report::storm::render(&result, 80);
    assert!(text.contains("40 offered, 40 sent, 29 ok"), "{text}");
    assert!(text.contains("signatures: all 30 verified"), "{text}");
}

#[tokio::test]
async fn a_storm_tells_how_far_jobs_ended_from_what_their_202_expected() {
    let result = storm("--mode async", |number| match number {
        1..=4 => Act::Expects(1000),
        5..=12 => Act::Expects(-1000),
        13..=15 => Act::CallsBackTwice,
        16..=20 => Act::CallsBackFirst,
        _ => Act::Right,
    })
    .await;
    assert!(result.passed(), "it is measured, and fails nothing");
    let deviation = result.jobs.as_ref().unwrap().deviation.unwrap();
    assert_eq!(deviation.jobs, 32, "without those that are told no time");
    assert!(deviation.late >= 8, "{deviation:?}");
    assert!(
        (-1001..-900).contains(&deviation.p5.as_secs()),
        "{deviation:?}"
    );
    assert!((0..100).contains(&deviation.p50.as_secs()), "{deviation:?}");
    assert!(
        (999..1100).contains(&deviation.p95.as_secs()),
        "{deviation:?}"
    );
    let text = report::storm::render(&result, 80);
    assert!(text.contains("expected_at: off by "), "{text}");
    assert!(text.contains("of 32 over 1 s late"), "{text}");
    let without = storm("--mode async", |_| Act::CallsBackFirst).await;
    assert_eq!(without.jobs.as_ref().unwrap().deviation, None);
    let text = report::storm::render(&without, 80);
    assert!(without.passed() && !text.contains("expected_at"), "{text}");
}

#[tokio::test]
async fn a_bad_signature_fails_a_storm() {
    let result = storm("--mode async", |number| match number {
        7 => Act::Forged,
        8 => Act::Stale,
        _ => Act::Right,
    })
    .await;
    assert!(!result.passed());
    let jobs = result.jobs.as_ref().unwrap();
    assert_eq!((jobs.right, jobs.wrong, jobs.lost), (38, 0, 0));
    let text = report::storm::render(&result, 80);
    let line = "signatures: 2 of 40 bad: 1 with an old or future timestamp, \
                1 with a wrong signature";
    assert!(text.contains(line), "{text}");
}

#[tokio::test]
async fn refusals_do_not_fail_a_storm_unless_every_request_is_refused() {
    let some = storm("--mode async", |number| match number {
        1..=39 => Act::Refuses,
        _ => Act::Right,
    });
    assert!(some.await.passed(), "a storm measures refusals");
    let all = storm("--mode sync", |_| Act::Refuses);
    assert!(!all.await.passed());
}

#[tokio::test]
async fn lost_and_wrong_callbacks_fail_a_storm() {
    let result = storm("--mode async --patience 200ms", |number| match number {
        7 => Act::WrongChecksum,
        8 | 9 => Act::NeverCallsBack,
        _ => Act::CallsBackFirst,
    })
    .await;
    let jobs = result.jobs.as_ref().unwrap();
    assert_eq!((jobs.right, jobs.wrong, jobs.lost), (37, 1, 2));
    assert!(!result.passed());
}

#[tokio::test]
async fn a_sync_storm_checks_the_reports_in_its_answers() {
    let result = storm("--mode sync", |number| match number {
        5 => Act::WrongChecksum,
        _ => Act::Right,
    })
    .await;
    assert_eq!(
        (result.answers.ok, result.answers.failed.wrong_answer),
        (39, 1)
    );
    assert!(result.jobs.is_none() && result.completion.is_none() && !result.passed());
}

#[tokio::test]
async fn polled_jobs_are_timed_by_the_clock_of_the_api() {
    let result = storm("--mode async --poll", |_| Act::Right).await;
    let why = "requested by --poll".to_owned();
    assert_eq!(result.completion, Some(Completion::Polling { why }));
    let jobs = result.jobs.unwrap();
    assert_eq!((jobs.right, jobs.lost), (40, 0));
    let longest = jobs.time_to_completion.unwrap().max;
    assert!(
        (249..=251).contains(&longest.as_millis()),
        "the fake API says 250 ms: {longest:?}"
    );
}

#[tokio::test]
async fn a_polled_job_that_fails_or_does_not_end_fails_a_storm() {
    let result = storm("--mode async --poll --patience 1s", |number| match number {
        1 => Act::Fails,
        2 => Act::NeverCallsBack,
        _ => Act::Right,
    })
    .await;
    assert!(!result.passed());
    let jobs = result.jobs.unwrap();
    assert_eq!((jobs.failed, jobs.accepted), (1, 40));
    assert!(jobs.lost >= 1 && jobs.right > 0);
}

#[tokio::test]
async fn jobs_are_polled_if_the_api_refuses_the_callback_url() {
    let api = FakeApi::start(|_| Act::RefusesCallbackUrl).await;
    let result = run(&api, "--mode async --rate 100 --duration 100ms").await;
    let Some(Completion::Polling { why }) = &result.completion else {
        panic!("{result:?}")
    };
    assert!(why.contains("refuses the callback URL"), "{why}");
    assert_eq!(result.jobs.as_ref().unwrap().right, 10);
    assert!(result.passed());
}

#[tokio::test]
async fn jobs_are_polled_if_the_test_callback_fails() {
    let api = FakeApi::start(|name| {
        if name.contains("Test") {
            Act::Fails
        } else {
            Act::Right
        }
    });
    let result = run(&api.await, "--mode async --rate 100 --duration 100ms").await;
    assert!(
        matches!(result.completion, Some(Completion::Polling { .. })),
        "{result:?}"
    );
    assert_eq!(result.jobs.unwrap().right, 10);
}

#[tokio::test]
async fn a_request_over_the_limit_in_flight_is_counted_as_not_sent() {
    let result = storm("--mode sync --in-flight 1 --timeout 1s", |_| Act::Hangs).await;
    let failed = result.answers.failed;
    assert_eq!(
        (result.answers.ok, failed.timeout + failed.not_sent),
        (0, 40)
    );
    assert!(failed.timeout >= 1 && failed.not_sent >= 1, "{failed:?}");
    assert_eq!(result.sent, failed.timeout);
    let points = &result.series.points;
    assert_eq!(points.iter().map(|it| it.offered).sum::<u64>(), 40);
    assert_eq!(points.iter().map(|it| it.sent).sum::<u64>(), result.sent);
    assert_eq!(points.iter().map(|it| it.failed).sum::<u64>(), result.sent);
}

/// Client and API share one thread, so the client can't send while the API stalls. Requests that
/// become due during the stall are answered as soon as they are sent, but their latency must
/// include the wait (coordinated omission).
#[tokio::test(flavor = "current_thread")]
async fn latency_is_measured_from_the_moment_a_request_was_due() {
    let api = FakeApi::start(|name| match name {
        "Storm_0001" => Act::Stalls(400),
        _ => Act::Right,
    })
    .await;
    let result = run(&api, "--mode async --poll --rate 100 --duration 400ms").await;
    assert_eq!(result.answers.ok, 40);
    let p50 = result.answers.latency.unwrap().p50;
    assert!(p50 >= Duration::from_millis(150), "{p50:?}");
}

#[tokio::test]
async fn a_storm_that_is_shut_down_returns_its_result_so_far() {
    let api = Arc::new(FakeApi::start(|_| Act::Hangs).await);
    let shutdown = CancellationToken::new();
    let options = options(&api, "--mode sync --rate 100 --duration 1h --timeout 1h");
    tokio::spawn({
        let (api, shutdown) = (Arc::clone(&api), shutdown.clone());
        async move {
            api.has_received(3).await;
            shutdown.cancel();
        }
    });
    let result = storm::run(&options, signatures(), &shutdown).await.unwrap();
    let result = result.unwrap();
    assert!(result.interrupted);
    assert!(
        result.unanswered >= 3 && result.unanswered == result.sent,
        "{result:?}"
    );
}
