//! One job is one trace, whoever works on it.

use std::collections::HashSet;

use serde_json::{Value, json};
use storm_shared::models::{RequestId, Status};

use crate::{
    collector::{Collector, Span},
    process::WorkerProcess,
    receiver::Receiver,
    rows::Rows as _,
    table::Table,
};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

const SERVER: u64 = 2;
const CLIENT: u64 = 3;
const CONSUMER: u64 = 5;

const QUICK: (&str, &str) = ("CALLBACK_RETRY_DELAYS", "10ms,10ms");

/// The settings of processes that export to `url` at once.
pub(super) fn exporting(url: &str) -> Vec<(&str, &str)> {
    vec![
        ("OTEL_EXPORTER_OTLP_ENDPOINT", url),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-token=secret"),
        ("OTEL_BSP_SCHEDULE_DELAY", "20"),
    ]
}

pub(super) async fn api(table: &Table, settings: &[(&str, &str)]) -> WorkerProcess {
    let api = WorkerProcess::start_api(table.folder.path(), settings);
    api.until_shown("/readyz", "HTTP/1.1 200").await;
    api
}

/// Submits a job with more lines of the head; it must be accepted.
pub(super) async fn submit(api: &WorkerProcess, lines: &str, path: &str, job: &Value) -> RequestId {
    let answer = api.send_with(lines, "POST", path, &job.to_string()).await;
    let answer = answer.unwrap();
    assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    let body: Value = serde_json::from_str(body).unwrap();
    body["request_id"].as_str().unwrap().parse().unwrap()
}

pub(super) fn report(url: &str) -> Value {
    json!({"records": 1, "report_name": "hunter2", "callback_url": url})
}

fn sampled(flags: &str) -> String {
    format!("traceparent: 00-{TRACE}-{PARENT}-{flags}\r\n")
}

fn named<'a>(spans: &'a [Span], name: &str) -> Vec<&'a Span> {
    spans.iter().filter(|span| span.name == name).collect()
}

fn is_settled(span: &Span) -> bool {
    span.attribute("storm.settlement") == "finish"
}

/// The `traceparent` of the next callback.
async fn traceparent(receiver: &mut Receiver) -> String {
    let callback = receiver.next_whole().await;
    callback.headers()["traceparent"]
        .to_str()
        .unwrap()
        .to_owned()
}

#[tokio::test]
async fn a_job_is_one_trace_from_its_acceptance_over_each_attempt_to_its_end() {
    let mut collector = Collector::new().await;
    let url = collector.url();
    let mut receiver = Receiver::answering(|nth, _| if nth == 0 { 500 } else { 200 }).await;
    let table = Table::new().await;
    let settings = [exporting(&url), vec![QUICK]].concat();
    let (api, worker) = (api(&table, &settings).await, table.worker(&settings));
    let id = submit(&api, &sampled("01"), "/async", &report(&receiver.url())).await;
    // Those of the API come from another process.
    collector.until(1, is_settled).await;
    let spans = collector.until(1, |span| span.name == "accept").await;

    assert_eq!(spans.len(), 8, "{spans:#?}");
    for span in &spans {
        assert_eq!(span.trace, TRACE);
        assert_eq!(span.attribute("storm.request.id"), id.to_string());
        assert!(span.began <= span.ended && span.began > 0);
        let shown = format!("{span:?}");
        for secret in ["hunter2", "webhook", "token=1"] {
            assert!(!shown.contains(secret), "{shown}");
        }
    }
    let ids: HashSet<_> = spans.iter().map(|span| &span.id).collect();
    assert_eq!(ids.len(), 8);

    let [accept] = named(&spans, "accept")[..] else {
        panic!("{spans:#?}");
    };
    assert_eq!((accept.parent.as_str(), accept.kind), (PARENT, SERVER));
    assert_eq!(accept.resource["service.name"], "storm-api");
    assert_eq!(accept.attribute("http.response.status_code"), "202");
    let claims = named(&spans, "claim");
    for (at, claim) in claims.iter().enumerate() {
        assert_eq!((&claim.parent, claim.kind), (&accept.id, CONSUMER));
        assert_eq!(claim.resource["service.name"], "storm-worker");
        assert_eq!(claim.attribute("storm.claim.number"), (at + 1).to_string());
    }
    let runs = named(&spans, "run");
    let attempts = named(&spans, "attempt");
    let settlements = named(&spans, "settle");
    assert_eq!((claims.len(), runs.len()), (2, 1));
    assert_eq!((attempts.len(), settlements.len()), (2, 2));
    assert_eq!(runs[0].parent, claims[0].id);
    for (at, (attempt, settlement)) in attempts.iter().zip(&settlements).enumerate() {
        assert_eq!((&attempt.parent, attempt.kind), (&claims[at].id, CLIENT));
        assert_eq!(settlement.parent, claims[at].id);
        assert!(claims[at].ended <= attempt.began && attempt.ended <= settlement.began);
        assert_eq!(attempt.attribute("storm.attempt"), (at + 1).to_string());
        assert_eq!(attempt.attribute("server.address"), "127.0.0.1");
        // The receiver is told of the attempt that called it.
        let told = format!("00-{TRACE}-{}-01", attempt.id);
        assert_eq!(traceparent(&mut receiver).await, told);
    }
    let failed: Vec<_> = spans.iter().filter(|span| span.has_failed).collect();
    assert_eq!(failed.len(), 1, "{failed:#?}");
    assert_eq!(failed[0].id, attempts[0].id);
    assert_eq!(attempts[0].attribute("error.type"), "500");
    let status = |attempt: &&Span| attempt.attribute("http.response.status_code").to_owned();
    let statuses: Vec<_> = attempts.iter().map(status).collect();
    assert_eq!(statuses, ["500", "200"]);
    assert_eq!(settlements[0].attribute("storm.settlement"), "retry");
    assert_eq!(settlements[1].attribute("storm.outcome"), "completed");
    for (program, name) in [(&api, "api"), (&worker, "worker")] {
        let none = format!("storm_{name}_dropped_spans_total 0");
        program.until_shown("/metrics", &none).await;
    }
}

