//! The feed of the live page: `GET /overview` and `GET /admin/overview`.

use std::{cell::RefCell, collections::HashSet};

use serde_json::Value;
use storm_api::overview::VIEWERS;
use storm_shared::{
    models::{BreakerState, ReceiverReport, WorkerReport},
    services::{
        access::Token,
        store::{Ended, OwnerId, Store},
    },
};
use tempfile::TempDir;

use crate::{
    auth::{Tenants, bearing, entry, token},
    client::{Client, bare, post},
    server::Server,
    service::{Service, program},
};

const JOB: &str = r#"{"records": 1, "report_name": "a", "callback_url": "http://1.1.1.1/?secret"}"#;

/// A stream of events.
struct Events(Client);

impl Events {
    async fn open(server: &Server, request: impl AsRef<[u8]>) -> Self {
        let mut client = server.connect().await;
        client.send(request).await;
        Self::answered(client).await
    }

    async fn answered(mut client: Client) -> Self {
        let head = client.head().await;
        assert_eq!(head.status, 200);
        assert_eq!(head.header("content-type"), Some("text/event-stream"));
        assert_eq!(head.header("cache-control"), Some("no-store"));
        assert_eq!(head.header("x-accel-buffering"), Some("no"));
        Self(client)
    }

    /// The next event: its name and its data. `None` at the end of the stream.
    async fn next(&mut self) -> Option<(String, Value)> {
        let mut name = None;
        loop {
            // Sizes of chunks and ends of lines are skipped.
            let line = self.0.line().await;
            if line == "0" {
                return None;
            }
            if let Some(event) = line.strip_prefix("event: ") {
                name = Some(event.to_owned());
            } else if let Some(data) = line.strip_prefix("data: ") {
                let data = serde_json::from_str(data).unwrap();
                return Some((name.expect("a name before the data"), data));
            }
        }
    }

    /// The first event.
    async fn beginning(&mut self) -> Value {
        let (name, data) = self.next().await.unwrap();
        assert_eq!(name, "history");
        data
    }

    /// The next one that `is_it`.
    async fn until(&mut self, is_it: impl Fn(&Value) -> bool) -> Value {
        loop {
            let (name, data) = self.next().await.expect("more events");
            assert_eq!(name, "sample");
            if is_it(&data) {
                return data;
            }
        }
    }
}

/// A worker of these receivers, and what it says.
async fn reporting_worker(
    store: &Store,
    receivers: Vec<ReceiverReport>,
) -> (OwnerId, WorkerReport) {
    let owner = OwnerId::generate();
    store.register(owner, &[]).await.unwrap();
    let mut report = WorkerReport {
        slots: 512,
        slots_used: 7,
        lease_ms: Some(15_000),
        ..WorkerReport::new(1000)
    };
    report.set_receivers(receivers);
    let ended = Ended::default();
    store.renew_and_report(owner, ended, &report).await.unwrap();
    (owner, report)
}

fn receiver(tenant: Option<&str>, origin: &str, breaker: BreakerState) -> ReceiverReport {
    ReceiverReport {
        tenant: tenant.map(str::to_owned),
        origin: origin.to_owned(),
        breaker,
        jobs: 1,
    }
}

#[tokio::test]
async fn a_viewer_gets_the_history_and_then_what_is_new_each_second() {
    let server = Server::start(&[]).await;
    let mut events = Events::open(&server, bare("GET", "/overview")).await;
    let beginning = events.beginning().await;
    assert_eq!(beginning["client"], Value::Null);
    assert_eq!(beginning["samples"].as_array().unwrap().len(), 0);
    assert_eq!(beginning["interval_ms"], 1000);

    events.until(|_| true).await;
    assert_eq!(server.ask(post("/async", JOB)).await.status, 202);
    let sync = r#"{"records": 1, "report_name": "a"}"#;
    assert_eq!(server.ask(post("/sync", sync)).await.status, 200);
    let mut second = Events::open(&server, bare("GET", "/overview")).await;
    // Each may be in a sample of its own.
    let awaited = RefCell::new(HashSet::from(["accepted", "sync", "ack_ms", "sync_ms"]));
    events
        .until(|it| {
            let sample = &it["sample"];
            let is_there = |name: &str| {
                let rate = sample[name].as_f64().is_some_and(|rate| rate > 0.0);
                rate || sample[name][1].is_f64()
            };
            awaited.borrow_mut().retain(|name| !is_there(name));
            awaited.borrow().is_empty()
        })
        .await;
    let beginning = second.beginning().await;
    assert!(!beginning["samples"].as_array().unwrap().is_empty());
    assert_eq!(beginning["now"]["stale"], false);
    second
        .until(|it| it["sample"]["backlog"] == 1 && it["now"]["failures"].is_array())
        .await;
    // What was seen is in the history of those who come later.
    let mut late = Events::open(&server, bare("GET", "/overview")).await;
    let history = late.beginning().await;
    let answered = |it: &Value| it["sync"].as_f64().is_some_and(|rate| rate > 0.0);
    let samples = history["samples"].as_array().unwrap();
    assert!(samples.iter().any(answered), "{history}");
}

