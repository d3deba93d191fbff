//! Errors as `application/problem+json` (RFC 9457).
//!
//! The `type` of each is stable: `urn:storm:problem:` and the name of its [`Kind`].
//!
//! Every 503 and the 429 carry `Retry-After`, except for a damaged database, where a retry does not
//! help, and for an unknown outcome, where it
//! could do the same twice: with an idempotency key it can't.

mod database;
mod kind;

use std::{borrow::Cow, time::Duration};

use serde::Serialize;
use serde_json::{Value, json};
use storm_shared::{
    models::{HandlerName, IdempotencyKeyError, RequestId},
    services::{
        problem::{PROBLEM_JSON, TYPE_PREFIX},
        store::{TooManyPauses, Uncancellable, Unerasable, Unredeliverable},
    },
};
use warp::{
    Reply,
    http::{HeaderName, HeaderValue, header},
    reply::Response,
};

pub use self::kind::Kind;
use super::json::json as json_answer;
use crate::request_check::Refusal;

/// `Retry-After` in seconds.
pub(super) const RETRY_AFTER: &str = "1";

/// `Retry-After` in seconds for a fault that someone has to repair.
const RETRY_AFTER_REPAIR: &str = "30";

/// A time as `Retry-After` has it: in seconds, rounded up, and at least 1.
pub(super) fn whole_seconds(time: Duration) -> u64 {
    let more = u64::from(time.subsec_nanos() > 0);
    time.as_secs().saturating_add(more).max(1)
}

/// What to change about a body where none is taken.
const NO_BODY: &str = "This path takes no body: leave it out. Parameters belong in the query.";

/// The name of the problem in a response, as an extension: for the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProblemName(pub &'static str);

/// One fault in a body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FieldError {
    /// The field's name, as sent.
    pub field: String,
    /// What the field accepts.
    pub detail: String,
}

/// An error as the client sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    kind: Kind,
    title: &'static str,
    detail: Cow<'static, str>,
    extension: Extension,
    header: Option<(&'static str, &'static str)>,
}

/// What only some problems have: a member of the body, or a `Retry-After` that was worked out.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Extension {
    None,
    Errors(Vec<FieldError>),
    RequestId(RequestId),
    RetryAfter(u64),
}

