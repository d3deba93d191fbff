//! `GET /healthz`.

use serde_json::json;

use crate::{
    client::{bare, post},
    redis_server::RedisServer,
    server::Server,
};

#[tokio::test]
async fn all_is_well_when_both_answer() {
    let redis = RedisServer::start();
    let server = Server::start(&[("REDIS_URL", &redis.url())]).await;
    let answer = server.ask(bare("GET", "/healthz")).await;
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.json(),
        json!({"status": "ok", "database": "ok", "redis": "ok"})
    );
}

#[tokio::test]
async fn where_there_is_to_be_no_redis_none_is_missed() {
    let server = Server::start(&[("REDIS_URL", "none")]).await;
    let job = r#"{"records": 10, "report_name": "Q1_Finance"}"#;
    assert_eq!(server.ask(post("/async", job)).await.status, 202);
    let answer = server.ask(bare("GET", "/healthz")).await;
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.json(),
        json!({"status": "ok", "database": "ok", "redis": "none"})
    );
}

#[tokio::test]
async fn a_redis_that_is_down_is_named() {
    let server = Server::start(&[]).await;
    let answer = server.ask(bare("GET", "/healthz")).await;
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
async fn a_database_that_is_down_is_named() {
    let redis = RedisServer::start();
    let server = Server::start(&[("REDIS_URL", &redis.url())]).await;
    server.app.store.close().await;
    let answer = server.ask(bare("GET", "/healthz")).await;
    assert_eq!(answer.status, 503);
    let health = answer.json();
    assert_eq!(health["redis"], "ok");
    assert!(
        health["database"] != "ok" && health["status"] != "ok",
        "{health}"
    );
}
