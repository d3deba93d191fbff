//! The events of the live page (server-sent events, as HTML's standard has them).

use std::{convert::Infallible, task::Poll};

use bytes::Bytes;
use futures_util::stream::poll_fn;
use serde::Serialize;
use storm_shared::models::{BreakerState, CallbackUrl, Failure, Mode, RequestId, RequestSummary};
use tokio::sync::mpsc;
use warp::{
    Reply as _,
    http::{HeaderName, HeaderValue, header},
    reply::Response,
};

use super::handlers::{Handler, shown};
use crate::overview::{Now, PERIOD, ReceiverNow, Sample, Update, Viewer};

/// A comment, which clients ignore.
pub const KEEP_ALIVE: Bytes = Bytes::from_static(b": keep-alive\n\n");

/// The first event: what there was before, and what the viewer may see.
#[derive(Serialize)]
struct Beginning<'a> {
    /// The client whose requests are shown; null if all are.
    client: Option<&'a str>,
    interval_ms: u128,
    /// Null if the totals of the service are not for this client.
    samples: Option<&'a [Sample]>,
    now: Option<Tables<'a>>,
}

/// Each later event.
#[derive(Serialize)]
struct Second<'a> {
    sample: Option<&'a Sample>,
    now: Tables<'a>,
}

/// What is there at one moment, as far as the viewer may see it.
#[derive(Serialize)]
struct Tables<'a> {
    /// The database does not answer: the rest is what it said last.
    stale: bool,
    /// Everything is paused.
    paused: bool,
    /// Null for a client.
    workers: Option<Vec<Worker<'a>>>,
    receivers: Vec<Receiver<'a>>,
    handlers: Vec<Handler<'a>>,
    /// Null before the first list.
    failures: Option<Vec<Failed<'a>>>,
}

#[derive(Serialize)]
struct Worker<'a> {
    owner: &'a str,
    heartbeat_age_ms: Option<u64>,
    /// These are null of a worker that does not say.
    lease_ms: Option<u64>,
    uptime_ms: Option<u64>,
    slots: Option<u32>,
    slots_used: Option<u32>,
    /// Per second. Null before its second report.
    completed: Option<f64>,
    failed: Option<f64>,
}

#[derive(Serialize)]
struct Receiver<'a> {
    client: Option<&'a str>,
    origin: &'a str,
    breaker: Option<BreakerState>,
    paused: bool,
    jobs: u32,
    backlog: Option<u32>,
}

#[derive(Serialize)]
struct Failed<'a> {
    id: RequestId,
    mode: Mode,
    handler: &'a str,
    /// Scheme, host and port. The rest of a URL can hold a secret.
    receiver: Option<String>,
    created_at: &'a str,
    completed_at: Option<&'a str>,
    failure: Option<&'a Failure>,
}

/// `200`, with the events as they come.
pub fn stream(mut events: mpsc::Receiver<Bytes>) -> Response {
    let events = poll_fn(move |context| {
        let event: Poll<Option<Bytes>> = events.poll_recv(context);
        event.map(|event| event.map(Ok::<_, Infallible>))
    });
    headed(warp::reply::stream(events).into_response())
}

/// The same to a `HEAD`, for which nobody watches.
pub fn head() -> Response {
    headed(Response::default())
}

fn headed(mut response: Response) -> Response {
    let headers = response.headers_mut();
    let kind = HeaderValue::from_static("text/event-stream");
    headers.insert(header::CONTENT_TYPE, kind);
    // nginx keeps an answer until it has some kilobytes of it, unless it is told not to.
    let name = HeaderName::from_static("x-accel-buffering");
    headers.insert(name, HeaderValue::from_static("no"));
    response
}

/// The first event of a viewer.
pub fn beginning(viewer: &Viewer) -> Bytes {
    let client = viewer.client().map(ToString::to_string);
    let data = Beginning {
        client: client.as_deref(),
        interval_ms: PERIOD.as_millis(),
        samples: viewer.sees_totals().then_some(&viewer.history),
        now: viewer.now.as_ref().map(|now| tables(viewer, now)),
    };
    event("history", &data)
}

/// The event of an update.
pub fn update(viewer: &Viewer, update: &Update) -> Bytes {
    let data = Second {
        sample: viewer.sees_totals().then_some(&update.sample),
        now: tables(viewer, &update.now),
    };
    event("sample", &data)
}

/// JSON has no line feed outside of its strings, and escapes those within: one line is enough.
fn event(name: &str, data: &impl Serialize) -> Bytes {
    // None of ours fails to serialise.
    let data = serde_json::to_string(data).unwrap_or_default();
    format!("event: {name}\ndata: {data}\n\n").into()
}

fn tables<'a>(viewer: &Viewer, now: &'a Now) -> Tables<'a> {
    let workers = now.workers.iter().map(|(worker, rate)| {
        let report = worker.report.as_ref();
        Worker {
            owner: &worker.owner,
            heartbeat_age_ms: worker.heartbeat_age_ms,
            lease_ms: report.and_then(|it| it.lease_ms),
            uptime_ms: report.map(|it| it.uptime_ms),
            slots: report.map(|it| it.slots),
            slots_used: report.map(|it| it.slots_used),
            completed: rate.as_ref().map(|it| it.completed),
            failed: rate.as_ref().map(|it| it.failed),
        }
    });
    let failures = viewer.failures(now);
    Tables {
        stale: now.is_stale,
        paused: now.pauses.everything,
        workers: viewer.sees_all().then(|| workers.collect()),
        receivers: viewer.receivers(now).map(receiver).collect(),
        handlers: shown(&now.handlers, now.loads.as_ref().as_ref()),
        failures: failures.map(|list| list.iter().map(failed).collect()),
    }
}

fn receiver(receiver: &ReceiverNow) -> Receiver<'_> {
    Receiver {
        client: receiver.tenant.as_deref(),
        origin: &receiver.origin,
        breaker: receiver.breaker,
        paused: receiver.is_paused,
        jobs: receiver.jobs,
        backlog: receiver.backlog,
    }
}

fn failed(request: &RequestSummary) -> Failed<'_> {
    let url = request.callback_url.as_deref();
    let url = url.and_then(|url| CallbackUrl::parse(url).ok());
    Failed {
        id: request.id,
        mode: request.mode,
        handler: &request.handler,
        receiver: url.map(|url| url.origin().to_string()),
        created_at: &request.created_at,
        completed_at: request.completed_at.as_deref(),
        failure: request.failure.as_ref(),
    }
}
