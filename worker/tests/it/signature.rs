//! The signature, id and timestamp of a callback, as a receiver verifies them.
//!
//! Signatures are verified with the library that the authors of Standard Webhooks publish.

use std::{
    process::Command,
    sync::atomic::{AtomicI64, Ordering},
};

use bytes::Bytes;
use hyper::{HeaderMap, Request};
use jiff::{SignedDuration, Timestamp};
use standardwebhooks::{Webhook, WebhookError};
use storm_shared::{
    config::Settings,
    models::{CallbackUrl, RequestId, Traceparent},
    services::{
        signature::{ID, SIGNATURE, Signer, TIMESTAMP, Verifier},
        ssrf::Policy,
        store::{NewJob, Store},
    },
};
use storm_worker::delivery::{CallbackClient, Message, Network};
use tempfile::TempDir;

use crate::{
    process::WorkerProcess,
    program_database,
    receiver::Receiver,
    rows::{Rows as _, spec},
    stack::Stack,
};

const OLD: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const NEW: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD8VzF3/4b0Qk=";
const PRIVATE: &str = "whsk_VEVTVFNJR05JTkdLRVlET05PVFVTRVRISVNGT1JBTlk=";
const PUBLIC: &str = "whpk_ZlN4eg7dSSqi0moX9hQUk3orrOouK3QVQSlJa248c/g=";

fn verified(secret: &str, headers: &HeaderMap, body: &[u8]) -> Result<(), WebhookError> {
    Webhook::new(secret).unwrap().verify(body, headers)
}

fn header<'a>(callback: &'a Request<Bytes>, name: &str) -> &'a str {
    callback.headers()[name].to_str().unwrap()
}

#[tokio::test]
async fn every_attempt_verifies_under_each_secret_with_the_standard_library() {
    let mut receiver = Receiver::answering(|nth, _| if nth < 2 { 500 } else { 200 }).await;
    let secrets = format!("{NEW}, {OLD} {PRIVATE}");
    let stack = Stack::without_redis(&[("CALLBACK_SIGNING_SECRETS", &secrets)]).await;
    let id = stack.accept(1, Some(receiver.url())).await;
    let mut bodies = Vec::new();
    for _ in 0..3 {
        let callback = receiver.next_whole().await;
        assert_eq!(header(&callback, "webhook-id"), id.to_string());
        let (headers, body) = (callback.headers().clone(), callback.into_body());
        for secret in [NEW, OLD] {
            verified(secret, &headers, &body).unwrap();
        }
        let public = Verifier::parse(PUBLIC).unwrap();
        public.verify(&headers, &body, Timestamp::now()).unwrap();
        let kinds: Vec<_> = headers[SIGNATURE]
            .to_str()
            .unwrap()
            .split(' ')
            .map(|signature| signature.split(',').next().unwrap())
            .collect();
        assert_eq!(kinds, ["v1", "v1", "v1a"]);
        bodies.push(body);
    }
    assert!(bodies.iter().all(|body| *body == bodies[0]));
    stack.stop().await;
}

#[tokio::test]
async fn verification_fails_with_another_secret_or_a_changed_callback() {
    let mut receiver = Receiver::answering(|_, _| 200).await;
    let stack = Stack::without_redis(&[("CALLBACK_SIGNING_SECRETS", OLD)]).await;
    stack.accept(1, Some(receiver.url())).await;
    let callback = receiver.next_whole().await;
    let (headers, body) = (callback.headers().clone(), callback.into_body());
    verified(OLD, &headers, &body).unwrap();
    let is_rejected = |secret, headers: &HeaderMap, body: &[u8]| {
        let result = verified(secret, headers, body);
        matches!(result, Err(WebhookError::InvalidSignature))
    };
    assert!(is_rejected(NEW, &headers, &body));
    let text = std::str::from_utf8(&body).unwrap();
    let changed = text.replace("\"records\":1", "\"records\":2");
    assert!(changed != text && is_rejected(OLD, &headers, changed.as_bytes()));
    let later = Timestamp::now().as_second() + 60;
    for (name, value) in [
        (ID, RequestId::generate().to_string()),
        (TIMESTAMP, later.to_string()),
    ] {
        let mut changed = headers.clone();
        changed.insert(&name, value.parse().unwrap());
        assert!(is_rejected(OLD, &changed, &body), "{name}");
    }
    stack.stop().await;
}

