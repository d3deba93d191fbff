//! `Idempotency-Key`: a submission that is sent again makes no second job.

use std::{collections::HashSet, fmt::Display, fs};

use futures_util::future::join_all;
use serde_json::json;
use tempfile::TempDir;

use crate::{
    auth::{bearing, entry, token},
    client::{Answer, bare, post},
    eventually,
    program_database::Direct,
    redis_server::RedisServer,
    server::Server,
    service::{Service, database, exited_with, program},
};

const JOB: &str = r#"{"records": 10, "report_name": "Q1_Finance"}"#;

/// A `POST /async` of `body` with this key.
pub(crate) fn keyed(key: &str, body: impl Display) -> String {
    with_key(key, &post("/async", body))
}

pub(crate) fn with_key(key: &str, request: &str) -> String {
    request.replacen("\r\n", &format!("\r\nidempotency-key: {key}\r\n"), 1)
}

/// The request of a `202`, which is the first one or not.
pub(crate) fn accepted(answer: &Answer, is_replay: bool) -> String {
    assert_eq!(answer.status, 202, "{}", answer.text());
    let replayed = is_replay.then_some("true");
    assert_eq!(answer.header("idempotent-replayed"), replayed);
    answer.json()["request_id"].as_str().unwrap().to_owned()
}

pub(crate) async fn rows(database: &Direct) -> usize {
    database.count("requests").await
}

#[tokio::test]
async fn a_repeated_submission_gets_the_first_202_again_and_says_so() {
    let server = Server::start(&[]).await;
    let url = "https://hooks.example/a?b=c";
    let body = json!({"records": 10, "report_name": "é", "callback_url": url});
    let first = server.ask(keyed("k", body)).await;
    let id = accepted(&first, false);
    let same = [
        format!(r#"{{"callback_url":"{url}","report_name":"\u00e9","records":10}}"#),
        format!("\n{{\"records\" : 10, \"report_name\": \"é\", \"callback_url\": \"{url}\" }} "),
    ];
    let traced = "\r\ntraceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n";
    for body in same {
        let again = keyed("k", body).replacen("\r\n", traced, 1);
        let again = server.ask(again).await;
        assert_eq!(accepted(&again, true), id);
        assert_eq!(again.text(), first.text());
        assert!(first.json()["expected_at"].is_string());
        assert_eq!(again.header("retry-after"), Some("1"));
        for header in ["location", "content-type"] {
            assert_eq!(again.header(header), first.header(header));
        }
    }
    // The name of a header has no case; a key has one.
    let shouted = keyed("k", JOB).replace("idempotency-key", "IDEMPOTENCY-KEY");
    assert_eq!(server.ask(shouted).await.status, 422);
    accepted(&server.ask(keyed("K", JOB)).await, false);
    assert_eq!(rows(&server.database().await).await, 2);
    // Without a callback, and with null: the same submission.
    let polled = json!({"records": 10, "report_name": "Q1_Finance", "callback_url": null});
    accepted(&server.ask(keyed("K", polled)).await, true);
}

#[tokio::test]
async fn a_key_with_another_submission_is_422_and_says_so() {
    let server = Server::start(&[]).await;
    accepted(&server.ask(keyed("secret-key", JOB)).await, false);
    for body in [
        json!({"records": 11, "report_name": "Q1_Finance"}),
        json!({"records": 10, "report_name": "Q2_Finance"}),
        json!({"records": 10, "report_name": "Q1_Finance", "callback_url": "http://a.example/"}),
    ] {
        let answer = server.ask(keyed("secret-key", body)).await;
        assert_eq!(answer.problem(), "422 idempotency-key-reused");
        assert_eq!(answer.header("idempotent-replayed"), None);
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains("earlier submission") && detail.contains("new key"));
        assert!(!answer.text().contains("secret-key"));
    }
    assert_eq!(rows(&server.database().await).await, 1);
}

