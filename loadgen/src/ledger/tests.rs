use std::{sync::Arc, time::Duration};

use hyper::HeaderMap;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use storm_shared::{
    models::{Records, ReportSpec, RequestId},
    services::report::{Report, expected},
};
use tokio::time::Instant;

use super::{
    Accepted, DuplicateId, JobEnd, Ledger, NotACallback,
    callback::{Callback, Verdict},
};
use crate::{
    cli::Payload,
    signatures::Signatures,
    workload::{Expected, Workload},
};

const DUE: Duration = Duration::from_millis(100);

fn workload() -> Arc<Workload> {
    Arc::new(Workload::new("Test", 3, Records::new(5, 49).unwrap(), None))
}

/// A `202` without an `expected_at`.
fn job(id: RequestId) -> Accepted {
    Accepted {
        id,
        expected_at: None,
    }
}

fn spec(number: usize) -> ReportSpec {
    match workload().order(number).expected() {
        Expected::Report(spec, _) => spec.clone(),
        Expected::Handler(_) => panic!("no report"),
    }
}

fn report(number: usize) -> Report {
    expected(&spec(number))
}

fn callback(id: RequestId, number: usize) -> String {
    let (spec, report) = (spec(number), report(number));
    json!({
        "request_id": id, "report_id": report.report_id, "status": "completed",
        "checksum": report.checksum, "report_name": spec.report_name, "records": spec.records,
    })
    .to_string()
}

#[tokio::test(start_paused = true)]
async fn a_callback_is_paired_with_its_202_in_either_order() {
    let ledger = Ledger::new(workload(), Signatures::default());
    let due = Instant::now();
    let (first, second) = (RequestId::generate(), RequestId::generate());

    ledger.accepted(job(first), 0, due).unwrap();
    assert_eq!(ledger.pending(), 1);
    tokio::time::advance(DUE).await;
    ledger
        .called_back(&HeaderMap::new(), callback(first, 0).as_bytes())
        .unwrap();
    ledger
        .called_back(&HeaderMap::new(), callback(second, 1).as_bytes())
        .unwrap();
    assert_eq!((ledger.pending(), ledger.summary().unexpected), (0, 1));
    tokio::time::advance(DUE).await;
    ledger.accepted(job(second), 1, due).unwrap();

    let summary = ledger.summary();
    assert_eq!(
        (summary.accepted, summary.right, summary.unexpected),
        (2, 2, 0)
    );
    assert!(summary.all_right());
    let slowest = summary.time_to_completion.unwrap().max;
    assert!(
        slowest < DUE * 2,
        "the time of an early callback ends at its arrival, not at its 202"
    );
    assert!((summary.completed_per_s - 20.0).abs() < 1e-6);
}

#[test]
fn a_callback_with_the_report_of_another_job_is_wrong() {
    let ledger = Ledger::new(workload(), Signatures::default());
    let (first, second) = (RequestId::generate(), RequestId::generate());
    ledger.accepted(job(first), 0, Instant::now()).unwrap();
    ledger
        .called_back(&HeaderMap::new(), callback(first, 1).as_bytes())
        .unwrap();
    ledger
        .called_back(&HeaderMap::new(), callback(second, 0).as_bytes())
        .unwrap();
    ledger.accepted(job(second), 1, Instant::now()).unwrap();
    let summary = ledger.summary();
    assert_eq!((summary.accepted, summary.right, summary.wrong), (2, 0, 2));
    assert!(!summary.all_right() && summary.time_to_completion.is_none());
}

#[test]
fn a_repeat_with_the_same_bytes_is_allowed_and_one_with_other_bytes_is_wrong() {
    let ledger = Ledger::new(workload(), Signatures::default());
    let id = RequestId::generate();
    let right = callback(id, 0);
    ledger
        .called_back(&HeaderMap::new(), right.as_bytes())
        .unwrap();
    ledger
        .called_back(&HeaderMap::new(), right.as_bytes())
        .unwrap();
    ledger.accepted(job(id), 0, Instant::now()).unwrap();
    ledger
        .called_back(&HeaderMap::new(), right.as_bytes())
        .unwrap();
    let summary = ledger.summary();
    assert_eq!((summary.right, summary.repeated, summary.wrong), (1, 2, 0));
    assert!(summary.all_right());

    ledger
        .called_back(&HeaderMap::new(), right.replace(':', ": ").as_bytes())
        .unwrap();
    assert_eq!(ledger.summary().wrong, 1);
    assert!(!ledger.summary().all_right());
}

#[test]
fn an_accepted_job_without_a_callback_is_lost() {
    let ledger = Ledger::new(workload(), Signatures::default());
    let id = RequestId::generate();
    ledger.accepted(job(id), 0, Instant::now()).unwrap();
    assert_eq!(
        ledger.called_back(&HeaderMap::new(), b"{}"),
        Err(NotACallback)
    );
    assert_eq!(
        ledger.accepted(job(id), 1, Instant::now()),
        Err(DuplicateId)
    );
    let summary = ledger.summary();
    assert_eq!((summary.accepted, summary.lost), (1, 1));
    assert_eq!(ledger.any_pending(), Some(id));
    assert!(!summary.all_right());
}

