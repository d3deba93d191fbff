//! What an endpoint gets.

use hyper::{HeaderMap, header::HeaderName};
use jiff::{SignedDuration, Timestamp};
use standardwebhooks::Webhook;
use storm_shared::{live::Live, memory::MemoryBudget, services::signature::Signer};
use storm_worker::{
    delivery::Network,
    handler::Handler as _,
    handlers::http::{HttpClient, HttpEndpoint, HttpHandler},
};
use tokio::sync::mpsc;

use super::{
    CONCURRENCY, ID, MAX_RESULT, PATIENT, SECRET, TRACEPARENT, attempt, context, endpoint, handler,
    job,
};
use crate::delivery::{
    names::Names,
    scripted::{Receiver, events, read_request, write},
};

const OLD: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const NEW: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD8VzF3/4b0Qk=";

/// Answers `null` on every connection, and reports each request.
fn reporting() -> (Receiver, mpsc::Receiver<String>) {
    let (report, reported) = events();
    let receiver = Receiver::start(move |_, stream| {
        while let Some(request) = read_request(stream) {
            let _ = report.blocking_send(request);
            write(stream, "HTTP/1.1 204 No Content\r\n\r\n");
        }
    });
    (receiver, reported)
}

/// The sorted lines of a request's head, and its body.
fn parts(request: &str) -> (Vec<&str>, &str) {
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    let mut lines: Vec<_> = head.lines().collect();
    lines.sort_unstable();
    (lines, body)
}

fn header<'a>(request: &'a str, name: &str) -> &'a str {
    let (lines, _) = parts(request);
    let value = lines
        .iter()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    value.unwrap()
}

#[tokio::test]
async fn the_payload_is_posted_with_its_id_attempt_deadline_and_trace() {
    let (receiver, mut requests) = reporting();
    let now: Timestamp = "2026-11-29T12:00:00.123456Z".parse().unwrap();
    let url = format!("http://{}/a/../hook", receiver.address);
    let handler = handler(endpoint(&url)).by_clock(move || now);
    let payload = "{\"é\": [1.0,  \"\\u0000\"], \"é\":2}";
    let result = handler.run(&job(payload), &context(PATIENT)).await;
    assert_eq!(result.unwrap().as_str(), "null");

    let request = requests.recv().await.unwrap();
    let deadline = header(&request, "storm-deadline");
    assert_eq!(
        deadline.len(),
        "2026-11-29T12:00:00.123Z".len(),
        "{deadline}"
    );
    assert!(deadline.ends_with('Z'));
    let deadline_line = format!("storm-deadline: {deadline}");
    let deadline: Timestamp = deadline.parse().unwrap();
    let latest = now + SignedDuration::try_from(PATIENT).unwrap();
    assert!(now < deadline && deadline <= latest, "{deadline}");

    let (lines, body) = parts(&request);
    let version = env!("CARGO_PKG_VERSION");
    let expected = [
        &format!("POST /hook?{SECRET} HTTP/1.1"),
        "accept-encoding: identity",
        &format!("authorization: {SECRET}"),
        &format!("content-length: {}", payload.len()),
        "content-type: application/json",
        &format!("host: {}", receiver.address),
        &format!("idempotency-key: {ID}"),
        "storm-attempt: 2",
        &deadline_line,
        &format!("traceparent: {TRACEPARENT}"),
        &format!("user-agent: request-storm-handler/{version}"),
    ];
    assert_eq!(lines, expected);
    assert_eq!(body, payload);
}

#[tokio::test]
async fn each_attempt_verifies_under_each_secret_with_the_standard_library() {
    let (receiver, mut requests) = reporting();
    let signed = HttpEndpoint {
        signer: Signer::parse(&format!("{NEW} {OLD}")).unwrap(),
        ..endpoint(&receiver.url())
    };
    let handler = handler(signed);
    for _ in 0..2 {
        attempt(&handler, PATIENT).await.unwrap();
        let request = requests.recv().await.unwrap();
        let (lines, body) = parts(&request);
        let headers: HeaderMap = lines
            .iter()
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap()))
            .collect();
        assert_eq!(headers["webhook-id"], ID);
        for secret in [NEW, OLD] {
            let verifier = Webhook::new(secret).unwrap();
            verifier.verify(body.as_bytes(), &headers).unwrap();
            assert!(verifier.verify(b"{ }", &headers).is_err());
        }
    }
}

#[tokio::test]
async fn fixed_headers_are_sent_and_change_neither_our_headers_nor_the_framing() {
    let (receiver, mut requests) = reporting();
    let mut with_headers = endpoint(&receiver.url());
    for (name, value) in [
        ("x-kind", "a"),
        ("x-kind", "b"),
        ("storm-attempt", "99"),
        ("idempotency-key", "mine"),
        ("content-type", "text/plain"),
        ("host", "elsewhere.test"),
        ("content-length", "1"),
        ("transfer-encoding", "chunked"),
        ("connection", "close"),
        ("expect", "100-continue"),
    ] {
        let name: HeaderName = name.parse().unwrap();
        with_headers.headers.append(name, value.parse().unwrap());
    }
    let handler = handler(with_headers);
    for _ in 0..2 {
        attempt(&handler, PATIENT).await.unwrap();
        let request = requests.recv().await.unwrap();
        let (lines, body) = parts(&request);
        for line in [
            "x-kind: a",
            "x-kind: b",
            "storm-attempt: 2",
            "content-type: application/json",
            "content-length: 2",
            &format!("idempotency-key: {ID}"),
            &format!("host: {}", receiver.address),
        ] {
            assert!(lines.contains(&line), "{line} in {lines:?}");
        }
        assert_eq!(lines.len(), 13, "{lines:?}");
        assert_eq!(body, "{}");
    }
    assert_eq!(receiver.connections(), 1);
}

#[tokio::test]
async fn a_payload_adds_no_header_and_no_request() {
    let (receiver, mut requests) = reporting();
    let handler = handler(endpoint(&receiver.url()));
    let payload =
        "{\r\n\r\n\"a\":\r\n\r\n\"POST /admin HTTP/1.1\\r\\nx: y\\r\\n\\r\\n\"\r\n}\r\n\r\n";
    for _ in 0..3 {
        let result = handler.run(&job(payload), &context(PATIENT)).await;
        result.unwrap();
        let request = requests.recv().await.unwrap();
        let (lines, body) = parts(&request);
        assert_eq!(lines[0], format!("POST /hook?{SECRET} HTTP/1.1"));
        assert_eq!(lines.len(), 11, "{lines:?}");
        assert_eq!(body, payload);
    }
    assert_eq!(receiver.connections(), 1);
    assert!(requests.try_recv().is_err());
}

#[tokio::test]
async fn a_changed_endpoint_gets_the_next_attempt() {
    let ((before, mut to_before), (after, mut to_after)) = (reporting(), reporting());
    let live = Live::new(endpoint(&before.url()));
    let network = Network::with_resolver(Names::none());
    let client = HttpClient::new(network, None).unwrap();
    let memory = MemoryBudget::new(MAX_RESULT);
    let handler = HttpHandler::new(client, live.clone(), CONCURRENCY, memory);
    attempt(&handler, PATIENT).await.unwrap();
    live.set(endpoint(&after.url()));
    attempt(&handler, PATIENT).await.unwrap();
    to_before.recv().await.unwrap();
    to_after.recv().await.unwrap();
    assert_eq!((before.connections(), after.connections()), (1, 1));
}