#[tokio::test]
async fn an_invalid_or_repeated_key_is_400_and_says_what_to_change() {
    let server = Server::start(&[]).await;
    let mut client = server.connect().await;
    let longest = "k".repeat(255);
    let too_long = "k".repeat(256);
    for (key, advice) in [
        ("", "1 to 255 characters, not 0"),
        ("   ", "1 to 255 characters, not 0"),
        (&too_long, "1 to 255 characters, not 256"),
        ("a b", "without spaces"),
        ("a\tb", "without spaces"),
        ("\u{e9}", "visible ASCII"),
        ("a\r\nidempotency-key: a", "once"),
        ("a\r\nidempotency-key: b", "once"),
        ("a\r\nidempotency-key:", "once"),
    ] {
        client.send(keyed(key, JOB)).await;
        let answer = client.answer().await;
        assert_eq!(answer.problem(), "400 bad-idempotency-key", "{key:?}");
        assert!(answer.text().contains(advice), "{}", answer.text());
    }
    assert_eq!(rows(&server.database().await).await, 0);
    for key in [&longest, "\"quoted\"", "quoted", "a,b", "!~"] {
        client.send(keyed(key, JOB)).await;
        accepted(&client.answer().await, false);
    }
}

#[tokio::test]
async fn a_repeat_needs_no_room_in_the_backlog_and_a_refused_submission_stores_no_key() {
    let server = Server::start(&[("MAX_PARKED_PER_ORIGIN", "1")]).await;
    let to = |path: &str| {
        let url = format!("https://hooks.example{path}");
        json!({"records": 10, "report_name": "a", "callback_url": url})
    };
    let id = accepted(&server.ask(keyed("first", to("/"))).await, false);
    // As after a failed attempt.
    let database = server.database().await;
    let set_claims = async |claims: u32| {
        let claimed = format!("UPDATE requests SET claim = {claims}");
        database.change(1, &claimed).await;
    };
    set_claims(1).await;
    let others = format!("DELETE FROM requests WHERE id <> '{id}'");
    while server.ask(keyed("next", to("/next"))).await.status != 503 {
        // Accepted meanwhile: only the first job is to be left.
        database.run(&others).await;
    }
    database.run(&others).await;
    let refused = server.ask(keyed("next", to("/next"))).await;
    assert_eq!(refused.problem(), "503 receiver-overloaded");
    for _ in 0..2 {
        let again = server.ask(keyed("first", to("/"))).await;
        assert_eq!(accepted(&again, true), id);
    }
    let conflict = server.ask(keyed("first", to("/next"))).await;
    assert_eq!(conflict.problem(), "422 idempotency-key-reused");
    assert_eq!(rows(&database).await, 1);

    set_claims(0).await;
    let other = || server.ask(keyed("next", to("/other")));
    let mut answer = other().await;
    while answer.status == 503 {
        answer = other().await;
    }
    accepted(&answer, false);
    // Nor does a submission that is invalid.
    let invalid = json!({"records": 0, "report_name": "a"});
    let invalid = server.ask(keyed("third", invalid)).await;
    assert_eq!(invalid.problem(), "422 validation");
    accepted(&server.ask(keyed("third", JOB)).await, false);
}

#[tokio::test]
async fn a_repeat_is_answered_while_the_database_refuses_writes() {
    let server = Server::start(&[]).await;
    let id = accepted(&server.ask(keyed("first", JOB)).await, false);
    let lock = server.database().await;
    lock.lock().await;
    assert_eq!(accepted(&server.ask(keyed("first", JOB)).await, true), id);
    let refused = server.ask(keyed("next", JOB)).await;
    assert_eq!(refused.problem(), "503 database-locked");
    lock.unlock().await;
    accepted(&server.ask(keyed("next", JOB)).await, false);
}

/// The one request of all these answers, of which all but one are replays.
fn one_of(answers: &[Answer]) -> String {
    let is_replay = |answer: &&Answer| answer.header("idempotent-replayed").is_some();
    assert_eq!(answers.iter().filter(is_replay).count(), answers.len() - 1);
    let ids: HashSet<_> = answers
        .iter()
        .map(|answer| accepted(answer, is_replay(&answer)))
        .collect();
    assert_eq!(ids.len(), 1, "{ids:?}");
    ids.into_iter().next().unwrap()
}

#[tokio::test]
async fn equal_submissions_at_once_make_one_job_and_one_notification() {
    let redis = RedisServer::start();
    let server = Server::start(&[("REDIS_URL", &redis.url()), ("QUEUE_NAME", "jobs")]).await;
    let answers = join_all((0..50).map(|_| server.ask(keyed("k", JOB)))).await;
    let id = one_of(&answers);
    assert_eq!(rows(&server.database().await).await, 1);
    // The notification of a second job comes after all that the first one's submissions sent.
    let last = accepted(&server.ask(keyed("l", JOB)).await, false);
    let entries = ::redis::cmd("XRANGE").arg(&["jobs", "-", "+"]).clone();
    let notified = || format!("{:?}", redis.command(&entries));
    eventually("the last notification", || notified().contains(&last)).await;
    assert_eq!(notified().matches(&id).count(), 1);
}

