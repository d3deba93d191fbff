//! A plain receiver of callbacks, for runs by hand and benchmarks: it answers, and it counts.

use std::{
    collections::HashSet,
    convert::Infallible,
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::Result;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode, body::Incoming, service::service_fn,
};
use serde::{Deserialize, Serialize};
use storm_shared::models::RequestId;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    cli::{MAX_REQUESTS, ReceiveOptions},
    listen::Listener,
    receiver::{MAX_CALLBACK, method_not_allowed, status},
    signatures::{SignatureCheck, SignatureCounts, SignatureFault, Signatures},
};

/// What a sink counted, and the JSON of `GET /stats`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Callbacks, however they were answered.
    pub received: u64,
    /// Different request ids among them; from two million on, no more are told apart.
    pub unique: u64,
    /// Their signatures.
    pub signatures: SignatureCounts,
}

/// Receives and prints the counts, once a second where they changed, until `stop`; `signatures` checks
/// what comes.
///
/// # Errors
/// The address is taken.
pub async fn run(
    options: &ReceiveOptions,
    signatures: Signatures,
    stop: &CancellationToken,
) -> Result<Stats> {
    let listener = Listener::bind(options.listen).await?;
    println!("receiving callbacks at {}", listener.url("/webhook"));
    let sink = Sink::new(options, signatures);
    let _receiving = sink.serve(listener);
    let mut second = interval(Duration::from_secs(1));
    second.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut before = 0;
    loop {
        let stopped = tokio::select! {
            _ = second.tick() => false,
            () = stop.cancelled() => true,
        };
        let stats = sink.stats();
        if stats.received > before {
            println!("{} in this second, {stats}", stats.received - before);
            before = stats.received;
        }
        if stopped {
            return Ok(stats);
        }
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            received,
            unique,
            signatures,
        } = self;
        write!(
            f,
            "{received} in all, {unique} unique; signatures: {signatures}"
        )
    }
}

/// The counts, and how to answer. Clones share them.
#[derive(Clone, Debug)]
pub struct Sink {
    counted: Arc<Mutex<Counted>>,
    signatures: Signatures,
    fail_first: u64,
    status: StatusCode,
}

#[derive(Debug, Default)]
struct Counted {
    received: u64,
    ids: HashSet<RequestId>,
    signatures: SignatureCounts,
}

impl Sink {
    /// A sink that has received nothing.
    pub fn new(options: &ReceiveOptions, signatures: Signatures) -> Self {
        let counted = Counted {
            signatures: signatures.new_counts(),
            ..Counted::default()
        };
        Self {
            counted: Arc::new(Mutex::new(counted)),
            signatures,
            fail_first: options.fail_first,
            status: options.status,
        }
    }

    /// Receives until the guard is dropped.
    pub fn serve(&self, listener: Listener) -> DropGuard {
        let sink = self.clone();
        listener.serve(&service_fn(move |request| {
            let sink = sink.clone();
            async move { Ok::<_, Infallible>(sink.answer(request).await) }
        }))
    }

    /// The counts.
    pub fn stats(&self) -> Stats {
        let counted = self.counted.lock().expect(NO_PANIC);
        Stats {
            received: counted.received,
            unique: counted.ids.len() as u64,
            signatures: counted.signatures,
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        match (request.method(), request.uri().path()) {
            (&Method::GET, "/stats") => {
                let stats = serde_json::to_vec(&self.stats()).expect("numbers are JSON");
                Response::new(Full::from(stats))
            }
            (_, "/stats") => method_not_allowed("GET"),
            (&Method::POST, _) => {
                let (head, body) = request.into_parts();
                let body = Limited::new(body, MAX_CALLBACK).collect().await;
                let Ok(body) = body else {
                    return status(StatusCode::PAYLOAD_TOO_LARGE);
                };
                status(self.count(&head.headers, &body.to_bytes()))
            }
            _ => method_not_allowed("POST"),
        }
    }

    fn count(&self, headers: &HeaderMap, body: &[u8]) -> StatusCode {
        #[derive(Deserialize)]
        struct Callback {
            request_id: RequestId,
        }
        let id = serde_json::from_slice(body).map(|callback: Callback| callback.request_id);
        // What is about no request can't be signed for it.
        let signature = match &id {
            Ok(id) => self.signatures.check(headers, body, *id),
            Err(_) => SignatureCheck::Invalid(SignatureFault::Id),
        };
        let mut counted = self.counted.lock().expect(NO_PANIC);
        counted.received += 1;
        if counted.signatures.checked {
            counted.signatures.add(signature);
        }
        if let Ok(id) = id
            && (counted.ids.len() as u64) < MAX_REQUESTS
        {
            counted.ids.insert(id);
        }
        if counted.received <= self.fail_first {
            StatusCode::INTERNAL_SERVER_ERROR
        } else {
            self.status
        }
    }
}

const NO_PANIC: &str = "nothing panics while it holds the counts";
