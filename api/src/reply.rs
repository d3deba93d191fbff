//! Every response of the API, and all its wording.

mod admin;
mod handlers;
mod json;
pub mod overview;
mod problem;
mod submitted;

use serde::Serialize;
use storm_shared::{
    memory::Reservation,
    models::{Failure, Request, RequestId, RequestSummary, Status},
    services::{
        health::{Alive, Health},
        readiness::Ready,
        report::Report,
        scrape,
        store::{Cancelled, CancelledWork, Erased},
    },
};
use warp::{
    Reply,
    http::{HeaderValue, StatusCode, header},
    reply::Response,
};

use self::{
    json::{json, json_holding},
    problem::RETRY_AFTER,
};
use crate::limiter::Quota;
pub use admin::{
    AuditRecordShown, Bulked, PausesShown, audit, bulk, pause_changed, pause_message, pauses,
};
pub use handlers::handlers;
pub use problem::{FieldError, Kind, Problem, ProblemName};
pub use submitted::{Submitted, Waited, accepted, not_waited, result, waited};

/// `202` for a started redelivery.
pub fn redelivering(id: RequestId) -> Response {
    #[derive(Serialize)]
    struct Redelivering {
        request_id: RequestId,
        redelivery: &'static str,
        message: String,
    }

    let location = format!("/requests/{id}");
    let body = Redelivering {
        request_id: id,
        redelivery: "pending",
        message: format!("Redelivery started. GET {location} shows its attempts"),
    };
    let mut response = json(StatusCode::ACCEPTED, &body);
    if let Ok(location) = HeaderValue::try_from(location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

/// `200` for a cancelled job or redelivery.
pub fn cancelled(id: RequestId, cancelled: &Cancelled) -> Response {
    #[derive(Serialize)]
    struct Body<'a> {
        request_id: RequestId,
        status: Status,
        failure: Option<&'a Failure>,
        message: String,
    }

    let body = Body {
        request_id: id,
        status: cancelled.status,
        failure: cancelled.failure.as_ref(),
        message: cancelled_message(cancelled),
    };
    json(StatusCode::OK, &body)
}

/// What was cancelled, and what may still arrive.
pub(crate) fn cancelled_message(cancelled: &Cancelled) -> String {
    let what = match cancelled.what {
        CancelledWork::Job => "The job is cancelled",
        CancelledWork::Redelivery => "The redelivery is cancelled",
    };
    let attempts = if cancelled.may_arrive {
        "an attempt at the work or the callback that has begun may take effect; after the worker's \
         next heartbeat, no other begins"
    } else {
        "no callback will be sent"
    };
    format!("{what}: {attempts}")
}

/// `200` for an erased request.
pub fn erased(id: RequestId, erased: &Erased) -> Response {
    #[derive(Serialize)]
    struct Body<'a> {
        request_id: RequestId,
        status: Status,
        erased_at: &'a str,
        message: &'static str,
    }

    let body = Body {
        request_id: id,
        status: erased.status,
        erased_at: &erased.at,
        message: "The payload, the result and the URL are erased. The outcome is kept",
    };
    json(StatusCode::OK, &body)
}

/// `202` for a page of redeliveries: how many started, how many were skipped, and the next cursor.
pub fn redelivering_page(started: usize, skipped: usize, next: Option<RequestId>) -> Response {
    #[derive(Serialize)]
    struct RedeliveriesStarted {
        redelivering: usize,
        skipped: usize,
        cursor: Option<RequestId>,
    }

    let body = RedeliveriesStarted {
        redelivering: started,
        skipped,
        cursor: next,
    };
    json(StatusCode::ACCEPTED, &body)
}

/// `200` for a finished report.
pub fn report(report: &Report) -> Response {
    #[derive(Serialize)]
    struct Done<'a> {
        report_id: String,
        status: &'static str,
        checksum: &'a str,
    }

    let Report {
        report_id,
        checksum,
    } = report;
    let body = Done {
        report_id: report_id.to_string(),
        status: "completed",
        checksum,
    };
    json(StatusCode::OK, &body)
}

/// `200` for a request. It holds `memory` until it was written.
pub fn request(request: &Request, memory: Reservation) -> Response {
    json_holding(request, memory)
}

/// `200` for a page of requests, with the cursor of the next page if there may be one.
pub fn requests(requests: &[RequestSummary], next_cursor: Option<String>) -> Response {
    #[derive(Serialize)]
    struct Page<'a> {
        requests: &'a [RequestSummary],
        next_cursor: Option<String>,
    }

    let body = Page {
        requests,
        next_cursor,
    };
    json(StatusCode::OK, &body)
}

/// `200`, or `503` if the database or Redis fails its check.
pub fn health(health: &Health) -> Response {
    checked(health.is_ok(), health)
}

/// `200`: the process runs.
pub fn live() -> Response {
    json(StatusCode::OK, &Alive::new())
}

/// `200`, or `503` if the API cannot accept requests.
pub fn ready(ready: &Ready) -> Response {
    checked(ready.is_ready(), ready)
}

fn checked(passed: bool, body: &impl Serialize) -> Response {
    if passed {
        return json(StatusCode::OK, body);
    }
    let mut response = json(StatusCode::SERVICE_UNAVAILABLE, body);
    response
        .headers_mut()
        .insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER));
    response
}

/// `200` with the API's metrics.
pub fn metrics(text: String) -> Response {
    scrape::metrics(text).into_response()
}

/// `429` for a client that has used up its quota.
pub fn rate_limited(quota: &Quota) -> Response {
    let mut response = Problem::rate_limited().into_response();
    let headers = response.headers_mut();
    quota.write_to(headers);
    headers.insert(header::RETRY_AFTER, quota.seconds().into());
    response
}
