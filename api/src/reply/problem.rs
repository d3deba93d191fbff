//! Errors as `application/problem+json` (RFC 9457).
//!
//! The `type` of each is stable: `urn:storm:problem:` and a name.
//!
//! | name | status | when |
//! | --- | --- | --- |
//! | `bad-host` | 400 | `Host` is missing, repeated or invalid |
//! | `bad-idempotency-key` | 400 | `Idempotency-Key` is repeated or invalid |
//! | `malformed-body` | 400 | the body is not a JSON object |
//! | `unexpected-body` | 400 | the path takes no body |
//! | `unauthorized` | 401 | the token is missing or invalid |
//! | `forbidden` | 403 | the token is valid, and not for this path |
//! | `cross-origin` | 403 | a web page of another origin sent the request |
//! | `callback-loop` | 403 | the request is a callback |
//! | `not-found` | 404 | no such path, or no such request |
//! | `unknown-handler` | 404 | no handler has the name in the path |
//! | `method-not-allowed` | 405 | the path has other methods: those in `Allow` |
//! | `body-timeout` | 408 | the body did not arrive in time |
//! | `request-unfinished` | 409 | a request to be redelivered or erased is not over |
//! | `redelivery-under-way` | 409 | a redelivery of it is in progress |
//! | `nothing-to-redeliver` | 409 | it has no stored result, or no callback |
//! | `too-many-pauses` | 409 | as many origins are paused as can be |
//! | `request-erased` | 409 | it was erased |
//! | `request-over` | 409 | a request to be cancelled is over |
//! | `body-too-large` | 413 | the body, or its payload, is over the limit |
//! | `unsupported-media-type` | 415 | the content type is not `application/json`, or the body is coded |
//! | `misdirected` | 421 | without tokens: `Host` is not one that is served |
//! | `validation` | 422 | fields are invalid: `errors` lists all of them |
//! | `idempotency-key-reused` | 422 | `Idempotency-Key` belongs to another submission |
//! | `rate-limited` | 429 | the client exceeded `RATE_LIMIT` |
//! | `report-failed` | 500 | the work failed; the log says why |
//! | `unsupported-transfer-coding` | 501 | the body has a transfer coding other than `chunked` |
//! | `saturated` | 503 | the queue of `/sync` is full, or the system refuses it a thread |
//! | `sync-timeout` | 503 | the report was not finished within `SYNC_TIMEOUT` |
//! | `backlog-full` | 503 | `MAX_BACKLOG` jobs are unfinished |
//! | `receiver-overloaded` | 503 | `MAX_PARKED_PER_ORIGIN` of the client's jobs wait for this receiver |
//! | `old-workers` | 503 | a worker of the release before still runs, which knows no handlers |
//! | `overloaded` | 503 | too many database operations are queued |
//! | `too-many-waiters` | 503 | as many requests wait for results as may, or as many of the client's |
//! | `memory-budget-exceeded` | 503 | the bodies of other requests take all of `MEMORY_BUDGET` |
//! | `database-locked` | 503 | another program holds the database's lock |
//! | `database-full` | 503 | the database's disk is full, or a quota or a limit is reached |
//! | `database-read-only` | 503 | the database or its folder is not writable |
//! | `database-corrupt` | 503 | the database file is damaged |
//! | `database-moved` | 503 | the open database file was moved, deleted or replaced |
//! | `database-migrated` | 503 | the store was moved to another database |
//! | `database-failing` | 503 | the database's disk has I/O errors |
//! | `database-unavailable` | 503 | the database refused for another reason; the log says which |
//! | `outcome-unknown` | 503 | the database failed during the commit: it may have happened |
//! | `shutting-down` | 503 | the process is shutting down |
//!
//! The listener adds `too-many-connections` (503). Every 503 and the 429 carry `Retry-After`,
//! except for a damaged database, where a retry does not help, and for an unknown outcome, where it
//! could do the same twice: with an idempotency key it can't.

mod database;

use std::{borrow::Cow, time::Duration};

use serde::Serialize;
use storm_shared::{
    models::{HandlerName, IdempotencyKeyError, RequestId},
    services::{
        problem::{PROBLEM_JSON, TYPE_PREFIX},
        store::{TooManyPauses, Uncancellable, Unerasable, Unredeliverable},
    },
};
use warp::{
    Reply,
    http::{HeaderName, HeaderValue, StatusCode, header},
    reply::Response,
};