impl Problem {
    /// The body is not JSON; `detail` says where.
    pub fn malformed_body(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::MalformedBody, detail)
    }

    /// The body is JSON but not an object, such as `example`.
    pub fn no_object_such_as(example: &str) -> Self {
        Self::malformed_body(format!(
            "The body must be a JSON object, such as {example}."
        ))
    }

    /// The request is refused whoever sent it.
    pub fn refused(refusal: Refusal) -> Self {
        let (kind, detail) = match refusal {
            Refusal::Host(error) => {
                return Self::new(error.into(), error.detail());
            }
            Refusal::CrossOrigin => (
                Kind::CrossOrigin,
                "`origin` or `sec-fetch-site` says that a web page of another origin sent this request. Send \
                 it from a program, or from a page with the host and port of this service; a proxy has to \
                 pass `host` on.",
            ),
            Refusal::CallbackLoop => (
                Kind::CallbackLoop,
                "This request is a callback, as `storm-callback` says. A callback may not start another job \
                 or redelivery: give the job a `callback_url` outside of this service.",
            ),
        };
        Self::new(kind, detail)
    }

    /// The token is missing or invalid. The answer is the same, so that it reveals nothing.
    pub fn unauthorized() -> Self {
        let detail = "Send the header `authorization: Bearer <token>` once, with a token that the operator gave you.";
        Self::new(Kind::Unauthorized, detail)
        // RFC 9110, section 15.5.2: a 401 names how to authenticate.
        .with_header("www-authenticate", "Bearer")
    }

    /// The token is valid, and not for this path, which is an operator's or a client's.
    pub fn forbidden(is_admin: bool) -> Self {
        let detail = if is_admin {
            "A client's token opens no path under /admin. Use an operator's token (ADMIN_TOKENS)."
        } else {
            "An operator's token opens only paths under /admin. Use a client's token (API_TOKENS)."
        };
        Self::new(Kind::Forbidden, detail)
    }

    /// As many origins are paused as can be.
    pub fn too_many_pauses(error: TooManyPauses) -> Self {
        let detail = format!("{error}. Resume some, or pause everything.");

        Self::new(Kind::TooManyPauses, detail)
    }

    /// The client exceeded its rate limit. The header fields give the limit and the time to wait.
    pub fn rate_limited() -> Self {
        let detail = "You exceeded your rate limit, which `ratelimit-policy` gives. Retry after the seconds in \
                      `retry-after`.";
        Self::new(Kind::RateLimited, detail)
    }

    /// The path does not exist.
    pub fn no_such_path() -> Self {
        let detail = "The paths are POST /sync, POST /async, POST /async/{handler}, GET /handlers, \
                      GET /requests, GET and DELETE /requests/{id}, POST /requests/{id}/redeliver, \
                      POST /requests/{id}/erase, POST /requests/redeliver, GET /overview, GET \
                      /healthz, GET /livez, GET /readyz and GET /openapi.json, which describes \
                      them; GET /docs shows that.";
        Self::new(Kind::NotFound, detail)
    }

    /// No handler has the name in the path. There are `known` ones.
    pub fn unknown_handler<'a>(known: impl Iterator<Item = &'a HandlerName>) -> Self {
        let known: Vec<_> = known.map(|name| format!("`{name}`")).collect();
        let detail = format!(
            "No handler has this name. The handlers are: {}.",
            known.join(", ")
        );

        Self::new(Kind::UnknownHandler, detail)
    }

    /// A filter names none of the handlers that are `known`.
    pub fn unknown_handler_filter<'a>(known: impl Iterator<Item = &'a HandlerName>) -> Self {
        let known: Vec<_> = known.map(|name| format!("`{name}`")).collect();
        let detail = format!(
            "must be one of the handlers in the settings: {}; or a removed one while it has work to \
             do; `storm-api requests list --handler` lists those of any",
            known.join(", ")
        );
        Self::validation(vec![FieldError {
            field: "handler".to_owned(),
            detail,
        }])
    }

    /// The path under `/admin` does not exist. For operators only.
    pub fn no_such_admin_path() -> Self {
        let detail = "The paths of operators are GET and POST /admin/pause, POST /admin/resume, POST \
                      /admin/cancel, POST /admin/redeliver, GET /admin/audit and GET \
                      /admin/overview.";
        Self::new(Kind::NotFound, detail)
    }

    /// The request cannot be cancelled.
    pub fn uncancellable(why: Uncancellable) -> Self {
        let Uncancellable::Over(status) = why else {
            return Self::no_such_request();
        };
        let detail = format!(
            "The request is {status}, and no redelivery is in progress: there is nothing to cancel."
        );
        Self::new(Kind::RequestOver, detail)
    }

    /// The request cannot be erased.
    pub fn unerasable(why: Unerasable) -> Self {
        let (kind, detail) = match why {
            Unerasable::Unknown => return Self::no_such_request(),
            Unerasable::Unfinished => (
                Kind::RequestUnfinished,
                "The request is not over. Wait for its end, or cancel it first: DELETE /requests/{id}.",
            ),
            Unerasable::UnderWay => (
                Kind::RedeliveryUnderWay,
                "A redelivery of this request is in progress. Wait for its end, or cancel it first: DELETE \
                 /requests/{id}.",
            ),
        };
        Self::new(kind, detail)
    }

    /// The request cannot be redelivered.
    pub fn unredeliverable(why: Unredeliverable) -> Self {
        let (kind, detail) = match why {
            Unredeliverable::Unknown => return Self::no_such_request(),
            Unredeliverable::Unfinished => (
                Kind::RequestUnfinished,
                "The request is not over yet. Retry when GET shows it as COMPLETED or FAILED.",
            ),
            Unredeliverable::UnderWay => (
                Kind::RedeliveryUnderWay,
                "A redelivery of this request is in progress. Retry when GET shows `redelivery` as null.",
            ),
            Unredeliverable::Erased => (
                Kind::RequestErased,
                "The result and the `callback_url` of this request were erased. Submit a new request.",
            ),
            // By its id, a cancelled job is redelivered.
            Unredeliverable::Nothing | Unredeliverable::Cancelled => (
                Kind::NothingToRedeliver,
                "The request has no stored result, or no `callback_url`. Submit a new request.",
            ),
        };
        Self::new(kind, detail)
    }

    /// Too many jobs are unfinished; or those of one `handler`, if it is given. There should be
    /// room after `retry_after`.
    pub fn backlog_full(retry_after: Duration, handler: Option<&HandlerName>) -> Self {
        let detail: Cow<'static, str> = match handler {
            Some(handler) => format!(
                "Too many jobs of the handler `{handler}` are unfinished: it has its share of `MAX_BACKLOG`, \
                 and the rest is for other handlers. Retry after the seconds in `retry-after`, when some should \
                 have ended. If they do not end, the handler has to be repaired."
            )
            .into(),
            None => "Too many jobs are unfinished, or too many of yours. Retry after the seconds in \
                     `retry-after`, when some should have ended."
                .into(),
        };
        Self {
            extension: Extension::RetryAfter(whole_seconds(retry_after)),
            ..Self::new(Kind::BacklogFull, detail)
        }
    }

    /// The backlog of the callback's receiver is full.
    pub fn receiver_overloaded() -> Self {
        let detail = "Too many callbacks wait for this receiver, which is slow or down. Retry later. Callbacks \
                      to other receivers and requests without a callback are accepted.";
        Self::needs_repair(Kind::ReceiverOverloaded, detail)
    }

    /// A worker of the previous release still runs, which would take the job for a report.
    pub fn old_workers() -> Self {
        let detail = "A worker of an older version still runs, which knows no handlers. Retry later: jobs for \
                      handlers are accepted once it has been stopped or upgraded.";
        Self::needs_repair(Kind::OldWorkers, detail)
    }

    /// No request in the caller's scope has this id.
    pub fn no_such_request() -> Self {
        // Also said of another tenant's request: the answer must not confirm that it exists.
        let detail = "No request has this id, or it ended so long ago that it was deleted. POST /async \
                      returns the id of a request.";
        Self::no_request(detail)
    }

    /// The id in the path is not a UUID, so no request can have it.
    pub fn malformed_id() -> Self {
        let detail = "A request's id is a UUID, such as 0193b7a2-5d3c-7e21-9f0a-3c5b8e6d1f42.";
        Self::no_request(detail)
    }

    /// The path has the methods in `allowed` only.
    pub fn method_not_allowed(allowed: &'static str) -> Self {
        let detail = format!("This path accepts {allowed}.");
        Self::new(Kind::MethodNotAllowed, detail).with_header("allow", allowed)
    }

    /// The body did not arrive within `limit`.
    pub fn body_timeout(limit: Duration) -> Self {
        let detail = format!("Send the whole body within {limit:?}.");
        Self::new(Kind::BodyTimeout, detail)
        // The rest of the body would come before the next request on this connection.
        .with_header("connection", "close")
    }

    /// The body has more than `limit` bytes.
    pub fn body_too_large(limit: usize) -> Self {
        let detail = format!("Send at most {limit} bytes.");
        Self::new(Kind::BodyTooLarge, detail)
        // The rest of the body may be longer than what is discarded.
        .with_header("connection", "close")
    }

    /// The payload has `sent` bytes, and its handler takes at most `limit`.
    pub fn payload_too_large(handler: &HandlerName, limit: usize, sent: usize) -> Self {
        let detail = format!("The payload has {sent} bytes. `{handler}` takes at most {limit}.");
        Self {
            detail: detail.into(),
            header: None, // the whole body was read
            ..Self::body_too_large(limit)
        }
    }

    /// The content type is not JSON, or missing.
    pub fn unsupported_media_type() -> Self {
        let detail = "Send JSON, with the header `content-type: application/json`.";
        Self::new(Kind::UnsupportedMediaType, detail)
    }

    /// There is more than one content type.
    pub fn repeated_content_type() -> Self {
        let detail =
            "Send the header `content-type: application/json` once, and no other content type.";
        Self {
            detail: detail.into(),
            ..Self::unsupported_media_type()
        }
    }

    /// The content type names a character set that is not UTF-8.
    pub fn unsupported_charset() -> Self {
        let detail = "Send the JSON as UTF-8, with the header `content-type: application/json`.";
        Self {
            detail: detail.into(),
            ..Self::unsupported_media_type()
        }
    }

    /// The body has a content coding, such as gzip.
    pub fn encoded_body() -> Self {
        let detail = "Send the body uncompressed, without the header `content-encoding`.";
        Self {
            detail: detail.into(),
            ..Self::unsupported_media_type()
        }
        // RFC 9110, section 12.5.3: it tells this 415 from one of the media type.
        .with_header("accept-encoding", "identity")
    }

    /// The body has a transfer coding other than `chunked`.
    pub fn unsupported_transfer_coding() -> Self {
        let detail = "Send the body uncompressed: with `content-length`, or with the header `transfer-encoding: \
                      chunked` and no other coding.";
        Self::new(Kind::UnsupportedTransferCoding, detail)
    }

    /// The path takes no body, and one was sent that is JSON.
    pub fn unexpected_body() -> Self {
        Self::new(Kind::UnexpectedBody, NO_BODY)
    }

    /// The path takes no body, and one was sent that is not JSON.
    pub fn no_media_type() -> Self {
        Self {
            detail: NO_BODY.into(),
            ..Self::unsupported_media_type()
        }
    }

    /// The idempotency key is invalid.
    pub fn bad_idempotency_key(error: &IdempotencyKeyError) -> Self {
        Self::idempotency_key(format!(
            "The header `idempotency-key` {error}. Send a new UUID for each submission, and the same \
             one again with each repeat of it."
        ))
    }

    /// There is more than one idempotency key.
    pub fn repeated_idempotency_key() -> Self {
        Self::idempotency_key("Send the header `idempotency-key` once, with one key.")
    }

    fn idempotency_key(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::BadIdempotencyKey, detail)
    }

    /// The idempotency key has stored another submission.
    pub fn idempotency_key_reused() -> Self {
        let detail = "Your `idempotency-key` belongs to an earlier submission, which had other fields or was \
                      erased since. Repeat that one unchanged, or send this one with a new key.";
        Self::new(Kind::IdempotencyKeyReused, detail)
    }

    /// Fields of the body are invalid: every fault.
    pub fn validation(errors: Vec<FieldError>) -> Self {
        let detail = "Correct the fields listed in `errors`.";
        Self {
            extension: Extension::Errors(errors),
            ..Self::new(Kind::Validation, detail)
        }
    }

    /// The work failed.
    pub fn report_failed() -> Self {
        let detail = "The report failed. A retry may succeed.";
        Self::new(Kind::ReportFailed, detail)
    }

    /// The body, or a large answer, does not fit into the memory budget.
    pub fn memory_budget_exceeded() -> Self {
        let detail = "The bodies of other requests and answers take all of the memory for them. Retry later.";

        Self::unavailable(Kind::MemoryBudgetExceeded, detail)
    }

    /// All permits to wait for a result are taken, or the client has its share.
    pub fn too_many_waiters() -> Self {
        let detail = "Too many requests wait for results, or too many of yours. Retry later, or ask without \
                      `wait`, which is answered at once.";
        let problem = Self::new(Kind::TooManyWaiters, detail);
        Self {
            extension: Extension::RetryAfter(1),
            // The connection is what there are too few of.
            ..problem.with_header("connection", "close")
        }
    }

    /// As many watch the live page as may.
    pub fn too_many_viewers() -> Self {
        let detail =
            "As many watch as may. Retry later, or close a page that is no longer watched.";
        Self::unavailable(Kind::TooManyViewers, detail)
    }

    /// All threads of `/sync` are busy, and its queue is full.
    pub fn saturated() -> Self {
        let detail = "Too many reports are waiting. Retry later, or use POST /async.";
        Self::unavailable(Kind::Saturated, detail)
    }

    /// The system refused a thread for the report. The log says what to raise.
    pub fn no_thread() -> Self {
        let detail = "The service has no thread for the report, at a limit of its process or host. Retry \
                      later, or use POST /async.";
        Self::unavailable(Kind::Saturated, detail)
    }

    /// The report was not finished within `limit`.
    pub fn sync_timeout(limit: Duration) -> Self {
        let detail = format!(
            "The report was not finished within {limit:?}. Retry later, or use POST /async."
        );
        Self::unavailable(Kind::SyncTimeout, detail)
    }

    /// The process is shutting down.
    pub fn shutting_down() -> Self {
        Self::unavailable(Kind::ShuttingDown, "Retry in a moment.")
    }

    /// The listener has as many connections as it may. It answers so itself, without this.
    pub fn too_many_connections() -> Self {
        let detail = "Close idle connections, or try again in a second.";
        Self::unavailable(Kind::TooManyConnections, detail)
    }

    /// Its type.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Its body.
    pub fn json(&self) -> Value {
        json!(Body::of(self))
    }

    /// What happened and what to change.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// Every invalid field.
    pub fn errors(&self) -> &[FieldError] {
        match &self.extension {
            Extension::Errors(errors) => errors,
            Extension::None | Extension::RequestId(_) | Extension::RetryAfter(_) => &[],
        }
    }

    /// The request whose state is unknown.
    fn request_id(&self) -> Option<RequestId> {
        match &self.extension {
            Extension::RequestId(id) => Some(*id),
            Extension::None | Extension::Errors(_) | Extension::RetryAfter(_) => None,
        }
    }

    fn no_request(detail: &'static str) -> Self {
        Self {
            title: "No such request",
            ..Self::new(Kind::NotFound, detail)
        }
    }

    fn unavailable(kind: Kind, detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(kind, detail).with_header("retry-after", RETRY_AFTER)
    }

    /// The same for a fault that someone has to repair.
    fn needs_repair(kind: Kind, detail: &'static str) -> Self {
        Self {
            header: Some(("retry-after", RETRY_AFTER_REPAIR)),
            ..Self::unavailable(kind, detail)
        }
    }

    fn new(kind: Kind, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            kind,
            title: kind.title(),
            detail: detail.into(),
            extension: Extension::None,
            header: None,
        }
    }

    fn with_header(self, name: &'static str, value: &'static str) -> Self {
        Self {
            header: Some((name, value)),
            ..self
        }
    }
}

/// The body of a problem.
#[derive(Serialize)]
struct Body<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [FieldError],
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<RequestId>,
}

impl<'a> Body<'a> {
    fn of(problem: &'a Problem) -> Self {
        Self {
            r#type: [TYPE_PREFIX, problem.kind.name()].concat(),
            title: problem.title,
            status: problem.kind.status().as_u16(),
            detail: &problem.detail,
            errors: problem.errors(),
            request_id: problem.request_id(),
        }
    }
}

impl Reply for Problem {
    fn into_response(self) -> Response {
        let mut response = json_answer(self.kind.status(), &Body::of(&self));
        response
            .extensions_mut()
            .insert(ProblemName(self.kind.name()));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, PROBLEM_JSON);
        if let Some((name, value)) = self.header {
            headers.insert(
                // Panics on an invalid name: all of them are lower-case literals of this file.
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            );
        }
        if let Extension::RetryAfter(seconds) = self.extension {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}
