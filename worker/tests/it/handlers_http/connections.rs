//! Keep-alive, cancellation and the memory of bodies.

use std::{
    sync::{Arc, Barrier, Mutex, mpsc},
    time::Duration,
};

use futures_util::future::join_all;
use storm_shared::{memory::MemoryBudget, models::AttemptClass};
use storm_worker::{
    delivery::Network,
    handler::Next,
    handlers::http::{HttpClient, HttpHandler},
};

use super::{CONCURRENCY, PATIENT, answering, attempt, endpoint, handler, handler_in};
use crate::delivery::{
    names::Names,
    scripted::{Receiver, events, read_request, wait_for_end, write},
};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

fn handler_of(receiver: &Receiver, memory: &MemoryBudget) -> HttpHandler {
    let client = HttpClient::new(Network::with_resolver(Names::none()), None).unwrap();
    handler_in(client, endpoint(&receiver.url()), memory.clone())
}

#[tokio::test]
async fn attempts_share_a_connection_whatever_they_are_answered() {
    for head in ["200 OK", "500 No", "404 No\r\ncontent-type: text/plain"] {
        let receiver = answering(head, "x".repeat(1000));
        let handler = handler(endpoint(&receiver.url()));
        for _ in 0..20 {
            let _ = attempt(&handler, PATIENT).await;
        }
        assert_eq!(receiver.connections(), 1, "{head}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_connections_are_kept_as_attempts_run_at_a_time() {
    const MANY: usize = 2 * CONCURRENCY;
    // Each answer waits for all requests, so that each needs a connection.
    let barrier = Barrier::new(MANY);
    let receiver = Receiver::start(move |_, stream| {
        while read_request(stream).is_some() {
            barrier.wait();
            write(stream, OK);
        }
    });
    let handler = handler(endpoint(&receiver.url()));
    for connections in [MANY, MANY + CONCURRENCY] {
        let attempts = (0..MANY).map(|_| attempt(&handler, PATIENT));
        for result in join_all(attempts).await {
            result.unwrap();
        }
        assert_eq!(receiver.connections(), connections);
    }
    handler.keep_at_most(MANY);
    let attempts = (0..MANY).map(|_| attempt(&handler, PATIENT));
    join_all(attempts).await;
    let before = receiver.connections();
    let attempts = (0..MANY).map(|_| attempt(&handler, PATIENT));
    join_all(attempts).await;
    assert_eq!(receiver.connections(), before);
}

#[tokio::test]
async fn an_attempt_that_is_dropped_closes_its_connection() {
    for answer in [
        "",
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nx",
    ] {
        let (report, mut reported) = events();
        let receiver = Receiver::start(move |_, stream| {
            read_request(stream);
            write(stream, answer);
            let _ = report.blocking_send("answered");
            wait_for_end(stream);
            let _ = report.blocking_send("closed");
        });
        let memory = MemoryBudget::new(10);
        let handler = handler_of(&receiver, &memory);
        tokio::select! {
            _ = attempt(&handler, PATIENT) => unreachable!("the answer does not end"),
            event = reported.recv() => assert_eq!(event, Some("answered")),
        }
        assert_eq!(reported.recv().await, Some("closed"), "{answer}");
        assert_eq!(memory.reserved(), 0);
    }
}

#[tokio::test]
async fn a_payload_is_not_sent_twice_in_one_attempt() {
    let (report, mut reported) = events();
    let receiver = Receiver::start(move |_, stream| {
        read_request(stream);
        write(stream, OK);
        read_request(stream);
        let _ = report.blocking_send(());
    });
    let handler = handler(endpoint(&receiver.url()));
    attempt(&handler, PATIENT).await.unwrap();
    let failure = attempt(&handler, PATIENT).await.unwrap_err();
    reported.recv().await.unwrap();
    assert_eq!(failure.next, Next::Retry { after: None });
    assert_eq!(failure.class, AttemptClass::Interrupted);
    assert_eq!(receiver.connections(), 1);
}

#[tokio::test]
async fn a_connection_that_the_endpoint_closes_is_replaced() {
    let receiver = Receiver::start(|_, stream| {
        read_request(stream);
        write(
            stream,
            "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
        );
    });
    let handler = handler(endpoint(&receiver.url()));
    for connections in 1..=3 {
        attempt(&handler, PATIENT).await.unwrap();
        assert_eq!(receiver.connections(), connections);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_counts_in_the_memory_budget_also_past_its_limit() {
    let (go_on, may_go_on) = mpsc::channel::<()>();
    let may_go_on = Arc::new(Mutex::new(may_go_on));
    let receiver = Receiver::start(move |_, stream| {
        read_request(stream);
        let head =
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 300\r\n\r\n";
        write(stream, &format!("{head}[1,{}", " ".repeat(247)));
        let _ = may_go_on.lock().unwrap().recv();
        write(stream, &format!("2]{}", " ".repeat(48)));
    });
    let memory = MemoryBudget::new(10);
    let handler = Arc::new(handler_of(&receiver, &memory));
    let running = tokio::spawn(async move { attempt(&handler, PATIENT).await });
    while memory.reserved() < 250 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    go_on.send(()).unwrap();
    let output = running.await.unwrap().unwrap();
    // The white space at the end is no part of the result.
    assert_eq!((output.as_str().len(), memory.reserved()), (252, 252));
    let (json, held) = output.into_parts();
    assert_eq!((json.get().len(), memory.reserved()), (252, 252));
    drop(held);
    assert_eq!(memory.reserved(), 0);
}

#[tokio::test]
async fn a_result_holds_what_it_has_become() {
    let memory = MemoryBudget::new(10);
    let text = answering("200 OK\r\ncontent-type: text/plain", "\0".repeat(100));
    let handler = handler_of(&text, &memory);
    let output = attempt(&handler, PATIENT).await.unwrap();
    assert_eq!((output.as_str().len(), memory.reserved()), (602, 602));
    let clone = output.clone();
    drop(output);
    assert_eq!(memory.reserved(), 602);
    drop(clone);
    assert_eq!(memory.reserved(), 0);
}