#[test]
fn a_polled_job_is_checked_like_a_callback() {
    let ledger = Ledger::new(workload(), Signatures::default());
    let ids: Vec<_> = (0..3).map(|_| RequestId::generate()).collect();
    for (number, id) in ids.iter().enumerate() {
        ledger.accepted(job(*id), number, Instant::now()).unwrap();
    }
    let took = Duration::from_millis(60);
    ledger.polled(
        ids[0],
        &JobEnd::Completed {
            result: json!(report(0)).to_string(),
            took,
            completed_at: Timestamp::UNIX_EPOCH,
        },
    );
    ledger.polled(
        ids[1],
        &JobEnd::Completed {
            result: json!(report(2)).to_string(),
            took,
            completed_at: Timestamp::UNIX_EPOCH,
        },
    );
    ledger.polled(ids[2], &JobEnd::Failed);
    let summary = ledger.summary();
    assert_eq!(
        (summary.right, summary.wrong, summary.failed, summary.lost),
        (1, 1, 1, 0)
    );
    assert!(
        summary.lateness.unwrap().max < Duration::from_millis(11),
        "60 ms less 50"
    );
}

#[tokio::test]
async fn settled_completes_with_the_last_job() {
    let ledger = Ledger::new(workload(), Signatures::default());
    let id = RequestId::generate();
    ledger.accepted(job(id), 0, Instant::now()).unwrap();
    let waiter = tokio::spawn({
        let ledger = ledger.clone();
        async move { ledger.settled().await }
    });
    tokio::task::yield_now().await;
    ledger
        .called_back(&HeaderMap::new(), callback(id, 0).as_bytes())
        .unwrap();
    waiter.await.unwrap();
}

#[test]
fn an_end_is_compared_with_what_its_202_expected() {
    let ledger = Ledger::new(workload(), Signatures::default());
    assert_eq!(ledger.summary().deviation, None);
    let ids: Vec<_> = (0..4).map(|_| RequestId::generate()).collect();
    let now = Timestamp::now();
    let expected = |index: usize, seconds| Accepted {
        id: ids[index],
        expected_at: Some(now + SignedDuration::from_secs(seconds)),
    };
    let call_back = |number: usize| {
        let body = callback(ids[number], number);
        ledger.called_back(&HeaderMap::new(), body.as_bytes())
    };
    // The callback comes after its 202, and before it; a polled one ends by the clock of the API.
    ledger
        .accepted(expected(0, -100), 0, Instant::now())
        .unwrap();
    call_back(0).unwrap();
    call_back(1).unwrap();
    ledger
        .accepted(expected(1, 1000), 1, Instant::now())
        .unwrap();
    ledger.accepted(expected(2, 0), 2, Instant::now()).unwrap();
    let end = JobEnd::Completed {
        result: json!(report(2)).to_string(),
        took: Duration::from_millis(60),
        completed_at: now + SignedDuration::from_secs(7),
    };
    ledger.polled(ids[2], &end);
    ledger.accepted(job(ids[3]), 3, Instant::now()).unwrap();
    call_back(3).unwrap();

    let summary = ledger.summary();
    assert_eq!(summary.right, 4);
    let deviation = summary.deviation.unwrap();
    assert_eq!((deviation.jobs, deviation.late), (3, 2));
    // Within a minute, on a busy machine.
    assert!(
        (-1001..-900).contains(&deviation.p5.as_secs()),
        "{deviation:?}"
    );
    assert_eq!(deviation.p50.as_secs(), 7);
    assert!(
        (99..160).contains(&deviation.max.as_secs()),
        "{deviation:?}"
    );
}

#[test]
fn a_callback_of_a_handler_may_have_a_result_that_no_value_can_hold() {
    let workload = Workload::new("Test", 1, Records::new(5, 49).unwrap(), None);
    let (name, payload) = ("thumbnails".parse().unwrap(), Payload::parse(b"1").unwrap());
    let thumbnails = Workload::of_handler(name, &payload, None);
    for (result, end) in [
        (
            r#""result": {"n": 1e999, "s": "\ud800", "s": 1}"#,
            Verdict::Right,
        ),
        (r#""result": null"#, Verdict::Right),
        (r#""other": null"#, Verdict::Wrong),
        (r#""result": 1, "failure": {"reason": "a"}"#, Verdict::Wrong),
    ] {
        let id = RequestId::generate();
        let body = format!(
            r#"{{"request_id": "{id}", "handler": "thumbnails", "status": "completed", {result}}}"#
        );
        let callback = Callback::parse(body.as_bytes()).unwrap();
        assert_eq!(callback.judge(thumbnails.order(0)), end, "{body}");
        assert_eq!(callback.judge(workload.order(0)), Verdict::Wrong);
    }
}
