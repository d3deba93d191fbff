//! `GET /livez`, `GET /readyz` and `GET /healthz` of a worker, from its start to its end.

use std::{sync::Arc, time::Duration};

use tempfile::TempDir;

use crate::{
    process::WorkerProcess,
    program_database::Direct,
    stack::{NO_REDIS, Stack},
};

/// Status and body of an answer.
fn parts(answer: &str) -> (&str, &str) {
    let status = answer.strip_prefix("HTTP/1.1 ").unwrap();
    (&status[..3], answer.split_once("\r\n\r\n").unwrap().1)
}

async fn is(worker: &WorkerProcess, path: &str, status: &str, body: &str) {
    let answer = worker.get(path).await.unwrap();
    assert_eq!(parts(&answer), (status, body), "{path}");
}

async fn ready_turns(worker: &WorkerProcess, status: &str) -> String {
    loop {
        let answer = worker.get("/readyz").await.unwrap();
        if parts(&answer).0 == status {
            return answer;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_worker_answers_from_its_start_to_the_end_of_its_drain() {
    let folder = TempDir::new().unwrap();
    let database = Direct::open(folder.path()).await;
    database.lock_opening().await;
    let worker = WorkerProcess::start(folder.path(), &[("DRAIN_TIMEOUT", "1h")]);
    is(&worker, "/livez", "200", r#"{"status":"alive"}"#).await;
    let starting = r#"{"status":"starting","database":"not open yet"}"#;
    is(&worker, "/readyz", "503", starting).await;
    let unhealthy = r#"{"status":"unavailable","database":"not open yet"}"#;
    is(&worker, "/healthz", "503", unhealthy).await;
    assert_eq!(worker.healthcheck().await, Some(1));
    let metrics = worker.get("/metrics").await.unwrap();
    assert!(metrics.contains("storm_worker_jobs 0"), "{metrics}");

    database.unlock().await;
    let ready = ready_turns(&worker, "200").await;
    let all = r#"{"status":"ready","database":"ok","redis":"none","claims":"ok","heartbeat":"ok"}"#;
    assert_eq!(parts(&ready).1, all);
    for path in ["/livez", "/readyz", "/healthz", "/metrics"] {
        let answer = worker.ask("HEAD", path).await.unwrap();
        assert_eq!(parts(&answer), ("200", ""), "{path}");
    }

    // A job of a thousand seconds holds the drain.
    let due = database.either("0", "'epoch'");
    let insert = format!(
        r#"INSERT INTO requests (id, mode, status, input_payload, created_at, due) VALUES (
            '0193b7a2-5d3c-7e21-9f0a-3c5b8e6d1f42', 'async', 'PENDING',
            '{{"records": 100000, "report_name": "Q1_Finance"}}',
            '2026-01-01T00:00:00.000Z', {due})"#
    );
    database.change(1, &insert).await;
    while !worker
        .get("/metrics")
        .await
        .unwrap()
        .contains("storm_worker_jobs 1")
    {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    worker.signal("TERM");
    worker.logs("shutting down").await;
    ready_turns(&worker, "503").await;
    is(&worker, "/readyz", "503", r#"{"status":"draining"}"#).await;
    is(&worker, "/livez", "200", r#"{"status":"alive"}"#).await;
    worker.signal("TERM");
    assert_eq!(worker.ended().await.code(), Some(143));
}

#[tokio::test]
async fn another_path_or_method_is_a_problem_that_says_what_there_is() {
    let folder = TempDir::new().unwrap();
    let worker = WorkerProcess::start(folder.path(), &[]);
    ready_turns(&worker, "200").await;
    for (method, path, status, name) in [
        ("GET", "/", "404", "not-found"),
        ("POST", "/livez/x", "404", "not-found"),
        ("POST", "/livez", "405", "method-not-allowed"),
        ("POST", "/readyz", "405", "method-not-allowed"),
        ("DELETE", "/healthz", "405", "method-not-allowed"),
        ("PUT", "/metrics", "405", "method-not-allowed"),
    ] {
        let answer = worker.ask(method, path).await.unwrap();
        let (shown, body) = parts(&answer);
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(shown, status, "{method} {path}");
        assert_eq!(body["type"], format!("urn:storm:problem:{name}"));
        assert_eq!(body["status"].to_string(), status);
        let named = if status == "404" {
            "GET /metrics"
        } else {
            "GET, HEAD"
        };
        assert!(body["detail"].as_str().unwrap().contains(named), "{body}");
        let head = answer.to_ascii_lowercase();
        assert!(head.contains("content-type: application/problem+json"));
        assert_eq!(head.contains("\r\nallow: get, head\r\n"), status == "405");
    }
}

#[tokio::test]
async fn without_redis_a_worker_is_ready_and_says_what_is_down() {
    let stack = Stack::start(Arc::new(TempDir::new().unwrap()), NO_REDIS, &[]).await;
    let ready = loop {
        let answer = stack.get("/readyz").await;
        if parts(&answer).0 == "200" {
            break answer;
        }
    };
    assert!(ready.contains(r#""status":"ready""#), "{ready}");
    assert!(ready.contains(r#""redis":"unreachable""#), "{ready}");
    stack.stop().await;
}

#[tokio::test]
async fn a_worker_is_not_ready_while_its_database_is_out_of_reach_and_ready_again_afterwards() {
    let folder = TempDir::new().unwrap();
    let worker = WorkerProcess::start(folder.path(), &[("WORKER_LEASE", "1h")]);
    ready_turns(&worker, "200").await;
    let lock = Direct::open(folder.path()).await;
    lock.lock().await;
    let unready = ready_turns(&worker, "503").await;
    assert!(unready.contains(r#""status":"unavailable""#), "{unready}");
    assert!(unready.contains(r#""heartbeat":"ok""#), "{unready}");
    lock.unlock().await;
    ready_turns(&worker, "200").await;
}

#[tokio::test]
async fn a_worker_without_jobs_that_ends_while_its_database_is_locked_has_lost_none() {
    let folder = TempDir::new().unwrap();
    let worker = WorkerProcess::start(folder.path(), &[("LOG", "info")]);
    ready_turns(&worker, "200").await;
    let lock = Direct::open(folder.path()).await;
    lock.lock().await;
    worker.signal("TERM");
    worker.logs("this worker's row stays").await;
    let log = worker.log();
    assert!(!log.contains("could not be returned"), "{log}");
    assert!(worker.ended().await.success());
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn with_few_descriptors_a_worker_answers_past_its_bounds_and_runs_its_jobs() {
    use tokio::{io::AsyncReadExt as _, net::TcpStream};

    let folder = TempDir::new().unwrap();
    let overrides = [("HTTP_TIMEOUT", "10m"), ("LOG", "info")];
    let worker = WorkerProcess::start_with_descriptors(64, folder.path(), &overrides);
    worker.logs("the limit of open files").await;
    ready_turns(&worker, "200").await;
    let mut idle = Vec::new();
    for _ in 0..100 {
        idle.push(TcpStream::connect(worker.addr()).await.unwrap());
    }
    let refused = worker.get("/healthz").await.unwrap();
    assert!(refused.starts_with("HTTP/1.1 503"), "{refused}");
    assert!(refused.contains("too-many-connections"), "{refused}");
    // The last ones were refused with an answer.
    let mut answer = [0; 12];
    let last = idle.last_mut().unwrap();
    last.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 503");
    drop(idle);
    worker.until_shown("/healthz", "HTTP/1.1 200").await;
    let lines = worker.log().lines().count();
    assert!(lines < 10, "{lines} lines");
}
