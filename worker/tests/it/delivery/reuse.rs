//! Keep-alive: reuse of pooled connections.

use std::time::Duration;

use super::{
    PATIENT, class, loopback_client,
    scripted::{Receiver, events, read_request, wait_for_end, write},
};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

#[tokio::test]
async fn sequential_attempts_share_one_keep_alive_connection() {
    let receiver = Receiver::answering(OK);
    let client = loopback_client(PATIENT);
    for _ in 0..100 {
        assert_eq!(class(&client, &receiver.url()).await, Ok(200));
    }
    assert_eq!(receiver.connections(), 1);
}

#[tokio::test]
async fn a_non_2xx_response_keeps_the_connection_alive() {
    let receiver = Receiver::answering("HTTP/1.1 500 No\r\ncontent-length: 2\r\n\r\nno");
    let client = loopback_client(PATIENT);
    for _ in 0..3 {
        assert_eq!(class(&client, &receiver.url()).await, Err("status"));
    }
    assert_eq!(receiver.connections(), 1);
}

#[tokio::test]
async fn a_pooled_connection_is_never_used_for_another_origin() {
    let (one, other) = (Receiver::answering(OK), Receiver::answering(OK));
    let client = loopback_client(PATIENT);
    for receiver in [&one, &other, &one, &other] {
        assert_eq!(class(&client, &receiver.url()).await, Ok(200));
    }
    assert_eq!((one.connections(), other.connections()), (1, 1));
}

#[tokio::test]
async fn a_reused_connection_that_the_receiver_closed_is_replaced_within_the_attempt() {
    let (report, mut reported) = events();
    let receiver = Receiver::start(move |_, stream| {
        read_request(stream);
        write(stream, OK);
        let _ = stream.shutdown(std::net::Shutdown::Both);
        let _ = report.blocking_send(());
    });
    let client = loopback_client(PATIENT);
    for connections in 1..=20 {
        assert_eq!(class(&client, &receiver.url()).await, Ok(200));
        reported.recv().await.unwrap();
        tokio::task::yield_now().await; // the client's connection task reads the close
        assert_eq!(receiver.connections(), connections);
    }
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_the_idle_timeout() {
    let (report, mut reported) = events();
    let receiver = Receiver::start(move |_, stream| {
        read_request(stream);
        write(stream, OK);
        wait_for_end(stream);
        let _ = report.blocking_send(());
    });
    let client = loopback_client(PATIENT);
    assert_eq!(class(&client, &receiver.url()).await, Ok(200));

    assert!(
        reported.try_recv().is_err(),
        "the connection is closed too early"
    );
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(5)).await;
    tokio::time::resume();
    reported.recv().await.unwrap();
}

#[tokio::test]
async fn a_dropped_client_closes_its_idle_connections() {
    let (report, mut reported) = events();
    let receiver = Receiver::start(move |_, stream| {
        read_request(stream);
        write(stream, OK);
        wait_for_end(stream);
        let _ = report.blocking_send(());
    });
    let client = loopback_client(PATIENT);
    assert_eq!(class(&client, &receiver.url()).await, Ok(200));
    drop(client);
    reported.recv().await.unwrap();
}
