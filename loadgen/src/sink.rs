//! The `receive` command: a callback receiver for manual tests and benchmarks. It answers callbacks
//! and counts them.

use std::{
    collections::HashSet,
    convert::Infallible,
    fmt,
    sync::{Arc, Mutex, MutexGuard},
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
    output,
    receiver::{MAX_CALLBACK, method_not_allowed, status},
    signatures::{SignatureCheck, SignatureCounts, SignatureFault, Signatures},
};

/// The counts of a sink, and the JSON of `GET /stats`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Callbacks, whatever their answer.
    pub received: u64,
    /// Distinct request ids. Counting stops at two million, to bound memory.
    pub unique: u64,
    /// The signature checks.
    pub signatures: SignatureCounts,
}

/// Receives callbacks until `shutdown`, or until nobody reads what it prints. Prints the counts
/// once a second if they changed, and at the end.
///
/// # Errors
/// The address is in use, or the counts can't be printed.
pub async fn run(
    options: &ReceiveOptions,
    signatures: Signatures,
    shutdown: &CancellationToken,
) -> Result<Stats> {
    let listener = Listener::bind(options.listen)?;
    let url = listener.url("/webhook");
    let sink = Sink::new(options, signatures);
    let _receiving = sink.serve(listener);
    let mut printed = output::print_to_reader(&format!("receiving callbacks at {url}"))?;
    let mut second = interval(Duration::from_secs(1));
    // After a stall, one line covers the whole gap.
    second.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut before = 0;
    while printed.is_continue() {
        tokio::select! {
            _ = second.tick() => {}
            () = shutdown.cancelled() => break,
        }
        let stats = sink.stats();
        if stats.received > before {
            let new = stats.received - before;
            printed = output::print_to_reader(&format!("{new} in the last second, {stats}"))?;
            before = stats.received;
        }
    }
    let stats = sink.stats();
    output::print(&format!("received: {stats}"))?;
    if !stats.signatures.checked {
        output::print(&format!("signatures: {}", stats.signatures))?;
    }
    Ok(stats)
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            received,
            unique,
            signatures,
        } = self;
        write!(f, "{received} in total, {unique} unique")?;
        // Said once, at the end, if there is nothing to count.
        if signatures.checked {
            write!(f, "; signatures: {signatures}")?;
        }
        Ok(())
    }
}

/// The counts, and how to answer. Clones share the counts.
#[derive(Clone, Debug)]
pub struct Sink {
    counts: Arc<Mutex<SinkCounts>>,
    signatures: Signatures,
    fail_first: u64,
    status: StatusCode,
}

#[derive(Debug, Default)]
struct SinkCounts {
    received: u64,
    ids: HashSet<RequestId>,
    signatures: SignatureCounts,
}

impl Sink {
    /// A sink with counts of zero.
    pub fn new(options: &ReceiveOptions, signatures: Signatures) -> Self {
        let counts = SinkCounts {
            signatures: signatures.new_counts(),
            ..SinkCounts::default()
        };
        Self {
            counts: Arc::new(Mutex::new(counts)),
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

    /// The counts so far.
    pub fn stats(&self) -> Stats {
        let counts = self.counts();
        Stats {
            received: counts.received,
            unique: counts.ids.len() as u64,
            signatures: counts.signatures,
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        match (request.method(), request.uri().path()) {
            (&Method::GET, "/stats") => {
                #[expect(clippy::expect_used, reason = "a struct of numbers is valid JSON")]
                let stats = serde_json::to_vec(&self.stats()).expect("numbers serialise");
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

    #[expect(clippy::expect_used, reason = "nothing panics while it holds the lock")]
    fn counts(&self) -> MutexGuard<'_, SinkCounts> {
        let counts = self.counts.lock();
        counts.expect("nothing panics while it holds the lock")
    }

    fn count(&self, headers: &HeaderMap, body: &[u8]) -> StatusCode {
        #[derive(Deserialize)]
        struct CallbackId {
            request_id: RequestId,
        }
        let id = serde_json::from_slice(body).map(|callback: CallbackId| callback.request_id);
        // Without an id in the body, there is nothing for the signed id to match.
        let signature = match &id {
            Ok(id) => self.signatures.check(headers, body, *id),
            Err(_) => SignatureCheck::Invalid(SignatureFault::Id),
        };
        let mut counts = self.counts();
        counts.received += 1;
        // Without keys, a body without an id must not count as a bad signature.
        if counts.signatures.checked {
            counts.signatures.add(signature);
        }
        if let Ok(id) = id
            && (counts.ids.len() as u64) < MAX_REQUESTS
        {
            counts.ids.insert(id);
        }
        if counts.received <= self.fail_first {
            StatusCode::INTERNAL_SERVER_ERROR
        } else {
            self.status
        }
    }
}
