//! The memory that connections take before their request is complete.

use std::{fs, net::SocketAddr};

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};

use crate::{
    PATIENCE,
    service::{self, Service},
};

/// Connections at the same time.
const CONNECTIONS: usize = 200;

/// How far each request goes, in bytes. Buffered, these would take 80 MiB for all connections.
const LENGTH: usize = 400 << 10;

/// What they may take together. A bounded head takes 16 KiB for each.
const BOUND: usize = 20 << 20;

/// The largest amount of memory that the service has had so far, in bytes.
fn peak(service: &Service) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", service.pid())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = peak.unwrap().trim().trim_end_matches(" kB");
    kib.parse::<usize>().unwrap() << 10
}

/// Sends `start`, and then `filling` until [`LENGTH`].
async fn send(stream: &mut TcpStream, start: &str, filling: &str) {
    let request = format!("{start}{}", filling.repeat(LENGTH / filling.len()));
    let _ = stream.write_all(request.as_bytes()).await; // fails if the server has closed
}

/// What the server answers, up to its end.
async fn answer(mut stream: TcpStream) -> String {
    let _ = stream.shutdown().await;
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    let _ = timeout(PATIENCE, read).await.expect("an end");
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn no_connection_takes_more_memory_than_a_bounded_head_before_its_request_is_complete() {
    let folder = TempDir::new().unwrap();
    let mut command = service::program(folder.path());
    command.envs([("HTTP_TIMEOUT", "10m"), ("METRICS_ADDR", "127.0.0.1:0")]);
    let service = Service::spawn(command, folder.path()).await;
    service.is_open().await;
    let metrics = service.says("metrics").await;
    let metrics: SocketAddr = metrics["addr"].as_str().unwrap().parse().unwrap();
    let before = peak(&service);
    let chunked = "POST /async HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
        content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
    let extension = format!("{chunked}1;");
    let trailer = format!("{chunked}2\r\n{{}}\r\n0\r\nx: ");
    let unread = "POST /async HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
        content-length: 10000000\r\n\r\n";
    for (addr, start, filling, status) in [
        (service.addr, "GET /", "x", 431),
        (service.addr, "GET / HTTP/1.1\r\nx: ", "x", 431),
        (service.addr, "GET / HTTP/1.1\r\n", "x: y\r\n", 431),
        (service.addr, "", "\r\n", 431),
        (service.addr, &extension, "x", 400),
        (service.addr, &trailer, "x", 400),
        (service.addr, unread, "x", 415),
        (metrics, "GET / HTTP/1.1\r\nx: ", "x", 431),
    ] {
        let mut sending = JoinSet::new();
        for _ in 0..CONNECTIONS {
            let mut stream = TcpStream::connect(addr).await.unwrap();
            let start = start.to_owned();
            sending.spawn(async move {
                send(&mut stream, &start, filling).await;
                stream
            });
        }
        // None of them is closed before all have sent everything.
        let streams = sending.join_all().await;
        let taken = peak(&service) - before;
        assert!(taken < BOUND, "{start} took {taken} bytes");
        for stream in streams {
            let answer = answer(stream).await;
            let expected = format!("HTTP/1.1 {status} ");
            assert!(answer.starts_with(&expected), "{start}: {answer}");
        }
    }
}
