//! `GET /livez` and `GET /readyz`, from the start to the end of a process.

use std::net::SocketAddr;

use serde_json::json;
use storm_shared::shutdown::Shutdown;
use tempfile::TempDir;
use tokio::{net::TcpListener, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    PATIENCE,
    client::{Answer, Client, bare, post},
    program_database::{Direct, folder_on_sqlite},
    redis_server::RedisServer,
    server::{Server, settings},
    service::{Service, exited_with, program},
};

const JOB: &str = r#"{"records": 10, "report_name": "Q1_Finance"}"#;

async fn ask(addr: SocketAddr, request: String) -> Answer {
    let mut client = Client::connect(addr).await;
    client.send(request).await;
    client.answer().await
}

async fn get(addr: SocketAddr, path: &str) -> Answer {
    ask(addr, bare("GET", path)).await
}

async fn is_ready(addr: SocketAddr) -> bool {
    get(addr, "/readyz").await.status == 200
}

/// Asks until the answer has this status.
async fn ready_turns(addr: SocketAddr, status: u16) -> Answer {
    let turns = async {
        loop {
            let answer = get(addr, "/readyz").await;
            if answer.status == status {
                return answer;
            }
        }
    };
    timeout(PATIENCE, turns).await.expect("a change")
}

#[tokio::test]
async fn the_process_is_live_and_not_ready_while_its_database_opens_and_while_it_drains() {
    let folder = TempDir::new().unwrap();
    let lock = Direct::open(folder.path()).await;
    lock.lock_opening().await;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let shutdown = Shutdown {
        begun: CancellationToken::new(),
        closing: CancellationToken::new(),
    };
    let tokens = format!("a:{:064x}", 1); // the probes have none
    let settings = settings(&folder, &[("API_TOKENS", &tokens)]);
    let running = tokio::spawn(storm_api::run(listener, settings, shutdown.clone()));

    assert_eq!(get(addr, "/livez").await.status, 200);
    let starting = get(addr, "/readyz").await;
    assert_eq!(starting.status, 503);
    assert_eq!(
        starting.json(),
        json!({"status": "starting", "database": "not open yet"})
    );
    assert_eq!(
        get(addr, "/healthz").await.problem(),
        "503 database-unavailable"
    );

    lock.unlock().await;
    let ready = ready_turns(addr, 200).await.json();
    assert_eq!(ready["status"], "ready");
    assert_eq!(ready["database"], "ok");
    assert_eq!(get(addr, "/livez").await.json(), json!({"status": "alive"}));

    // Until the closing, new connections are served, and told that the process is not ready.
    let mut kept_alive = Client::connect(addr).await;
    kept_alive.send(bare("GET", "/livez")).await;
    assert_eq!(kept_alive.answer().await.header("connection"), None);
    shutdown.begun.cancel();
    kept_alive.send(bare("GET", "/livez")).await;
    let last = kept_alive.answer().await;
    assert_eq!(
        (last.status, last.header("connection")),
        (200, Some("close"))
    );
    assert!(kept_alive.is_closed().await);
    let draining = get(addr, "/readyz").await;
    assert_eq!(draining.status, 503);
    assert!(draining.header("retry-after").is_some());
    assert_eq!(draining.json(), json!({"status": "draining"}));
    assert_eq!(get(addr, "/livez").await.status, 200);
    let refused = get(addr, "/requests/x").await;
    assert_eq!(
        (refused.status, refused.header("connection")),
        (401, Some("close"))
    );
    assert!(!running.is_finished());

    shutdown.closing.cancel();
    timeout(PATIENCE, running)
        .await
        .expect("an end")
        .unwrap()
        .unwrap();
    assert!(TcpListener::bind(addr).await.is_ok(), "it listens no more");
}

#[tokio::test]
async fn no_client_delays_the_end_of_a_start_that_fails() {
    let folder = folder_on_sqlite();
    std::fs::write(folder.path().join("storm.db"), "no database").unwrap();
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let mut unfinished = Client::connect(listener.local_addr().unwrap()).await;
    unfinished.send("GET /liv".to_owned()).await;
    let settings = settings(&folder, &[("DRAIN_TIMEOUT", "30d")]);
    let run = storm_api::run(listener, settings, CancellationToken::new());
    let ended = timeout(PATIENCE, run).await.expect("an end");
    assert!(ended.unwrap_err().to_string().contains("DB_URL"));
}

#[tokio::test]
async fn probes_answer_head_like_get() {
    let server = Server::start(&[("REDIS_URL", "none")]).await;
    for path in ["/livez", "/readyz", "/healthz"] {
        let mut client = server.connect().await;
        client.send(bare("HEAD", path)).await;
        assert_eq!(client.head().await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn without_redis_the_api_is_ready_and_says_what_is_down() {
    let server = Server::start(&[]).await;
    let answer = get(server.addr, "/readyz").await;
    assert_eq!(answer.status, 200);
    let ready = answer.json();
    assert_eq!(
        (&ready["status"], &ready["database"]),
        (&json!("ready"), &json!("ok"))
    );
    assert!(
        ready["redis"] != "ok" && ready["redis"].is_string(),
        "{ready}"
    );

    let none = Server::start(&[("REDIS_URL", "none")]).await;
    assert_eq!(get(none.addr, "/readyz").await.json()["redis"], "none");
    let redis = RedisServer::start();
    let with = Server::start(&[("REDIS_URL", &redis.url())]).await;
    assert_eq!(get(with.addr, "/readyz").await.json()["redis"], "ok");
}

#[tokio::test]
async fn the_api_is_not_ready_while_its_database_is_out_of_reach_and_ready_again_afterwards() {
    let server = Server::start(&[]).await;
    ready_turns(server.addr, 200).await;
    let lock = server.database().await;
    lock.lock().await;
    let unready = ready_turns(server.addr, 503).await.json();
    assert_eq!(unready["status"], "unavailable");
    assert_ne!(unready["database"], "ok");
    assert_eq!(get(server.addr, "/livez").await.status, 200);
    lock.unlock().await;
    ready_turns(server.addr, 200).await;
}

/// A process that keeps accepting for an hour after SIGTERM.
async fn patient(folder: &TempDir) -> Service {
    let mut command = program(folder.path());
    command.env("SHUTDOWN_DELAY", "1h");
    let service = Service::spawn(command, folder.path()).await;
    service.is_open().await;
    service
}

#[tokio::test]
async fn after_sigterm_the_api_accepts_for_the_delay_and_a_second_signal_ends_it_at_once() {
    let folder = TempDir::new().unwrap();
    let service = patient(&folder).await;
    service.signal("TERM");
    service.says("shutting down").await;
    assert!(!is_ready(service.addr).await);
    assert_eq!(service.ask(post("/async", JOB)).await.status, 202);
    service.signal("TERM");
    assert!(exited_with(service.ended().await, 143));
}

#[tokio::test]
async fn sigint_skips_the_delay() {
    let folder = TempDir::new().unwrap();
    let service = patient(&folder).await;
    service.signal("INT");
    assert!(exited_with(service.ended().await, 0));
}
