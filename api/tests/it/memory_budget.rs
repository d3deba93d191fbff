//! The memory budget: bodies past it are refused, and what is refused can be sent again.

use serde_json::json;
use storm_shared::memory::Reservation;
use tokio::{sync::watch, task::JoinSet};

use crate::{
    client::{Client, post},
    eventually,
    server::Server,
};

/// The smallest budget.
const BUDGET: (&str, &str) = ("MEMORY_BUDGET", "8MiB");

/// A valid body of `length` bytes.
fn body(length: usize) -> String {
    let body = json!({"records": 1, "report_name": "a"}).to_string();
    format!("{body:length$}")
}

/// Takes all but `left` bytes of the budget, as the bodies of other requests do.
fn take_all_but(server: &Server, left: usize) -> Reservation {
    let memory = &server.app.memory;
    memory.reserve_up_to(memory.limit() - left).unwrap()
}

async fn nothing_is_reserved(server: &Server) {
    eventually("all memory is given back", || {
        server.app.memory.reserved() == 0
    })
    .await;
}

#[tokio::test]
async fn a_body_past_the_memory_budget_is_503_and_accepted_once_there_is_room() {
    let server = Server::start(&[BUDGET]).await;
    let chunked = |path| {
        let start = format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
             transfer-encoding: chunked\r\n\r\n"
        );
        format!("{start}40\r\n{}\r\n40\r\n{:64}\r\n0\r\n\r\n", body(64), "")
    };
    for (path, status) in [("/async", 202), ("/sync", 200)] {
        for request in [post(path, body(128)), chunked(path)] {
            let others = take_all_but(&server, 100);
            let mut client = server.connect().await;
            client.send(&request).await;
            let answer = client.answer().await;
            assert_eq!(answer.problem(), "503 memory-budget-exceeded");
            assert_eq!(answer.header("retry-after"), Some("1"));
            assert_eq!(server.app.memory.reserved(), others.bytes());
            // A smaller one fits.
            client.send(post(path, body(100))).await;
            assert_eq!(client.answer().await.status, status);
            drop(others);
            client.send(&request).await;
            assert_eq!(client.answer().await.status, status);
            nothing_is_reserved(&server).await;
        }
    }
}

#[tokio::test]
async fn the_largest_payload_that_is_refused_is_answered_also_if_it_is_sent_to_its_end_first() {
    const MOST: usize = 4 << 20;
    let handler = [
        ("HANDLERS__PDF__URL", "http://127.0.0.1:9/"),
        ("HANDLERS__PDF__MAX_PAYLOAD", "4MiB"),
    ];
    let server = Server::start(&[&[BUDGET], &handler[..]].concat()).await;
    let payload = format!("{{\"payload\": \"{}\"}}", "x".repeat(MOST - 2));
    let submit = async |path: &str, header: &str| {
        let request = post(path, &payload).replacen("\r\n\r\n", header, 1);
        let mut client = server.connect().await;
        // Only then the answer is read, as simple clients do.
        client.send(request).await;
        client.answer().await
    };
    let plain = "\r\n\r\n";
    let others = take_all_but(&server, 100);
    let refused = submit("/async/pdf", plain).await;
    assert_eq!(refused.problem(), "503 memory-budget-exceeded");
    // So are others that are refused by their head.
    for (path, header, problem) in [
        ("/async/none", plain, "404 unknown-handler"),
        ("/async", plain, "413 body-too-large"),
        (
            "/async/pdf",
            "\r\norigin: http://evil.example\r\n\r\n",
            "403 cross-origin",
        ),
    ] {
        assert_eq!(submit(path, header).await.problem(), problem);
    }
    drop(others);
    assert_eq!(submit("/async/pdf", plain).await.status, 202);
    nothing_is_reserved(&server).await;
}

#[tokio::test]
async fn a_slow_client_takes_what_it_has_sent_and_gives_it_back_when_it_leaves() {
    let server = Server::start(&[BUDGET]).await;
    let others = take_all_but(&server, 1000);
    let mut slow = server.connect().await;
    let request = post("/async", body(900));
    slow.send(&request[..request.len() - 300]).await;
    eventually("the first 600 bytes are read", || {
        server.app.memory.reserved() == others.bytes() + 600
    })
    .await;
    let mut client = server.connect().await;
    client.send(post("/async", body(401))).await;
    let answer = client.answer().await;
    assert_eq!(answer.problem(), "503 memory-budget-exceeded");
    client.send(post("/async", body(400))).await;
    assert_eq!(client.answer().await.status, 202);
    drop(slow);
    drop(others);
    nothing_is_reserved(&server).await;
}

#[tokio::test]
async fn an_invalid_body_is_given_back() {
    let server = Server::start(&[BUDGET]).await;
    let mut client = server.connect().await;
    for (body, status) in [("{", 400), ("{}", 422)] {
        client.send(post("/async", body)).await;
        assert_eq!(client.answer().await.status, status);
    }
    nothing_is_reserved(&server).await;
}

#[tokio::test]
async fn a_storm_of_slow_bodies_stays_within_the_budget_and_the_api_recovers() {
    const CLIENTS: usize = 600;
    const LENGTH: usize = 16_000;
    // On a busy machine the clients may take long to send what they have.
    let server = Server::start(&[BUDGET, ("HTTP_TIMEOUT", "5m")]).await;
    let (memory, addr) = (server.app.memory.clone(), server.addr);
    let fit = memory.limit() / LENGTH;
    assert!(fit < CLIENTS);
    // Each leaves out its last byte, until it is told.
    let request = post("/async", body(LENGTH));
    let (tell, told) = watch::channel(false);
    let mut answers = JoinSet::new();
    for _ in 0..CLIENTS {
        let (request, mut told) = (request.clone(), told.clone());
        answers.spawn(async move {
            let mut client = Client::connect(addr).await;
            client.send(&request[..request.len() - 1]).await;
            tokio::select! {
                biased;
                _ = client.has_answer() => {}
                () = async { drop(told.changed().await) } => client.send_if_open(" ").await,
            }
            // A client that sends on when it is refused can lose the answer to a reset (RFC 9112,
            // section 9.6).
            match client.has_answer().await {
                Ok(()) => client.answer().await.status,
                Err(_reset) => 503,
            }
        });
    }
    // They can't all fit, and none can end.
    eventually("a body is refused", || {
        assert!(memory.reserved() <= memory.limit());
        server.app.metrics.render().contains(r#"status="503""#)
    })
    .await;
    tell.send_replace(true);
    let statuses = answers.join_all().await;
    let count = |status| statuses.iter().filter(|it| **it == status).count();
    let (accepted, refused) = (count(202), count(503));
    assert_eq!(accepted + refused, CLIENTS, "{statuses:?}");
    assert!(accepted > 0 && refused > 0, "{accepted} {refused}");
    nothing_is_reserved(&server).await;
    assert_eq!(server.database().await.count("requests").await, accepted);
    assert_eq!(server.ask(&request).await.status, 202);
}
