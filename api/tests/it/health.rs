//! `GET /healthz`.

use std::time::Duration;

use serde_json::json;
use tokio::time::sleep;

use crate::{
    client::{LATE, bare, health, post},
    redis_server::RedisServer,
    server::Server,
};

#[tokio::test]
async fn healthz_returns_200_if_database_and_redis_respond() {
    let redis = RedisServer::start();
    let server = Server::start(&[("REDIS_URL", &redis.url())]).await;
    let answer = health(server.addr).await;
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.checks(),
        json!({"status": "ok", "database": "ok", "redis": "ok"})
    );
}

#[tokio::test]
async fn healthz_returns_200_if_redis_is_disabled() {
    let server = Server::start(&[("REDIS_URL", "none")]).await;
    let job = r#"{"records": 10, "report_name": "Q1_Finance"}"#;
    assert_eq!(server.ask(post("/async", job)).await.status, 202);
    let answer = health(server.addr).await;
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.checks(),
        json!({"status": "ok", "database": "ok", "redis": "none"})
    );
}

#[tokio::test]
async fn healthz_and_metrics_of_an_idle_api_report_what_redis_would_refuse() {
    let redis = RedisServer::start();
    let server = Server::start(&[("REDIS_URL", &redis.url())]).await;
    let shown = async |words: &str, up: u8| {
        while health(server.addr).await.json()["redis"] != words {
            sleep(Duration::from_millis(20)).await;
        }
        let up = format!("storm_api_redis_up{{task=\"notifier\"}} {up}");
        while !server
            .ask(bare("GET", "/metrics"))
            .await
            .text()
            .contains(&up)
        {
            sleep(Duration::from_millis(20)).await;
        }
    };
    for (fault, repair, words) in [
        (
            "REPLICAOF 127.0.0.1 1",
            "REPLICAOF NO ONE",
            "read-only replica",
        ),
        (
            "SET high_priority x",
            "DEL high_priority",
            "wrong type at QUEUE_NAME",
        ),
        (
            "CONFIG SET maxmemory 1",
            "CONFIG SET maxmemory 0",
            "out of memory (maxmemory)",
        ),
        (
            "ACL SETUSER default -xadd",
            "ACL SETUSER default +xadd",
            "permission denied (ACL)",
        ),
    ] {
        redis.run(fault);
        shown(words, 0).await;
        redis.run(repair);
        shown("ok", 1).await;
    }
    let metrics = server.ask(bare("GET", "/metrics")).await;
    let dropped = r#"storm_api_dropped_notifications_total{why="redis"} 0"#;
    assert!(metrics.text().contains(dropped), "{}", metrics.text());
}

#[tokio::test]
async fn healthz_returns_503_if_redis_is_down() {
    let server = Server::start(&[]).await;
    let answer = health(server.addr).await;
    assert_eq!(answer.status, 503);
    assert!(answer.header("retry-after").is_some());
    let health = answer.json();
    assert_eq!(health["database"], "ok");
    assert!(
        health["redis"] != "ok" && health["status"] != "ok",
        "{health}"
    );
}

#[tokio::test]
async fn healthz_reports_a_locked_database() {
    let server = Server::start(&[("REDIS_URL", "none")]).await;
    let lock = server.database().await;
    lock.lock().await;
    // The first checks time out; the writer reports `locked` once its lock wait has failed.
    loop {
        let answer = server.ask(bare("GET", "/healthz")).await;
        assert_eq!(answer.status, 503);
        let health = answer.json();
        if health["database"] == "locked" {
            break;
        }
        assert_eq!(health["database"], LATE);
    }
    lock.unlock().await;
    let well = async || server.ask(bare("GET", "/healthz")).await.status == 200;
    while !well().await {}
}