#[tokio::test]
async fn a_job_without_a_traceparent_gets_a_trace_that_the_worker_and_the_handler_join() {
    let mut collector = Collector::new().await;
    let url = collector.url();
    let mut endpoint = Receiver::answering(|_, _| 200).await;
    let table = Table::new().await;
    let endpoint_url = endpoint.url();
    let handler = [("HANDLERS__PDF__URL", endpoint_url.as_str())];
    let settings = [exporting(&url), handler.to_vec()].concat();
    let (api, _worker) = (api(&table, &settings).await, table.worker(&settings));
    let id = submit(&api, "", "/async/pdf", &json!({"payload": "hunter2"})).await;
    let spans = collector.until(4, |_| true).await;
    let accept = named(&spans, "accept")[0];
    let run = named(&spans, "run")[0];
    let claim = named(&spans, "claim")[0];
    assert_eq!(accept.parent, "");
    assert_eq!((&claim.parent, &run.parent), (&accept.id, &claim.id));
    assert_eq!(run.attribute("storm.handler"), "pdf");
    let joined = |span: &Span| span.trace == accept.trace;
    assert!(spans.iter().all(joined), "{spans:#?}");
    let told = format!("00-{}-{}-01", accept.trace, run.id);
    assert_eq!(traceparent(&mut endpoint).await, told);
    let stored = table.ended(id).await.traceparent.to_string();
    assert_eq!(stored, format!("00-{}-{}-01", accept.trace, accept.id));
}

#[tokio::test]
async fn a_job_whose_row_is_invalid_has_no_span_in_a_trace_of_its_own() {
    let mut collector = Collector::new().await;
    let url = collector.url();
    let receiver = Receiver::answering(|_, _| 200).await;
    let table = Table::new().await;
    let invalid = table.accept(1, Some(receiver.url())).await;
    let edit = format!("UPDATE requests SET callback_url = 'no URL' WHERE id = '{invalid}'");
    table.database().await.change(1, &edit).await;
    let sound = table.accept(1, Some(receiver.url())).await;
    // These jobs were not accepted by an API that samples.
    let always = ("OTEL_TRACES_SAMPLER", "always_on");
    let worker = table.worker(&[exporting(&url), vec![always]].concat());
    assert_eq!(table.ended(invalid).await.status, Status::Failed);
    assert_eq!(table.ended(sound).await.status, Status::Completed);
    worker.signal("TERM");
    assert!(worker.ended().await.success());
    let of =
        |id: RequestId| move |span: &Span| span.attribute("storm.request.id") == id.to_string();
    let spans = collector.so_far();
    assert!(spans.iter().any(of(sound)), "{spans:#?}");
    assert!(!spans.iter().any(of(invalid)), "{spans:#?}");
}