#[tokio::test]
async fn workers_are_shown_with_what_they_say_and_rates_follow_their_own_clock() {
    let server = Server::start(&[]).await;
    let receivers = vec![receiver(None, "http://down.example", BreakerState::Open)];
    let (owner, mut report) = reporting_worker(&server.app.store, receivers).await;
    let mut events = Events::open(&server, bare("GET", "/overview")).await;
    events.beginning().await;
    let first = events
        .until(|it| it["now"]["workers"][0]["slots"] == 512)
        .await;
    let worker = &first["now"]["workers"][0];
    assert_eq!(worker["owner"], owner.to_string());
    assert_eq!(worker["lease_ms"], 15_000);
    assert_eq!(
        (&worker["slots_used"], &worker["completed"]),
        (&7.into(), &Value::Null)
    );
    let receiver = &first["now"]["receivers"][0];
    assert_eq!(receiver["origin"], "http://down.example");
    assert_eq!(
        (&receiver["breaker"], &receiver["jobs"]),
        (&"open".into(), &1.into())
    );

    report.uptime_ms += 500;
    report.completed += 100;
    report.failed += 1;
    let ended = Ended::default();
    let store = &server.app.store;
    store.renew_and_report(owner, ended, &report).await.unwrap();
    let second = events.until(|it| it["sample"]["completed"].is_f64()).await;
    assert_eq!(second["sample"]["completed"], 200.0);
    assert_eq!(second["sample"]["failed"], 2.0);
}

#[tokio::test]
async fn a_client_sees_its_own_receivers_and_failures_and_no_worker() {
    let tenants = Tenants::start(&[]).await;
    let store = &tenants.server.app.store;
    let both = ["one", "other"].map(|tenant| {
        let origin = format!("http://{tenant}.example");
        receiver(Some(tenant), &origin, BreakerState::Closed)
    });
    reporting_worker(store, both.into()).await;
    let mut ids = Vec::new();
    for token in [&tenants.one, &tenants.other] {
        let accepted = tenants.ask_as(token, &post("/async", JOB)).await.json();
        let id = accepted["request_id"].as_str().unwrap().to_owned();
        let cancelled = tenants
            .ask_as(token, &bare("DELETE", &format!("/requests/{id}")))
            .await;
        assert_eq!(cancelled.status, 200);
        ids.push(id);
    }
    let request = bearing(&tenants.other, &bare("GET", "/overview"));
    let mut events = Events::open(&tenants.server, request).await;
    let beginning = events.beginning().await;
    assert_eq!(beginning["client"], "other");
    assert!(
        beginning["samples"].is_array(),
        "the metrics are open to clients"
    );
    let seen = events
        .until(|it| it["now"]["failures"][0].is_object())
        .await;
    let now = &seen["now"];
    assert_eq!(now["workers"], Value::Null);
    assert_eq!(now["receivers"].as_array().unwrap().len(), 1);
    assert_eq!(now["receivers"][0]["client"], "other");
    let failures = now["failures"].as_array().unwrap();
    assert_eq!(failures.len(), 1);
    assert_eq!(failures[0]["id"], ids[1]);
    assert_eq!(failures[0]["failure"]["reason"], "cancelled");
    assert_eq!(failures[0]["receiver"], "http://1.1.1.1");
    assert!(!seen.to_string().contains("secret"));
}

#[tokio::test]
async fn with_a_metrics_token_clients_see_no_totals() {
    let metrics = token().hash().to_hex();
    let tenants = Tenants::start(&[("METRICS_TOKEN", &metrics)]).await;
    let request = bearing(&tenants.one, &bare("GET", "/overview"));
    let mut events = Events::open(&tenants.server, request).await;
    assert_eq!(events.beginning().await["samples"], Value::Null);
    let second = events.until(|_| true).await;
    assert_eq!(second["sample"], Value::Null);
    assert!(second["now"]["receivers"].is_array());
}

