//! Callbacks that go out twice within an attempt: the repeat is recorded.

use std::io;

use storm_shared::models::{EventKind, Status};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

use crate::{rows::Rows as _, stack::Stack};

/// Answers the first request of each connection, and reports every request. It closes a connection
/// at its second request, without an answer.
async fn answers_once(listener: TcpListener, requests: mpsc::Sender<()>) {
    while let Ok((connection, _)) = listener.accept().await {
        let requests = requests.clone();
        tokio::spawn(async move { serve(connection, &requests).await });
    }
}

async fn serve(mut connection: TcpStream, requests: &mpsc::Sender<()>) -> io::Result<()> {
    // A callback is one write of less than this.
    let mut request = [0; 4096];
    if connection.read(&mut request).await? == 0 {
        return Ok(());
    }
    let _ = requests.send(()).await;
    let ok = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    connection.write_all(ok).await?;
    if connection.read(&mut request).await? > 0 {
        let _ = requests.send(()).await;
    }
    Ok(())
}

#[tokio::test]
async fn a_repeat_over_a_new_connection_is_recorded_and_costs_no_attempt() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let (send, mut requests) = mpsc::channel(1000);
    let receiver = tokio::spawn(answers_once(listener, send));
    let stack = Stack::without_redis(&[("CALLBACK_RETRY_DELAYS", "")]).await;

    // Until a job has met a connection that was still warm: an idle one is closed after a while.
    let (mut jobs, mut events) = (0, Vec::new());
    while events.is_empty() {
        let id = stack.accept(1, Some(url.clone())).await;
        let row = stack.ended(id).await;
        assert_eq!((row.status, row.attempts.len()), (Status::Completed, 1));
        events = row.events;
        jobs += 1;
    }
    let events: Vec<_> = events
        .iter()
        .map(|event| (event.event, event.claim))
        .collect();
    assert_eq!(events, [(EventKind::Resent, 1)]);
    for _ in 0..=jobs {
        requests.recv().await.unwrap();
    }
    assert!(requests.try_recv().is_err(), "each job once, and one twice");
    stack.stop().await;
    receiver.abort();
}
