//! An endpoint of an HTTP handler that answers each request after some seconds, for the benchmark.
//!
//! Usage: `slow_endpoint ADDRESS:PORT SECONDS`. `GET /most` answers with the most requests that it
//! had to answer at a time; every other request is work.

use std::{
    convert::Infallible,
    env,
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Request, Response, body::Incoming, header::CONTENT_TYPE, server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

const USAGE: &str = "usage: slow_endpoint ADDRESS:PORT SECONDS";

struct InFlight {
    work: Duration,
    now: AtomicUsize,
    most: AtomicUsize,
}

async fn answer(request: Request<Incoming>, requests: Arc<InFlight>) -> hyper::Result<Bytes> {
    if request.uri().path() == "/most" {
        return Ok(requests.most.load(Ordering::SeqCst).to_string().into());
    }
    let now = requests.now.fetch_add(1, Ordering::SeqCst) + 1;
    requests.most.fetch_max(now, Ordering::SeqCst);
    let read = request.into_body().collect().await;
    tokio::time::sleep(requests.work).await;
    requests.now.fetch_sub(1, Ordering::SeqCst);
    read.map(|_| Bytes::from_static(b"\"done\""))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let (Some(address), Some(seconds)) = (arguments.next(), arguments.next()) else {
        return Err(USAGE.into());
    };
    let seconds = seconds.parse().map_err(|_| USAGE)?;
    let listener = TcpListener::bind(address).await?;
    let requests = Arc::new(InFlight {
        work: Duration::from_secs(seconds),
        now: AtomicUsize::new(0),
        most: AtomicUsize::new(0),
    });
    loop {
        let (connection, _) = listener.accept().await?;
        connection.set_nodelay(true)?;
        let requests = Arc::clone(&requests);
        let service = service_fn(move |request| {
            let requests = Arc::clone(&requests);
            async move {
                let body = answer(request, requests).await.unwrap_or_default();
                let response = Response::builder().header(CONTENT_TYPE, "application/json");
                Ok::<_, Infallible>(response.body(Full::new(body)).unwrap_or_default())
            }
        });
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(connection), service));
    }
}
