//! The server's connection limit, timeouts and shutdown, over real sockets.

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Response, service::service_fn};
use storm_shared::server::{self, ConnectionMetrics, Limits, MAX_HEAD};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: here\r\n\r\n";

/// A server that answers "hello" to everything.
fn start(limits: Limits) -> (SocketAddr, CancellationToken, JoinHandle<()>) {
    let listener = server::bind("TEST_ADDR", ([127, 0, 0, 1], 0).into()).unwrap();
    let addr = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let service = service_fn(async |_| {
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"hello"))))
    });
    let stopped = stop.clone().cancelled_owned();
    (
        addr,
        stop,
        tokio::spawn(server::serve(
            listener,
            service,
            limits,
            ConnectionMetrics::default(),
            stopped,
        )),
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
    });
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
async fn every_connection_past_the_limit_is_answered_503_however_many_come_at_once() {
    let limits = Limits {
        connections: 1,
        refusals: 2,
        ..Limits::default()
    };
    let (addr, ..) = start(limits);
    let mut first = TcpStream::connect(addr).await.unwrap();
    first.write_all(REQUEST).await.unwrap();
    assert!(answer(&mut first).await.starts_with("HTTP/1.1 200"));

    let mut others = Vec::new();
    for _ in 0..100 {
        others.push(TcpStream::connect(addr).await.unwrap());
    }
    for other in &mut others {
        assert!(answer(other).await.starts_with("HTTP/1.1 503"));
    }
}

#[tokio::test]
async fn a_process_at_its_connection_limit_is_still_live() {
    let limits = Limits {
        connections: 1,
        ..Limits::default()
    };
    let (addr, ..) = start(limits);
    let mut only = TcpStream::connect(addr).await.unwrap();
    only.write_all(REQUEST).await.unwrap();
    answer(&mut only).await;
    for (path, status) in [("/livez", "200"), ("/readyz", "503"), ("/livezz", "503")] {
        let mut probe = TcpStream::connect(addr).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: here\r\n\r\n");
        probe.write_all(request.as_bytes()).await.unwrap();
        let answer = answer(&mut probe).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
    }
}

#[tokio::test]
async fn connections_in_the_kernels_queue_at_the_close_get_their_answer() {
    let listener = server::bind("TEST_ADDR", ([127, 0, 0, 1], 0).into()).unwrap();
    let addr = listener.local_addr().unwrap();
    let mut queued = Vec::new();
    for _ in 0..50 {
        let mut client = TcpStream::connect(addr).await.unwrap();
        client.write_all(REQUEST).await.unwrap();
        queued.push(client);
    }
    let service = service_fn(async |_| {
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"hello"))))
    });
    // The shutdown is over before the first connection is accepted.
    let closed = std::future::ready(());
    let (limits, connections) = (Limits::default(), ConnectionMetrics::default());
    let serving = server::serve(listener, service, limits, connections, closed);
    let serving = tokio::spawn(serving);
    for client in &mut queued {
        assert!(answer(client).await.starts_with("HTTP/1.1 200"));
    }
    serving.await.unwrap();
    assert!(TcpStream::connect(addr).await.is_err());
}

#[tokio::test]
async fn a_storm_of_connections_waits_in_the_kernels_queue_until_it_is_accepted() {
    let listener = server::bind("TEST_ADDR", ([127, 0, 0, 1], 0).into()).unwrap();
    let addr = listener.local_addr().unwrap();
    let connect = async {
        let mut queued = Vec::new();
        for _ in 0..300 {
            queued.push(TcpStream::connect(addr).await.unwrap());
        }
        queued
    };
    // To a full queue, the kernel does not answer.
    let queued = timeout(Duration::from_secs(20), connect).await;
    assert_eq!(queued.expect("a place for each").len(), 300);
}

#[tokio::test]
async fn a_client_that_sends_no_complete_head_is_disconnected() {
    let limits = Limits {
        header_timeout: Duration::from_millis(50),
        ..Limits::default()
    };
    let (addr, ..) = start(limits);
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
    let (addr, ..) = start(limits);
    let mut stalled = TcpStream::connect(addr).await.unwrap();
    // The server stops reading once it can't write responses, and then closes the connection.
    while stalled.write_all(REQUEST).await.is_ok() {}
}

#[tokio::test]
async fn a_shutdown_closes_idle_connections_and_the_listener() {
    let (addr, stop, loop_) = start(Limits::default());
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
    let error = server::bind("API_ADDR", addr).unwrap_err().to_string();
    assert!(
        error.starts_with(&format!("API_ADDR={addr}: cannot listen on this address")),
        "{error}"
    );
}

/// Everything that the server sends until it closes. The head alone, if there is no body.
async fn everything(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

/// A request whose head has `length` bytes.
fn head_of(length: usize) -> String {
    let filled = |filling: &str| format!("GET / HTTP/1.1\r\nhost: here\r\nx: {filling}\r\n\r\n");
    let without = filled("").len();
    filled(&"x".repeat(length - without))
}

#[tokio::test]
async fn a_head_of_16_kib_is_read_and_one_byte_more_is_431() {
    let (addr, ..) = start(Limits::default());
    let mut client = TcpStream::connect(addr).await.unwrap();
    for _ in 0..2 {
        client
            .write_all(head_of(MAX_HEAD).as_bytes())
            .await
            .unwrap();
        assert!(answer(&mut client).await.starts_with("HTTP/1.1 200"));
    }
    for length in [MAX_HEAD + 1, 2 * MAX_HEAD, 20 * MAX_HEAD] {
        let mut client = TcpStream::connect(addr).await.unwrap();
        client.write_all(head_of(length).as_bytes()).await.unwrap();
        client.shutdown().await.unwrap();
        let refusal = everything(&mut client).await;
        assert!(refusal.starts_with("HTTP/1.1 431 "), "{length}: {refusal}");
    }
}

#[tokio::test]
async fn a_refused_head_is_answered_although_the_client_still_sends_it() {
    let (addr, ..) = start(Limits {
        header_timeout: Duration::from_mins(10),
        ..Limits::default()
    });
    for start in ["GET /", "GET / HTTP/1.1\r\nx: ", "GET / HTTP/1.1\r\n"] {
        let mut client = TcpStream::connect(addr).await.unwrap();
        client.write_all(start.as_bytes()).await.unwrap();
        for _ in 0..25 {
            // Closing with unread input would reset the connection, which fails this.
            client.write_all(&[b'x'; MAX_HEAD]).await.unwrap();
        }
        client.shutdown().await.unwrap();
        let refusal = everything(&mut client).await;
        assert!(refusal.starts_with("HTTP/1.1 431 "), "{start}: {refusal}");
    }
}

#[tokio::test]
async fn a_head_that_grows_slowly_ends_at_16_kib() {
    let (addr, ..) = start(Limits::default());
    let mut client = TcpStream::connect(addr).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nx: ").await.unwrap();
    // Fails once the server has closed, which it does after a bounded rest.
    while client.write_all(&[b'x'; 500]).await.is_ok() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn pipelined_requests_are_all_answered() {
    let (addr, ..) = start(Limits::default());
    let mut client = TcpStream::connect(addr).await.unwrap();
    // Together they are larger than one head may be.
    let count = 3 * MAX_HEAD / REQUEST.len();
    client.write_all(&REQUEST.repeat(count - 1)).await.unwrap();
    let last = b"GET / HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n";
    client.write_all(last).await.unwrap();
    let answers = everything(&mut client).await;
    assert_eq!(answers.matches("HTTP/1.1 200").count(), count);
}
