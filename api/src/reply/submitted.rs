//! The answers to a submission: the `202`, or the result, if the client waits for it.

use std::{fmt::Arguments, time::Duration};

use jiff::Timestamp;
use serde::Serialize;
use storm_shared::{
    memory::Reservation,
    models::{CallbackUrl, HandlerName, Request, RequestId},
};
use warp::{
    http::{HeaderName, HeaderValue, StatusCode, header},
    reply::Response,
};

use super::{
    json::{json, json_holding},
    problem::whole_seconds,
};
use crate::prefer::Prefer;

/// Marks the answer to a repeated submission.
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// RFC 7240, section 3.
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// A submission that was accepted, now or before.
#[derive(Clone, Debug)]
pub struct Submitted {
    /// Its job.
    pub id: RequestId,
    /// The handler of its work.
    pub handler: HandlerName,
    /// Where its result is delivered.
    pub callback: Option<CallbackUrl>,
    /// When it should be done.
    pub expected_at: Timestamp,
    /// Whether it repeats an earlier one, by its idempotency key.
    pub is_replay: bool,
}

/// The extension of an answer that came only after a wait, or could have: for the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waited;

/// `202` for a job.
pub fn accepted(submitted: &Submitted) -> Response {
    // Written as the body is: without a text for each part.
    #[derive(Serialize)]
    struct Accepted<'a> {
        request_id: RequestId,
        status: &'static str,
        expected_at: Arguments<'a>,
        message: Arguments<'a>,
    }

    let location = location(submitted.id);
    let begun = if submitted.handler == HandlerName::REPORT {
        "Report generation started"
    } else {
        &format!("Job accepted for `{}`", submitted.handler)
    };
    let (then, place, end) = match &submitted.callback {
        Some(url) => ("We will call you back at ", url.as_str(), ""),
        None => ("Poll GET ", location.as_str(), " for the result"),
    };
    let body = Accepted {
        request_id: submitted.id,
        status: "pending",
        expected_at: format_args!("{:.3}", submitted.expected_at),
        message: format_args!("{begun}. {then}{place}{end}"),
    };
    let mut response = json(StatusCode::ACCEPTED, &body);
    let headers = response.headers_mut();
    // Never an error: a UUID is visible ASCII.
    if let Ok(location) = HeaderValue::try_from(location) {
        headers.insert(header::LOCATION, location);
    }
    let left = submitted.expected_at.duration_since(Timestamp::now());
    let left = Duration::try_from(left).unwrap_or_default(); // it has passed
    headers.insert(header::RETRY_AFTER, whole_seconds(left).into());
    mark_replay(submitted, &mut response);
    response
}

/// The same `202` after the wait that the client prefers.
pub fn waited(submitted: &Submitted, prefer: Prefer) -> Response {
    after_wait(accepted(submitted), prefer)
}

/// The same `202` without that wait, or with a part of it.
pub fn not_waited(submitted: &Submitted, prefer: Prefer) -> Response {
    waited(
        submitted,
        Prefer {
            wait: None,
            ..prefer
        },
    )
}

/// `200` with the request, whose result is stored or which has failed. It holds `memory` until it
/// was written.
pub fn result(
    submitted: &Submitted,
    prefer: Prefer,
    request: &Request,
    memory: Reservation,
) -> Response {
    let mut response = json_holding(request, memory);
    if let Ok(location) = HeaderValue::try_from(location(submitted.id)) {
        // RFC 9110, section 8.7: the body is what a GET of this path shows.
        response
            .headers_mut()
            .insert(header::CONTENT_LOCATION, location);
    }
    mark_replay(submitted, &mut response);
    let prefer = Prefer {
        respond_async: false, // this is no asynchronous answer
        ..prefer
    };
    after_wait(response, prefer)
}

fn location(id: RequestId) -> String {
    format!("/requests/{id}")
}

fn mark_replay(submitted: &Submitted, response: &mut Response) {
    if submitted.is_replay {
        let replayed = HeaderValue::from_static("true");
        response.headers_mut().insert(REPLAYED, replayed);
    }
}

/// Names the preferences that were applied.
fn after_wait(mut response: Response, applied: Prefer) -> Response {
    let wait = applied.wait.map(|wait| format!("wait={}", wait.as_secs()));
    let value = match (applied.respond_async, &wait) {
        (true, Some(wait)) => format!("respond-async, {wait}"),
        (true, None) => "respond-async".to_owned(),
        (false, Some(wait)) => wait.clone(),
        (false, None) => String::new(),
    };
    if let Ok(value) = HeaderValue::try_from(value)
        && !value.is_empty()
    {
        response.headers_mut().insert(PREFERENCE_APPLIED, value);
    }
    response.extensions_mut().insert(Waited);
    response
}
