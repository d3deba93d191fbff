//! The list of handlers.

use serde::Serialize;
use storm_shared::{
    config::{HandlerKind, HandlerSettings, Handlers},
    models::HandlerName,
    services::store::HandlerLoad,
};
use warp::{http::StatusCode, reply::Response};

use super::json::json;
use crate::{handler_watch::Loads, handlers::MAX_REPORT_PAYLOAD};

/// A handler as clients see it: no URL, header or secret.
#[derive(Serialize)]
pub(super) struct Handler<'a> {
    name: &'a str,
    kind: &'static str,
    /// In one worker. Null if only the worker's own limit applies.
    concurrency: Option<u32>,
    /// Of one attempt. Null if the work has no time limit.
    timeout_ms: Option<u64>,
    max_payload: usize,
    /// Null if the handler's own code bounds it.
    max_result: Option<usize>,
    /// Null before the first count, and of the report.
    waiting: Option<u32>,
    running: Option<u32>,
    workers: Option<u32>,
    breaker: Option<Breaker>,
}

/// The circuit breakers of a handler: each worker that serves it has its own.
#[derive(Serialize)]
struct Breaker {
    /// `closed`, `open` or `half-open`; null if no worker says.
    state: Option<&'static str>,
    /// The workers in which it is open, half-open and unknown.
    open: u32,
    half_open: u32,
    unknown: u32,
    /// When the next probe is due, of those in which it is open.
    until: Option<String>,
}

/// `200` for the report and these handlers, with their load.
pub fn handlers(handlers: &Handlers, load: Option<&Loads>) -> Response {
    #[derive(Serialize)]
    struct Body<'a> {
        handlers: Vec<Handler<'a>>,
    }

    let body = Body {
        handlers: shown(handlers, load),
    };
    json(StatusCode::OK, &body)
}

/// The report and these handlers, with their load.
pub(super) fn shown<'a>(handlers: &'a Handlers, load: Option<&Loads>) -> Vec<Handler<'a>> {
    let report = Handler {
        name: HandlerName::REPORT.as_str(),
        kind: "built-in",
        concurrency: None,
        timeout_ms: None,
        max_payload: MAX_REPORT_PAYLOAD,
        max_result: None,
        waiting: None,
        running: None,
        workers: None,
        breaker: None,
    };
    let named = handlers.iter().map(|settings| {
        // One that is not counted has nothing.
        let load = load.map(|load| load.get(&settings.name).copied().unwrap_or_default());
        Handler::of(settings, load)
    });
    std::iter::once(report).chain(named).collect()
}

impl<'a> Handler<'a> {
    fn of(settings: &'a HandlerSettings, load: Option<HandlerLoad>) -> Self {
        Self {
            name: settings.name.as_str(),
            kind: match settings.kind {
                HandlerKind::Http(_) => "http",
                HandlerKind::Rust => "rust",
            },
            concurrency: Some(settings.concurrency),
            timeout_ms: Some(settings.timeout.as_millis().try_into().unwrap_or(u64::MAX)),
            max_payload: settings.max_payload,
            max_result: Some(settings.max_result),
            waiting: load.map(|load| load.waiting),
            running: load.map(|load| load.running),
            workers: load.map(|load| load.workers),
            breaker: load.map(Breaker::of),
        }
    }
}

impl Breaker {
    fn of(load: HandlerLoad) -> Self {
        let breakers = load.breakers;
        Self {
            state: breakers.state(load.workers),
            open: breakers.open,
            half_open: breakers.half_open,
            unknown: breakers.unknown,
            until: breakers.until.map(|at| format!("{at:.3}")),
        }
    }
}
