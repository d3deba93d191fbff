//! `POST /async`.

use std::time::Duration;

use futures_util::{StreamExt, stream::FuturesUnordered};
use jiff::Timestamp;
use serde_json::json;

use crate::{client::post, eventually, redis_server::RedisServer, server::Server};

const JOB: &str = r#"{"records": 10, "report_name": "Q1_Finance"}"#;

#[tokio::test]
async fn async_returns_202_with_the_request_id_and_its_location() {
    let server = Server::start(&[]).await;
    let url = "HTTPS://hooks.example:443/a/../b?token=1";
    let body = json!({"records": 10, "report_name": "Q1_Finance", "callback_url": url});
    let answer = server.ask(post("/async", body)).await;
    assert_eq!(answer.status, 202);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let id = answer.json()["request_id"].as_str().unwrap().to_owned();
    assert_eq!(
        answer.header("location"),
        Some(format!("/requests/{id}").as_str())
    );
    let message = format!("Report generation started. We will call you back at {url}");
    let expected_at = answer.json()["expected_at"].take();
    let body = json!({"request_id": id, "status": "pending", "expected_at": expected_at,
        "message": message});
    assert_eq!(answer.json(), body);
}

#[tokio::test]
async fn a_202_says_when_the_job_should_be_done_and_when_to_look() {
    let server = Server::start(&[]).await;
    for (records, takes) in [(1, 10), (1000, 10_000), (100_000, 1_000_000)] {
        let body = json!({"records": records, "report_name": "a"});
        let before = Timestamp::now();
        let answer = server.ask(post("/async", body)).await;
        let after = Timestamp::now();
        let expected = answer.json()["expected_at"].as_str().unwrap().to_owned();
        assert_eq!(expected.len(), "2026-11-24T08:00:00.000Z".len());
        let expected: Timestamp = expected.parse().unwrap();
        // Nothing waits: it is the job's own length. In whole milliseconds, as `created_at`.
        let created = expected - Duration::from_millis(takes);
        let (least, most) = (before - Duration::from_millis(1), after);
        assert!(
            (least..=most).contains(&created),
            "{created} not in {least}..{most}"
        );
        let seconds: u64 = answer.header("retry-after").unwrap().parse().unwrap();
        let since = u64::try_from(after.duration_since(before).as_secs()).unwrap() + 1;
        let whole = takes.div_ceil(1000);
        let least = whole.saturating_sub(since).max(1);
        assert!(
            (least..=whole).contains(&seconds),
            "{seconds} not in {least}..{whole}"
        );
    }
}

#[tokio::test]
async fn without_a_callback_url_the_message_says_to_poll() {
    let server = Server::start(&[]).await;
    let answer = server.ask(post("/async", JOB)).await;
    let message = answer.json()["message"].as_str().unwrap().to_owned();
    let location = answer.header("location").unwrap();
    assert!(message.contains(&format!("GET {location}")), "{message}");
}

#[tokio::test]
async fn the_row_is_committed_before_the_202_even_if_redis_is_down() {
    let server = Server::start(&[]).await;
    let mut client = server.connect().await;
    let database = server.database().await;
    for _ in 0..20 {
        client.send(post("/async", JOB)).await;
        let answer = client.answer().await;
        assert_eq!(answer.status, 202);
        let id = answer.json()["request_id"].as_str().unwrap().to_owned();
        let row = database
            .rows(&format!(
                "SELECT mode, status, callback_url, input_payload FROM requests WHERE id = '{id}'"
            ))
            .await;
        let [row] = row.try_into().unwrap();
        let row = row.iter().map(Option::as_deref).collect::<Vec<_>>();
        assert_eq!(row[..3], [Some("async"), Some("PENDING"), None]);
        let input: serde_json::Value = serde_json::from_str(row[3].unwrap()).unwrap();
        assert_eq!(input, json!({"records": 10, "report_name": "Q1_Finance"}));
    }
}

#[tokio::test]
async fn an_unresponsive_redis_does_not_delay_async() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let redis = format!("redis://{}", silent.local_addr().unwrap());
    let unsynced = ("DB_SYNCHRONOUS", "normal");
    let server = Server::start(&[("REDIS_URL", &redis), unsynced]).await;
    let mut client = server.connect().await;
    // More than the notifier's channel holds. Excess notifications are dropped without waiting.
    for _ in 0..9000 {
        client.send(post("/async", JOB)).await;
        assert_eq!(client.answer().await.status, 202);
    }
    assert_eq!(server.database().await.count("requests").await, 9000);
}

#[tokio::test]
async fn an_accepted_job_is_notified_in_redis() {
    let redis = RedisServer::start();
    let server = Server::start(&[("REDIS_URL", &redis.url()), ("QUEUE_NAME", "jobs")]).await;
    let answer = server.ask(post("/async", JOB)).await;
    let id = answer.json()["request_id"].as_str().unwrap().to_owned();
    let entries = ::redis::cmd("XRANGE").arg(&["jobs", "-", "+"]).clone();
    let notified = || format!("{:?}", redis.command(&entries)).contains(&id);
    eventually("the notification", notified).await;
}

#[tokio::test]
async fn writes_beyond_the_write_queue_return_503_and_the_rest_are_accepted() {
    let server = Server::start(&[("DB_WRITE_QUEUE", "1")]).await;
    let lock = server.database().await;
    lock.lock().await;
    let mut asking: FuturesUnordered<_> = (0..6).map(|_| server.ask(post("/async", JOB))).collect();
    // No write can commit while the lock is held, so the first response is a refusal.
    let first = asking.next().await.unwrap();
    assert_eq!(first.problem(), "503 overloaded");
    assert!(first.header("retry-after").is_some());
    lock.unlock().await;
    let accepted = asking
        .filter(|answer| std::future::ready(answer.status == 202))
        .count()
        .await;
    assert!(accepted >= 1);
    assert_eq!(lock.count("requests").await, accepted, "one row per 202");
}

#[tokio::test]
async fn a_locked_database_returns_503_until_the_lock_is_released() {
    let server = Server::start(&[]).await;
    let lock = server.database().await;
    lock.lock().await;
    let refused = server.ask(post("/async", JOB)).await;
    assert_eq!(refused.problem(), "503 database-locked");
    assert!(refused.header("retry-after").is_some());
    lock.unlock().await;
    assert_eq!(server.ask(post("/async", JOB)).await.status, 202);
    let rows = lock.count("requests").await;
    assert_eq!(rows, 1, "the refused job has no row");
}

#[tokio::test]
async fn a_chunked_body_is_accepted() {
    let server = Server::start(&[]).await;
    let (head, tail) = JOB.split_at(7);
    let request = format!(
        "POST /async HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\
         content-type: application/json; charset=utf-8\r\n\r\n\
         {:x}\r\n{head}\r\n{:x}\r\n{tail}\r\n0\r\n\r\n",
        head.len(),
        tail.len()
    );
    assert_eq!(server.ask(request).await.status, 202);
}

#[tokio::test]
async fn a_loopback_callback_is_accepted_if_callback_allow_permits_it() {
    let server = Server::start(&[("CALLBACK_ALLOW", "127.0.0.0/8,::1/128")]).await;
    for url in [
        "http://localhost:8001/webhook",
        "http://127.0.0.1:8001/",
        "http://[::1]/",
    ] {
        let body = json!({"records": 1, "report_name": "a", "callback_url": url});
        assert_eq!(server.ask(post("/async", body)).await.status, 202, "{url}");
    }
}
