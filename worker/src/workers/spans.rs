//! The spans of a job's way through the worker, and what each of them says.
//!
//! No payload, result, URL path or query, and no detail of a failure: collectors are often read by
//! more people than the log.

use std::fmt::Display;

use hyper::StatusCode;
use storm_shared::{
    models::{CallbackUrl, Traceparent},
    services::store::{self, Job, Settlement, StoreError},
    traces::{Moment, Span, Stage},
};

use crate::{
    delivery::AttemptError,
    handler::{Failure, Next, Output},
    metrics::ClaimSource,
};

/// The claim of `job`, which has begun at `began` and is committed. What follows is below it.
pub(super) fn claimed(job: &mut Job, began: Moment, source: ClaimSource) {
    let mut span = Span::since(began, Stage::Claim, Some(job.traceparent));
    job.traceparent = span.passed_on_from(job.traceparent);
    let claim = job.claim;
    span.text("storm.request.id", claim.id);
    span.text("storm.handler", &job.handler);
    span.number("storm.claim.number", claim.number);
    span.text("storm.claim.source", source.name());
    span.text("storm.worker.id", claim.owner);
    if claim.work == store::Work::Redelivery {
        span.text("storm.redelivery", true);
    }
    span.end();
}

/// An attempt at the work of `job`.
pub(super) fn run(job: &Job, number: u32) -> Span {
    let mut span = Span::start(Stage::Run, Some(job.traceparent));
    span.text("storm.request.id", job.claim.id);
    span.text("storm.handler", &job.handler);
    span.number("storm.attempt", number);
    span
}

pub(super) fn ran(mut span: Span, result: &Result<Output, Failure>) {
    let status = match result {
        Ok(output) => output.status(),
        Err(failure) => failure.status,
    };
    if let Some(status) = status {
        span.number("http.response.status_code", status);
    }
    if let Err(failure) = result {
        match failure.next {
            Next::Shortage(shortage) => span.failed(shortage.name()),
            Next::Retry { .. } | Next::End => span.failed(failure.class.as_str()),
        }
    }
    span.end();
}

/// An attempt at the callback of `job`.
pub(super) fn attempt(job: &Job, url: &CallbackUrl, number: u32) -> Span {
    let mut span = Span::start(Stage::Attempt, Some(job.traceparent));
    span.text("storm.request.id", job.claim.id);
    span.number("storm.attempt", number);
    span.text("http.request.method", "POST");
    span.text("url.scheme", url.url().scheme());
    span.text("server.address", url.url().host_str().unwrap_or_default());
    span.number("server.port", url.port());
    span
}

pub(super) fn attempted(mut span: Span, result: &Result<StatusCode, AttemptError>) {
    let status = match result {
        Ok(status) => Some(*status),
        Err(error) => error.status(),
    };
    if let Some(status) = status {
        span.number("http.response.status_code", status.as_u16());
    }
    match (result, status) {
        (Ok(_), _) => {}
        (Err(AttemptError::Shortage(shortage)), _) => span.failed(shortage.name()),
        // As the semantic conventions of HTTP have it.
        (Err(_), Some(status)) => span.failed(status.as_str()),
        (Err(error), None) => span.failed(error.class().as_str()),
    }
    span.end();
}

/// The write of how a claim ends. Of an invalid row, the trace is not known, and a trace of its own
/// would be of no use to anybody.
pub(super) fn settling(
    trace: Option<Traceparent>,
    id: impl Display,
    how: &Settlement,
) -> Option<Span> {
    let mut span = Span::start(Stage::Settle, Some(trace?));
    span.text("storm.request.id", id);
    span.text("storm.settlement", name(how));
    if let Settlement::Finish { outcome, .. } = how {
        span.text("storm.outcome", outcome.as_str());
    }
    Some(span)
}

pub(super) fn settled(span: Option<Span>, written: &Result<(), StoreError>) {
    let Some(mut span) = span else {
        return;
    };
    if let Err(error) = written {
        span.failed(match error {
            StoreError::ClaimLost => "claim_lost",
            StoreError::LeaseLost => "lease_lost",
            StoreError::Closed => "closed",
            _ => "store",
        });
    }
    span.end();
}

fn name(settlement: &Settlement) -> &'static str {
    match settlement {
        Settlement::Finish { .. } => "finish",
        Settlement::Retry { .. } => "retry",
        Settlement::Park { .. } | Settlement::ParkPaused { .. } => "park",
        Settlement::GiveBack => "give_back",
    }
}