#[tokio::test]
async fn each_attempt_is_signed_with_its_own_timestamp_and_the_same_id_and_bytes() {
    let mut receiver = Receiver::answering(|_, _| 500).await;
    let (begun, attempts) = (Timestamp::now(), AtomicI64::new(0));
    let clock = move || {
        let seconds = attempts.fetch_add(1, Ordering::Relaxed);
        begun + SignedDuration::from_secs(seconds)
    };
    let network = Network::system();
    let policy = Policy::parse("127.0.0.1/32").unwrap();
    let timeout = std::time::Duration::from_mins(1);
    let client = CallbackClient::new(policy, network, timeout, None)
        .unwrap()
        .signing_with(Signer::parse(OLD).unwrap())
        .by_clock(clock);
    let message = Message {
        id: RequestId::generate(),
        body: Bytes::from_static(b"{}"),
        traceparent: Traceparent::of(RequestId::generate()),
    };
    let url = CallbackUrl::parse(&receiver.url()).unwrap();
    let mut signatures = Vec::new();
    for attempt in 0..3 {
        client.attempt(&url, &message).await.unwrap_err();
        let callback = receiver.next_whole().await;
        let at = begun.as_second() + attempt;
        assert_eq!(header(&callback, "webhook-timestamp"), at.to_string());
        assert_eq!(header(&callback, "webhook-id"), message.id.to_string());
        signatures.push(header(&callback, "webhook-signature").to_owned());
        assert_eq!(callback.body(), &message.body);
        verified(OLD, callback.headers(), callback.body()).unwrap();
    }
    assert!(signatures[0] != signatures[1] && signatures[1] != signatures[2]);
}

#[tokio::test]
async fn without_a_secret_a_callback_has_an_id_and_a_timestamp_but_no_signature() {
    let mut receiver = Receiver::answering(|_, _| 200).await;
    let stack = Stack::without_redis(&[]).await;
    let id = stack.accept(1, Some(receiver.url())).await;
    let callback = receiver.next_whole().await;
    assert_eq!(header(&callback, "webhook-id"), id.to_string());
    assert!(
        header(&callback, "webhook-timestamp")
            .parse::<i64>()
            .is_ok()
    );
    assert!(!callback.headers().contains_key(SIGNATURE));
    stack.stop().await;
}

#[tokio::test]
async fn every_attempt_carries_the_traceparent_of_its_request() {
    let mut receiver = Receiver::answering(|nth, _| if nth < 2 { 500 } else { 200 }).await;
    let stack = Stack::without_redis(&[]).await;
    let traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let url = CallbackUrl::parse(&receiver.url()).unwrap();
    let job = NewJob {
        traceparent: Some(traceparent.parse().unwrap()),
        ..NewJob::new(RequestId::generate(), spec(1), Some(url))
    };
    let id = job.id;
    stack.store.accept(job).await.unwrap();
    for _ in 0..3 {
        let callback = receiver.next_whole().await;
        assert_eq!(header(&callback, "traceparent"), traceparent);
    }
    let row = stack.ended(id).await;
    assert_eq!(row.traceparent.to_string(), traceparent);
    stack.stop().await;
}

#[tokio::test]
async fn secrets_appear_neither_in_the_log_nor_in_the_metrics() {
    let mut receiver = Receiver::answering(|nth, _| if nth == 0 { 500 } else { 200 }).await;
    let folder = TempDir::new().unwrap();
    let database = program_database::url(folder.path());
    let settings = Settings::with([("DB_URL", database.as_str())]).unwrap();
    let store = Store::open(&settings.store).await.unwrap();
    let secrets = format!("{OLD} {PRIVATE}");
    let worker = WorkerProcess::start(
        folder.path(),
        &[
            ("CALLBACK_SIGNING_SECRETS", &secrets),
            ("CALLBACK_RETRY_DELAYS", "10ms"),
            ("LOG", "debug"),
        ],
    );
    let url = CallbackUrl::parse(&receiver.url()).unwrap();
    let job = NewJob::new(RequestId::generate(), spec(1), Some(url));
    let trace = Traceparent::of(job.id).trace_id();
    store.accept(job).await.unwrap();
    for _ in 0..2 {
        let callback = receiver.next_whole().await;
        verified(OLD, callback.headers(), callback.body()).unwrap();
    }
    worker.logs("callback attempt failed").await;
    assert!(worker.log().contains(&trace), "the log names the trace");
    let shown = worker.log() + &worker.get("/metrics").await.unwrap();
    for secret in [OLD, PRIVATE] {
        let (_, secret) = secret.split_once('_').unwrap();
        assert!(!shown.contains(secret), "{shown}");
    }
}

#[test]
fn an_invalid_secret_stops_startup_and_is_not_printed() {
    let output = Command::new(env!("CARGO_BIN_EXE_storm-worker"))
        .env_clear()
        .env("CALLBACK_SIGNING_SECRETS", format!("{OLD}, {NEW}x"))
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{text}");
    let message = "CALLBACK_SIGNING_SECRETS=(hidden): the 2nd key must be base64";
    assert!(
        text.contains(message) && text.lines().count() == 1,
        "{text}"
    );
    assert!(
        !text.contains(&OLD[6..]) && !text.contains(&NEW[6..]),
        "{text}"
    );
}