use super::json::json;
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
    name: &'static str,
    status: StatusCode,
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
        Self::new(
            StatusCode::BAD_REQUEST,
            "malformed-body",
            "Malformed body",
            detail,
        )
    }

    /// The body is JSON but not an object, such as `example`.
    pub fn no_object_such_as(example: &str) -> Self {
        Self::malformed_body(format!(
            "The body must be a JSON object, such as {example}."
        ))
    }

    /// The request is refused whoever sent it.
    pub fn refused(refusal: Refusal) -> Self {
        let (name, title, detail) = match refusal {
            Refusal::Host(error) => {
                return Self::new(error.status(), error.name(), error.title(), error.detail());
            }
            Refusal::CrossOrigin => (
                "cross-origin",
                "Cross-origin request",
                "`origin` or `sec-fetch-site` says that a web page of another origin sent this request. Send \
                 it from a program, or from a page with the host and port of this service; a proxy has to \
                 pass `host` on.",
            ),
            Refusal::CallbackLoop => (
                "callback-loop",
                "Callback loop",
                "This request is a callback, as `storm-callback` says. A callback may not start another job \
                 or redelivery: give the job a `callback_url` outside of this service.",
            ),
        };
        Self::new(StatusCode::FORBIDDEN, name, title, detail)
    }

    /// The token is missing or invalid. The answer is the same, so that it reveals nothing.
    pub fn unauthorized() -> Self {
        let detail = "Send the header `authorization: Bearer <token>` once, with a token that the operator gave you.";
        Self::new(
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            "Unauthorized",
            detail,
        )
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
        Self::new(StatusCode::FORBIDDEN, "forbidden", "Forbidden", detail)
    }

    /// As many origins are paused as can be.
    pub fn too_many_pauses(error: TooManyPauses) -> Self {
        let detail = format!("{error}. Resume some, or pause everything.");
        let (name, title) = ("too-many-pauses", "Too many pauses");
        Self::new(StatusCode::CONFLICT, name, title, detail)
    }

    /// The client exceeded its rate limit. The header fields give the limit and the time to wait.
    pub fn rate_limited() -> Self {
        let detail = "You exceeded your rate limit, which `ratelimit-policy` gives. Retry after the seconds in \
                      `retry-after`.";
        let status = StatusCode::TOO_MANY_REQUESTS;
        Self::new(status, "rate-limited", "Rate limited", detail)
    }

    /// The path does not exist.
    pub fn no_such_path() -> Self {
        let detail = "The paths are POST /sync, POST /async, POST /async/{handler}, GET /handlers, \
                      GET /requests, GET and DELETE /requests/{id}, POST /requests/{id}/redeliver, \
                      POST /requests/{id}/erase, POST /requests/redeliver, GET /healthz, GET \
                      /livez and GET /readyz.";
        Self::new(StatusCode::NOT_FOUND, "not-found", "No such path", detail)
    }

    /// No handler has the name in the path. There are `known` ones.
    pub fn unknown_handler<'a>(known: impl Iterator<Item = &'a HandlerName>) -> Self {
        let known: Vec<_> = known.map(|name| format!("`{name}`")).collect();
        let detail = format!(
            "No handler has this name. The handlers are: {}.",
            known.join(", ")
        );
        let (name, title) = ("unknown-handler", "Unknown handler");
        Self::new(StatusCode::NOT_FOUND, name, title, detail)
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
                      /admin/cancel, POST /admin/redeliver and GET /admin/audit.";
        Self::new(StatusCode::NOT_FOUND, "not-found", "No such path", detail)
    }

    /// The request cannot be cancelled.
    pub fn uncancellable(why: Uncancellable) -> Self {
        let Uncancellable::Over(status) = why else {
            return Self::no_such_request();
        };
        let detail = format!(
            "The request is {status}, and no redelivery is in progress: there is nothing to cancel."
        );
        Self::new(StatusCode::CONFLICT, "request-over", "Request over", detail)
    }

    /// The request cannot be erased.
    pub fn unerasable(why: Unerasable) -> Self {
        let (name, title, detail) = match why {
            Unerasable::Unknown => return Self::no_such_request(),
            Unerasable::Unfinished => (
                "request-unfinished",
                "Request unfinished",
                "The request is not over. Wait for its end, or cancel it first: DELETE /requests/{id}.",
            ),
            Unerasable::UnderWay => (
                "redelivery-under-way",
                "Redelivery under way",
                "A redelivery of this request is in progress. Wait for its end, or cancel it first: DELETE \
                 /requests/{id}.",
            ),
        };
        Self::new(StatusCode::CONFLICT, name, title, detail)
    }

    /// The request cannot be redelivered.
    pub fn unredeliverable(why: Unredeliverable) -> Self {
        let (name, title, detail) = match why {
            Unredeliverable::Unknown => return Self::no_such_request(),
            Unredeliverable::Unfinished => (
                "request-unfinished",
                "Request unfinished",
                "The request is not over yet. Retry when GET shows it as COMPLETED or FAILED.",
            ),
            Unredeliverable::UnderWay => (
                "redelivery-under-way",
                "Redelivery under way",
                "A redelivery of this request is in progress. Retry when GET shows `redelivery` as null.",
            ),
            Unredeliverable::Erased => (
                "request-erased",
                "Request erased",
                "The result and the `callback_url` of this request were erased. Submit a new request.",
            ),
            // By its id, a cancelled job is redelivered.
            Unredeliverable::Nothing | Unredeliverable::Cancelled => (
                "nothing-to-redeliver",
                "Nothing to redeliver",
                "The request has no stored result, or no `callback_url`. Submit a new request.",
            ),
        };
        Self::new(StatusCode::CONFLICT, name, title, detail)
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
        let status = StatusCode::SERVICE_UNAVAILABLE;
        Self {
            extension: Extension::RetryAfter(whole_seconds(retry_after)),
            ..Self::new(status, "backlog-full", "Backlog full", detail)
        }
    }

    /// The backlog of the callback's receiver is full.
    pub fn receiver_overloaded() -> Self {
        let detail = "Too many callbacks wait for this receiver, which is slow or down. Retry later. Callbacks \
                      to other receivers and requests without a callback are accepted.";
        Self::needs_repair("receiver-overloaded", "Receiver overloaded", detail)
    }

    /// A worker of the release before still runs, which would take the job for a report.
    pub fn old_workers() -> Self {
        let detail = "A worker of an older version still runs, which knows no handlers. Retry later: jobs for \
                      handlers are accepted once it has been stopped or upgraded.";
        Self::needs_repair("old-workers", "Old workers", detail)
    }

    /// No request in the caller's scope has this id.
    pub fn no_such_request() -> Self {
        // Also said of another tenant's request: the answer must not confirm that it exists.
        let detail = "No request has this id, or it ended so long ago that it was deleted. POST /async \
                      returns the id of a request.";
        Self::new(
            StatusCode::NOT_FOUND,
            "not-found",
            "No such request",
            detail,
        )
    }

    /// The id in the path is not a UUID, so no request can have it.
    pub fn malformed_id() -> Self {
        let detail = "A request's id is a UUID, such as 0193b7a2-5d3c-7e21-9f0a-3c5b8e6d1f42.";
        Self::new(
            StatusCode::NOT_FOUND,
            "not-found",
            "No such request",
            detail,
        )
    }

    /// The path has the methods in `allowed` only.
    pub fn method_not_allowed(allowed: &'static str) -> Self {
        let status = StatusCode::METHOD_NOT_ALLOWED;
        let detail = format!("This path accepts {allowed}.");
        Self::new(status, "method-not-allowed", "Method not allowed", detail)
            .with_header("allow", allowed)
    }

    /// The body did not arrive within `limit`.
    pub fn body_timeout(limit: Duration) -> Self {
        let detail = format!("Send the whole body within {limit:?}.");
        Self::new(
            StatusCode::REQUEST_TIMEOUT,
            "body-timeout",
            "Body timeout",
            detail,
        )
        // The rest of the body would come before the next request on this connection.
        .with_header("connection", "close")
    }

    /// The body has more than `limit` bytes.
    pub fn body_too_large(limit: usize) -> Self {
        let detail = format!("Send at most {limit} bytes.");
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body-too-large",
            "Body too large",
            detail,
        )
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
        let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        let detail = "Send JSON, with the header `content-type: application/json`.";
        Self::new(
            status,
            "unsupported-media-type",
            "Unsupported media type",
            detail,
        )
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
        Self::new(
            StatusCode::NOT_IMPLEMENTED,
            "unsupported-transfer-coding",
            "Unsupported transfer coding",
            detail,
        )
    }

    /// The path takes no body, and one was sent that is JSON.
    pub fn unexpected_body() -> Self {
        let (name, title) = ("unexpected-body", "Unexpected body");
        Self::new(StatusCode::BAD_REQUEST, name, title, NO_BODY)
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
        let (name, title) = ("bad-idempotency-key", "Bad idempotency key");
        Self::new(StatusCode::BAD_REQUEST, name, title, detail)
    }

    /// The idempotency key has stored another submission.
    pub fn idempotency_key_reused() -> Self {
        let detail = "Your `idempotency-key` belongs to an earlier submission, which had other fields or was \
                      erased since. Repeat that one unchanged, or send this one with a new key.";
        Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "idempotency-key-reused",
            "Idempotency key reused",
            detail,
        )
    }

    /// Fields of the body are invalid: every fault.
    pub fn validation(errors: Vec<FieldError>) -> Self {
        let status = StatusCode::UNPROCESSABLE_ENTITY;
        let detail = "Correct the fields listed in `errors`.";
        Self {
            extension: Extension::Errors(errors),
            ..Self::new(status, "validation", "Invalid fields", detail)
        }
    }

    /// The work failed.
    pub fn report_failed() -> Self {
        let detail = "The report failed. A retry may succeed.";
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "report-failed",
            "Report failed",
            detail,
        )
    }

    /// The body, or a large answer, does not fit into the memory budget.
    pub fn memory_budget_exceeded() -> Self {
        let detail = "The bodies of other requests and answers take all of the memory for them. Retry later.";
        let (name, title) = ("memory-budget-exceeded", "Memory budget exceeded");
        Self::unavailable(name, title, detail)
    }

    /// All permits to wait for a result are taken, or the client has its share.
    pub fn too_many_waiters() -> Self {
        let detail = "Too many requests wait for results, or too many of yours. Retry later, or ask without \
                      `wait`, which is answered at once.";
        let status = StatusCode::SERVICE_UNAVAILABLE;
        let problem = Self::new(status, "too-many-waiters", "Too many waiters", detail);
        Self {
            extension: Extension::RetryAfter(1),
            // The connection is what there are too few of.
            ..problem.with_header("connection", "close")
        }
    }

    /// All threads of `/sync` are busy, and its queue is full.
    pub fn saturated() -> Self {
        let detail = "Too many reports are waiting. Retry later, or use POST /async.";
        Self::unavailable("saturated", "Saturated", detail)
    }

    /// The system refused a thread for the report. The log says what to raise.
    pub fn no_thread() -> Self {
        let detail = "The service has no thread for the report, at a limit of its process or host. Retry \
                      later, or use POST /async.";
        Self::unavailable("saturated", "Saturated", detail)
    }

    /// The report was not finished within `limit`.
    pub fn sync_timeout(limit: Duration) -> Self {
        let detail = format!(
            "The report was not finished within {limit:?}. Retry later, or use POST /async."
        );
        Self::unavailable("sync-timeout", "Sync timeout", detail)
    }

    /// The process is shutting down.
    pub fn shutting_down() -> Self {
        Self::unavailable("shutting-down", "Shutting down", "Retry in a moment.")
    }

    /// The last part of its `type`.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The status of the answer.
    pub fn status(&self) -> StatusCode {
        self.status
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

    fn unavailable(
        name: &'static str,
        title: &'static str,
        detail: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, name, title, detail)
            .with_header("retry-after", RETRY_AFTER)
    }

    /// The same for a fault that someone has to repair.
    fn needs_repair(name: &'static str, title: &'static str, detail: &'static str) -> Self {
        Self {
            header: Some(("retry-after", RETRY_AFTER_REPAIR)),
            ..Self::unavailable(name, title, detail)
        }
    }

    fn new(
        status: StatusCode,
        name: &'static str,
        title: &'static str,
        detail: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            name,
            status,
            title,
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

impl Reply for Problem {
    fn into_response(self) -> Response {
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

        let body = Body {
            r#type: [TYPE_PREFIX, self.name].concat(),
            title: self.title,
            status: self.status.as_u16(),
            detail: &self.detail,
            errors: self.errors(),
            request_id: self.request_id(),
        };
        let mut response = json(self.status, &body);
        response.extensions_mut().insert(ProblemName(self.name));
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
