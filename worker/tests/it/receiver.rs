//! A callback receiver on a free loopback port with scripted responses.

use std::{convert::Infallible, net::SocketAddr};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::{Request, Response, StatusCode, body::Incoming, service::service_fn};
use storm_shared::server;
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
};

/// A receiver and the callbacks that it received.
pub(crate) struct Receiver {
    addr: SocketAddr,
    received: mpsc::Receiver<Request<Bytes>>,
}

impl Receiver {
    /// Answers the n-th POST (from 0) with the status that `answer` gives for it and its body.
    pub(crate) async fn answering(
        answer: impl Fn(usize, &[u8]) -> u16 + Clone + Send + Sync + 'static,
    ) -> Self {
        Self::answering_when(move |nth, body| std::future::ready(answer(nth, &body))).await
    }

    /// Answers every POST with 200 once the sender is dropped.
    pub(crate) async fn held() -> (Self, watch::Sender<()>) {
        let (release, released) = watch::channel(());
        let receiver = Self::answering_when(move |_, _| {
            let mut released = released.clone();
            async move {
                let _ = released.changed().await;
                200
            }
        });
        (receiver.await, release)
    }

    /// Like `answering`, with an asynchronous `answer`. A callback is recorded before it runs.
    pub(crate) async fn answering_when<F>(
        answer: impl Fn(usize, Bytes) -> F + Clone + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = u16> + Send,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (record, received) = mpsc::channel(10_000);
        let count = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let service = service_fn(move |request: Request<Incoming>| {
            let (answer, record, count) = (answer.clone(), record.clone(), count.clone());
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect().await.unwrap().to_bytes();
                let nth = count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                let callback = Request::from_parts(parts, body.clone());
                record.send(callback).await.unwrap();
                let status = StatusCode::from_u16(answer(nth, body).await).unwrap();
                let answer = Response::builder()
                    .status(status)
                    .body(Empty::<Bytes>::new());
                Ok::<_, Infallible>(answer.unwrap())
            }
        });
        let limits = server::Limits::default();
        tokio::spawn(server::serve(
            listener,
            service,
            limits,
            server::ConnectionMetrics::default(),
            std::future::pending(),
        ));
        Self { addr, received }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/webhook?token=1", self.addr)
    }

    /// The body of the next callback.
    pub(crate) async fn next(&mut self) -> Bytes {
        self.next_whole().await.into_body()
    }

    /// The next callback, with its headers.
    pub(crate) async fn next_whole(&mut self) -> Request<Bytes> {
        self.received.recv().await.unwrap()
    }

    /// The bodies of the callbacks that were received and not yet taken.
    pub(crate) fn more(&mut self) -> Vec<Bytes> {
        std::iter::from_fn(|| self.received.try_recv().ok())
            .map(Request::into_body)
            .collect()
    }
}