#[tokio::test]
async fn equal_submissions_at_two_processes_make_one_job() {
    let folder = TempDir::new().unwrap();
    let services = [Service::start(&folder).await, Service::start(&folder).await];
    let mut ids = Vec::new();
    for round in 0..10 {
        let request = keyed(&format!("key-{round}"), JOB);
        let asked = (0..8).map(|number| services[number % 2].ask(&request));
        ids.push(one_of(&join_all(asked).await));
    }
    assert_eq!(rows(&database(folder.path()).await).await, 10);
    for service in services {
        for id in &ids {
            let found = service.ask(bare("GET", &format!("/requests/{id}"))).await;
            assert_eq!(found.status, 200);
        }
        assert!(exited_with(service.stop().await, 0));
    }
}

#[tokio::test]
async fn the_same_key_of_two_tenants_is_two_keys() {
    let (one, other) = (token(), token());
    let tokens = [entry("one", &one), entry("other", &other)].join(",");
    let server = Server::start(&[("API_TOKENS", &tokens)]).await;
    let submit = |token, body| server.ask(bearing(token, &keyed("k", body)));
    let of_one = accepted(&submit(&one, JOB).await, false);
    let body = r#"{"records": 11, "report_name": "a"}"#;
    let of_other = accepted(&submit(&other, body).await, false);
    assert_eq!(accepted(&submit(&one, JOB).await, true), of_one);
    assert_eq!(accepted(&submit(&other, body).await, true), of_other);
}

#[tokio::test]
async fn other_paths_ignore_the_key_whatever_it_is() {
    let server = Server::start(&[]).await;
    let sync = post("/sync", r#"{"records": 1, "report_name": "a"}"#);
    for key in ["k", "k", "a b"] {
        let answer = server.ask(with_key(key, &sync)).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("idempotent-replayed"), None);
    }
    assert_eq!(rows(&server.database().await).await, 3);
    let page = bare("POST", "/requests/redeliver?status=FAILED");
    assert_eq!(server.ask(with_key("k", &page)).await.status, 202);
    accepted(&server.ask(keyed("k", JOB)).await, false);
}

#[tokio::test]
async fn idempotency_keys_are_never_logged() {
    let folder = TempDir::new().unwrap();
    let mut command = program(folder.path());
    command.env("LOG", "trace");
    let service = Service::spawn(command, folder.path()).await;
    service.is_open().await;
    let other = r#"{"records": 11, "report_name": "a"}"#;
    for (key, body, status) in [
        ("confidential", JOB, 202),
        ("confidential", JOB, 202),
        ("confidential", other, 422),
        ("confidential too", JOB, 400),
    ] {
        assert_eq!(service.ask(keyed(key, body)).await.status, status);
    }
    assert!(exited_with(service.stop().await, 0));
    let said = fs::read_to_string(folder.path().join("api.log")).unwrap();
    assert!(said.contains(r#""level":"TRACE""#), "{said}");
    assert!(!said.contains("confidential"), "{said}");
}

#[tokio::test]
async fn a_key_is_free_for_a_new_job_after_the_window_of_the_setting() {
    let folder = TempDir::new().unwrap();
    let mut command = program(folder.path());
    command.env("IDEMPOTENCY_WINDOW", "1ms");
    let service = Service::spawn(command, folder.path()).await;
    service.is_open().await;
    let first = accepted(&service.ask(keyed("k", JOB)).await, false);
    // Unfinished, it keeps its key.
    assert_eq!(accepted(&service.ask(keyed("k", JOB)).await, true), first);
    let database = database(folder.path()).await;
    let ended = "UPDATE requests SET status = 'COMPLETED', result_payload = '{}', due = NULL";
    database.change(1, ended).await;
    let mut answer = service.ask(keyed("k", JOB)).await;
    while answer.header("idempotent-replayed").is_some() {
        answer = service.ask(keyed("k", JOB)).await;
    }
    assert_ne!(accepted(&answer, false), first);
    assert_eq!(rows(&database).await, 2);
    assert!(exited_with(service.stop().await, 0));
}
