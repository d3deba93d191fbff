//! The server's connection limit, timeouts and shutdown, over real sockets.

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Response, service::service_fn};
use storm_shared::server::{self, Limits};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: here\r\n\r\n";

/// A server that answers "hello" to everything.
async fn start(limits: Limits) -> (SocketAddr, CancellationToken, JoinHandle<()>) {
    let listener = server::bind("TEST_ADDR", ([127, 0, 0, 1], 0).into())
        .await
        .unwrap();
    let addr = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let service = service_fn(async |_| {
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"hello"))))
    });
    let stopped = stop.clone().cancelled_owned();
    (
        addr,
        stop,
        tokio::spawn(server::serve(listener, service, limits, stopped)),
    )
}

/// Reads until the response body has arrived: "hello" or a problem.
async fn answer(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    while !text.ends_with("hello") && !text.ends_with('}') {
        let mut part = [0; 1024];
        let length = stream.read(&mut part).await.unwrap();
        assert!(length > 0, "closed after {text}");
        text.push_str(std::str::from_utf8(&part[..length]).unwrap());
    }
    text
}

#[tokio::test]
async fn a_connection_over_the_limit_gets_503_even_while_it_sends() {
    let (addr, ..) = start(Limits {
        connections: 1,
        ..Limits::default()
    })
    .await;
    let mut first = TcpStream::connect(addr).await.unwrap();
    first.write_all(REQUEST).await.unwrap();
    assert!(answer(&mut first).await.starts_with("HTTP/1.1 200"));

    let mut second = TcpStream::connect(addr).await.unwrap();
    second
        .write_all(b"POST / HTTP/1.1\r\nhost: here\r\ncontent-length: 5\r\n\r\n")
        .await
        .unwrap();
    let refusal = answer(&mut second).await;
    second.write_all(b"hello").await.unwrap(); // a reset would fail this
    assert!(
        refusal.starts_with("HTTP/1.1 503") && refusal.contains("retry-after"),
        "{refusal}"
    );

    drop(first);
    loop {
        let mut next = TcpStream::connect(addr).await.unwrap();
        next.write_all(REQUEST).await.unwrap();
        if answer(&mut next).await.starts_with("HTTP/1.1 200") {
            break; // the server has noticed the first connection's end and freed its slot
        }
    }
}

#[tokio::test]
async fn a_client_that_sends_no_complete_head_is_disconnected() {
    let limits = Limits {
        header_timeout: Duration::from_millis(50),
        ..Limits::default()
    };
    let (addr, ..) = start(limits).await;
    let mut slow = TcpStream::connect(addr).await.unwrap();
    slow.write_all(b"GET / HT").await.unwrap();
    let mut rest = Vec::new();
    let _ = slow.read_to_end(&mut rest).await; // returns at the end or at a reset
}

#[tokio::test]
async fn a_client_that_reads_no_responses_is_disconnected() {
    let limits = Limits {
        header_timeout: Duration::from_millis(50),
        ..Limits::default()
    };
    let (addr, ..) = start(limits).await;
    let mut stalled = TcpStream::connect(addr).await.unwrap();
    // The server stops reading once it can't write responses, and then closes the connection.
    while stalled.write_all(REQUEST).await.is_ok() {}
}

#[tokio::test]
async fn a_shutdown_closes_idle_connections_and_the_listener() {
    let (addr, stop, loop_) = start(Limits::default()).await;
    let mut idle = TcpStream::connect(addr).await.unwrap();
    idle.write_all(REQUEST).await.unwrap();
    answer(&mut idle).await;
    stop.cancel();
    loop_.await.unwrap();
    assert_eq!(idle.read(&mut [0; 1]).await.unwrap(), 0);
    assert!(TcpStream::connect(addr).await.is_err());
}

#[tokio::test]
async fn an_address_in_use_is_an_error_that_names_its_setting() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = taken.local_addr().unwrap();
    let error = server::bind("API_ADDR", addr)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with(&format!("API_ADDR={addr}: cannot listen on this address")),
        "{error}"
    );
}