#[tokio::test]
async fn an_operator_sees_everything_and_a_client_is_refused_there() {
    let operator = token();
    let admins = entry("ops", &operator);
    let tenants = Tenants::start(&[("ADMIN_TOKENS", &admins)]).await;
    let receivers =
        ["one", "other"].map(|it| receiver(Some(it), "http://a.example", BreakerState::Open));
    reporting_worker(&tenants.server.app.store, receivers.into()).await;
    let request = bare("GET", "/admin/overview");
    let mut events = Events::open(&tenants.server, bearing(&operator, &request)).await;
    assert_eq!(events.beginning().await["client"], Value::Null);
    let seen = events.until(|it| it["now"]["workers"][0].is_object()).await;
    assert_eq!(seen["now"]["receivers"].as_array().unwrap().len(), 2);

    let refused = tenants.ask_as(&tenants.one, &request).await;
    assert_eq!(refused.problem(), "403 forbidden");
    let refused = tenants.ask_as(&operator, &bare("GET", "/overview")).await;
    assert_eq!(refused.problem(), "403 forbidden");
    for path in ["/overview", "/admin/overview"] {
        let refused = tenants.server.ask(bare("GET", path)).await;
        assert_eq!(refused.problem(), "401 unauthorized");
        let unknown = Token::generate().unwrap();
        let refused = tenants.ask_as(&unknown, &bare("GET", path)).await;
        assert_eq!(refused.problem(), "401 unauthorized");
    }
    let posted = tenants
        .ask_as(&operator, &post("/admin/overview", "{}"))
        .await;
    assert_eq!(posted.problem(), "405 method-not-allowed");
}

#[tokio::test]
async fn past_the_bound_a_viewer_is_503_until_another_one_leaves() {
    let server = Server::start(&[]).await;
    let request = bare("GET", "/overview");
    let mut viewers = Vec::new();
    for _ in 0..VIEWERS {
        viewers.push(Events::open(&server, &request).await);
    }
    let refused = server.ask(&request).await;
    assert_eq!(refused.problem(), "503 too-many-viewers");
    assert!(refused.header("retry-after").is_some());
    drop(viewers.pop());
    // The place is free once the server has noticed.
    loop {
        let mut client = server.connect().await;
        client.send(&request).await;
        if client.head().await.status == 200 {
            break;
        }
    }
}

#[tokio::test]
async fn head_takes_no_place_and_other_methods_are_405() {
    let server = Server::start(&[]).await;
    let mut client = server.connect().await;
    for _ in 0..=VIEWERS {
        client.send(bare("HEAD", "/overview")).await;
        let head = client.head().await;
        assert_eq!(head.status, 200);
        assert_eq!(head.header("content-type"), Some("text/event-stream"));
    }
    for request in [post("/overview", "{}"), bare("DELETE", "/overview")] {
        let refused = server.ask(request).await;
        assert_eq!(refused.problem(), "405 method-not-allowed");
        assert_eq!(refused.header("allow"), Some("GET, HEAD"));
    }
}

#[tokio::test]
async fn the_shutdown_ends_the_streams_and_does_not_wait_for_them() {
    // Within the test's patience, the drain would wait for an open stream.
    let server = Server::start(&[("DRAIN_TIMEOUT", "10m")]).await;
    let mut events = Events::open(&server, bare("GET", "/overview")).await;
    events.beginning().await;
    server.shutdown.cancel();
    while events.next().await.is_some() {}
    server.ended().await.unwrap();
}

#[tokio::test]
async fn a_removed_token_ends_its_stream() {
    let folder = TempDir::new().unwrap();
    let (one, kept) = (token(), token());
    let file = folder.path().join("storm.toml");
    let write =
        |tokens: &str| std::fs::write(&file, format!("api_tokens = \"{tokens}\"\n")).unwrap();
    let (first, second) = (entry("one", &one), entry("kept", &kept));
    write(&format!("{first},{second}"));
    let mut command = program(folder.path());
    command.env("STORM_CONFIG", &file);
    let service = Service::spawn(command, folder.path()).await;
    service.is_open().await;
    let mut client = Client::connect(service.addr).await;
    let request = bare("GET", "/overview");
    client.send(bearing(&one, &request)).await;
    let mut events = Events::answered(client).await;
    events.beginning().await;
    write(&second);
    service.signal("HUP");
    while events.next().await.is_some() {}
    let refused = service.ask(bearing(&one, &request)).await;
    assert_eq!(refused.problem(), "401 unauthorized");
}