#[tokio::test]
async fn nothing_is_exported_of_a_trace_that_the_caller_or_the_sampler_leaves_out() {
    let mut collector = Collector::new().await;
    let url = collector.url();
    let mut receiver = Receiver::answering(|_, _| 200).await;
    let table = Table::new().await;
    let settings = exporting(&url);
    let (recording, worker) = (api(&table, &settings).await, table.worker(&settings));
    let never = [settings, vec![("OTEL_TRACES_SAMPLER", "always_off")]].concat();
    let leaving_out = api(&table, &never).await;

    // The caller's decision is passed on with the caller's span; the sampler's clears the flag.
    for (api, flags) in [(&recording, "00"), (&leaving_out, "01")] {
        let job = report(&receiver.url());
        submit(api, &sampled(flags), "/async", &job).await;
        let told = format!("00-{TRACE}-{PARENT}-00");
        assert_eq!(traceparent(&mut receiver).await, told);
    }
    // Without a caller, the trace is named by the request, as without traces.
    let id = submit(&leaving_out, "", "/async", &report(&receiver.url())).await;
    let told = traceparent(&mut receiver).await;
    let trace = id.to_string().replace('-', "");
    assert!(
        told.starts_with(&format!("00-{trace}-")) && told.ends_with("-00"),
        "{told}"
    );
    table.ended(id).await;

    // Spans are exported in the order in which they end, so those before would be here.
    let last = submit(&recording, "", "/async", &report(&receiver.url())).await;
    assert_eq!(table.ended(last).await.status, Status::Completed);
    for process in [recording, leaving_out, worker] {
        process.signal("TERM");
        assert!(process.ended().await.success());
    }
    let spans = collector.so_far();
    assert_eq!(spans.len(), 5, "{spans:#?}");
    let is_last = |span: &Span| span.attribute("storm.request.id") == last.to_string();
    assert!(spans.iter().all(is_last), "{spans:#?}");
}

#[tokio::test]
async fn the_claims_of_two_workers_are_in_one_trace_although_the_first_was_killed() {
    let mut collector = Collector::new().await;
    let url = collector.url();
    let (mut receiver, release) = Receiver::held().await;
    let table = Table::new().await;
    let settings = exporting(&url);
    let (api, killed) = (api(&table, &settings).await, table.worker(&settings));
    let id = submit(&api, &sampled("01"), "/async", &report(&receiver.url())).await;
    let first = traceparent(&mut receiver).await;
    collector.until(1, |span| span.name == "run").await;
    killed.signal("KILL");
    let _other = table.worker(&settings);
    let second = traceparent(&mut receiver).await;
    drop(release);
    let spans = collector.until(1, is_settled).await;
    assert_eq!(table.ended(id).await.claims, 2);
    assert!(spans.iter().all(|span| span.trace == TRACE), "{spans:#?}");
    let accept = named(&spans, "accept")[0];
    let claims = named(&spans, "claim");
    let parents: Vec<_> = claims.iter().map(|claim| &claim.parent).collect();
    assert_eq!(parents, [&accept.id, &accept.id]);
    let workers: HashSet<_> = claims
        .iter()
        .map(|it| it.attribute("storm.worker.id"))
        .collect();
    assert_eq!(workers.len(), 2);
    // The attempt of the killed worker is known to its receiver only.
    let attempts = named(&spans, "attempt");
    assert_eq!((attempts.len(), &attempts[0].parent), (1, &claims[1].id));
    assert_eq!(second, format!("00-{TRACE}-{}-01", attempts[0].id));
    assert_ne!(first, second);
}

#[tokio::test]
async fn spans_name_the_service_and_have_the_resource_that_the_variables_say() {
    let mut collector = Collector::new().await;
    let url = collector.url();
    let table = Table::new().await;
    for (variables, service) in [
        (
            [
                ("OTEL_SERVICE_NAME", ""),
                ("OTEL_RESOURCE_ATTRIBUTES", "a=b"),
            ],
            "storm-api",
        ),
        (
            [
                ("OTEL_SERVICE_NAME", "reports"),
                ("OTEL_RESOURCE_ATTRIBUTES", "service.name=other,a=b"),
            ],
            "reports",
        ),
    ] {
        let settings = [exporting(&url), variables.to_vec()].concat();
        let api = api(&table, &settings).await;
        let refused = api
            .send("POST", "/async", r#"{"records": 0}"#)
            .await
            .unwrap();
        assert!(refused.starts_with("HTTP/1.1 422"), "{refused}");
        let spans = collector
            .until(1, |span| span.resource["service.name"] == service)
            .await;
        let refusal = spans.last().unwrap();
        assert_eq!(refusal.resource["a"], "b");
        assert_eq!(refusal.resource["telemetry.sdk.language"], "rust");
        assert_eq!(refusal.attribute("http.response.status_code"), "422");
        assert!(!refusal.has_failed, "the client has");
    }
}
