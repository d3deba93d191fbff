//! The POST request that carries a payload.

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Request,
    header::{
        ACCEPT_ENCODING, CONNECTION, CONTENT_LENGTH, EXPECT, HeaderName, HeaderValue, TE, TRAILER,
        TRANSFER_ENCODING, UPGRADE,
    },
    http,
};
use jiff::{SignedDuration, Timestamp};

use super::endpoint::HttpEndpoint;
use crate::{
    delivery::request::{TRACEPARENT, post, sign},
    handler::{Context, Job},
};

/// From the IETF draft of the header, as Stripe has it: the id without quotes.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// The number of the attempt.
const ATTEMPT: HeaderName = HeaderName::from_static("storm-attempt");
/// When the attempt is ended: RFC 3339, UTC, with milliseconds.
const DEADLINE: HeaderName = HeaderName::from_static("storm-deadline");

/// The headers of the connection and of the message's framing, which are hyper's.
const FRAMING: [HeaderName; 9] = [
    CONNECTION,
    CONTENT_LENGTH,
    EXPECT,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// The request of an attempt that is sent at `now`.
///
/// # Errors
/// The URL is not valid in HTTP. No http URL without a user name is known to be such a URL.
pub(super) fn request(
    endpoint: &HttpEndpoint,
    job: &Job,
    context: &Context,
    now: Timestamp,
) -> Result<Request<Full<Bytes>>, http::Error> {
    let mut headers = endpoint.headers.clone();
    for name in FRAMING {
        headers.remove(name);
    }
    // These replace the fixed headers of the same names.
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    headers.insert(IDEMPOTENCY_KEY, job.id.to_string().try_into()?);
    headers.insert(ATTEMPT, context.attempt.into());
    headers.insert(DEADLINE, deadline(context, now).try_into()?);
    headers.insert(TRACEPARENT, context.traceparent.to_string().try_into()?);
    if endpoint.signer.secrets() > 0 {
        sign(&endpoint.signer, job.id, now, &job.payload, &mut headers)?;
    }
    post(&endpoint.url, headers, job.payload.clone())
}

/// The deadline by the wall clock, which the endpoint has, too.
fn deadline(context: &Context, now: Timestamp) -> String {
    let remaining = SignedDuration::try_from(context.remaining()).unwrap_or(SignedDuration::MAX);
    let deadline = now.saturating_add(remaining).unwrap_or(Timestamp::MAX);
    format!("{deadline:.3}")
}
