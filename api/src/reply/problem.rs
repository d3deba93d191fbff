//! What the API answers when it refuses: RFC 9457's `application/problem+json`.
//!
//! The `type` of each is stable, `urn:storm:problem:` and a name:
//!
//! | name | status | when |
//! | --- | --- | --- |
//! | `malformed-body` | 400 | the body is no JSON object |
//! | `unauthorized` | 401 | no token, or none that is accepted |
//! | `not-found` | 404 | no such path, or no such request |
//! | `method-not-allowed` | 405 | the path takes other methods: those in `Allow` |
//! | `body-timeout` | 408 | the body took too long |
//! | `request-unfinished` | 409 | what is to be delivered once more is not over |
//! | `redelivery-under-way` | 409 | it is being delivered once more already |
//! | `nothing-to-redeliver` | 409 | it has no stored result, or no callback |
//! | `body-too-large` | 413 | the body is over the limit |
//! | `unsupported-media-type` | 415 | the content type is not `application/json` |
//! | `validation` | 422 | the body's fields are wrong: each stands in `errors` |
//! | `rate-limited` | 429 | the client asks more often than `RATE_LIMIT` says |
//! | `report-failed` | 500 | the work broke off; the log says how |
//! | `saturated` | 503 | every place behind `/sync` is taken |
//! | `sync-timeout` | 503 | the report was not done within `SYNC_TIMEOUT` |
//! | `receiver-overloaded` | 503 | `MAX_PARKED_PER_ORIGIN` jobs wait for the callback's receiver |
//! | `overloaded` | 503 | too many database operations are queued |
//! | `database-locked` | 503 | another program holds the database's lock |
//! | `database-full` | 503 | the database's disk is full, or a quota or a limit is reached |
//! | `database-read-only` | 503 | the database, or its folder, can't be written to |
//! | `database-corrupt` | 503 | the database file is damaged where it was read or written |
//! | `database-failing` | 503 | the database's disk fails |
//! | `database-unavailable` | 503 | the database refused for another reason; the log says which |
//! | `shutting-down` | 503 | the process is ending |
//!
//! The listener has one more, `too-many-connections` (503). Every 503 carries `Retry-After`,
//! but that of a damaged database, where trying again does not help; so does the 429.

use std::{borrow::Cow, time::Duration};

use serde::Serialize;
use storm_shared::services::store::{StoreError, Trouble, Unredeliverable};
use warp::{
    Reply,
    http::{HeaderName, HeaderValue, StatusCode, header},
    reply::Response,
};

use super::json::json;

/// How long a refused client should wait before it tries again, in seconds.
pub(super) const RETRY_AFTER: &str = "1";

/// The same, in seconds, where somebody has to do something about it first.
const RETRY_AFTER_REPAIR: &str = "30";

/// What to send instead.
const EXAMPLE: &str = r#"{"records": 10, "report_name": "Q1_Finance"}"#;

/// One fault in a body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FieldError {
    /// The field's name, as it was sent.
    pub field: String,
    /// What is accepted there.
    pub detail: String,
}

/// A refusal, as a client sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    name: &'static str,
    status: StatusCode,
    title: &'static str,
    detail: Cow<'static, str>,
    errors: Vec<FieldError>,
    header: Option<(&'static str, &'static str)>,
}

impl Problem {
    /// The body is no JSON object; `detail` says where.
    pub fn malformed_body(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "malformed-body",
            "Malformed body",
            detail,
        )
    }

    /// The body is JSON, but no object.
    pub fn no_object() -> Self {
        Self::malformed_body(format!(
            "The body must be a JSON object, such as {EXAMPLE}."
        ))
    }

    /// No token, or none that is accepted: whichever it is, the answer is the same.
    pub fn unauthorized() -> Self {
        let detail = "Send the header `authorization: Bearer <token>` once, with a token that the operator gave you.";
        Self::new(
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            "Unauthorized",
            detail,
        )
        .with_header("www-authenticate", "Bearer")
    }

    /// Too many requests of one client; the answer's head says how many there may be, and when
    /// again.
    pub fn rate_limited() -> Self {
        let detail = "You ask too often: `ratelimit-policy` says how often you may. Try again after the seconds \
                      in `retry-after`.";
        let status = StatusCode::TOO_MANY_REQUESTS;
        Self::new(status, "rate-limited", "Rate limited", detail)
    }

    /// There is nothing at that path.
    pub fn no_such_path() -> Self {
        let detail = "There is POST /sync, POST /async, GET /requests/{id}, POST /requests/{id}/redeliver, \
                      POST /requests/redeliver and GET /healthz.";
        Self::new(StatusCode::NOT_FOUND, "not-found", "No such path", detail)
    }

    /// The request can't be delivered once more.
    pub fn unredeliverable(why: Unredeliverable) -> Self {
        let (name, title, detail) = match why {
            Unredeliverable::Unknown => return Self::no_such_request(),
            Unredeliverable::Unfinished => (
                "request-unfinished",
                "Request unfinished",
                "The request is not over yet: its callback is still to come. GET it until it is COMPLETED or \
                 FAILED.",
            ),
            Unredeliverable::UnderWay => (
                "redelivery-under-way",
                "Redelivery under way",
                "The request is being delivered once more already. GET it until its `redelivery` is null.",
            ),
            Unredeliverable::Nothing => (
                "nothing-to-redeliver",
                "Nothing to redeliver",
                "The request has no stored result, or no `callback_url`. Submit it anew.",
            ),
        };
        Self::new(StatusCode::CONFLICT, name, title, detail)
    }

    /// Too many jobs wait for the receiver already.
    pub fn receiver_overloaded() -> Self {
        let detail = "Too many callbacks wait for that receiver, which is slow or down. Try again later; \
                      callbacks to others, and requests without a callback, are taken.";
        Self::needs_repair("receiver-overloaded", "Receiver overloaded", detail)
    }

    /// There is no request of that id.
    pub fn no_such_request() -> Self {
        let detail = "No request has that id. Ids are in the answers of POST /async.";
        Self::new(
            StatusCode::NOT_FOUND,
            "not-found",
            "No such request",
            detail,
        )
    }

    /// The id in the path is none, so that no request can have it.
    pub fn malformed_id() -> Self {
        let detail = "A request's id is a UUID, such as 0193b7a2-5d3c-7e21-9f0a-3c5b8e6d1f42.";
        Self::new(
            StatusCode::NOT_FOUND,
            "not-found",
            "No such request",
            detail,
        )
    }

    /// The path takes the methods in `allowed` only.
    pub fn method_not_allowed(allowed: &'static str) -> Self {
        let status = StatusCode::METHOD_NOT_ALLOWED;
        let detail = format!("This path takes {allowed}.");
        Self::new(status, "method-not-allowed", "Method not allowed", detail)
            .with_header("allow", allowed)
    }

    /// The body was not there within `limit`.
    pub fn body_timeout(limit: Duration) -> Self {
        let detail = format!("Send the whole body within {limit:?}.");
        Self::new(
            StatusCode::REQUEST_TIMEOUT,
            "body-timeout",
            "Body timeout",
            detail,
        )
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
        .with_header("connection", "close")
    }

    /// The content type is another, or missing.
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

    /// The body's fields are wrong: every fault of them.
    pub fn validation(errors: Vec<FieldError>) -> Self {
        let status = StatusCode::UNPROCESSABLE_ENTITY;
        let detail = "Correct the fields that `errors` names.";
        Self {
            errors,
            ..Self::new(status, "validation", "Invalid fields", detail)
        }
    }

    /// The work broke off.
    pub fn report_failed() -> Self {
        let detail = "The report could not be made. Trying again may help.";
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "report-failed",
            "Report failed",
            detail,
        )
    }

    /// Every place behind `/sync` is taken.
    pub fn saturated() -> Self {
        let detail = "Too many reports wait already. Try again later, or use POST /async.";
        Self::unavailable("saturated", "Saturated", detail)
    }

    /// The report was not done within `limit`.
    pub fn sync_timeout(limit: Duration) -> Self {
        let detail = format!(
            "The report was not done within {limit:?}. Try again later, or use POST /async."
        );
        Self::unavailable("sync-timeout", "Sync timeout", detail)
    }

    /// The process is ending.
    pub fn shutting_down() -> Self {
        Self::unavailable("shutting-down", "Shutting down", "Try again in a moment.")
    }

    /// The store refused. Its own words can name paths and SQL: they are for the log.
    pub fn store(error: &StoreError) -> Self {
        match error {
            StoreError::QueueFull => {
                let detail = "Too many requests wait for the database. Try again later.";
                Self::unavailable("overloaded", "Overloaded", detail)
            }
            StoreError::Closed => Self::shutting_down(),
            other => Self::database(other.trouble().unwrap_or(Trouble::Other)),
        }
    }

    /// The service has started, and its database can't be opened yet.
    pub fn not_open_yet() -> Self {
        let detail = "The database can't be opened yet; the service's log says what is in the way. Try again \
                      later: it goes on by itself when that is over.";
        Self::needs_repair("database-unavailable", "Database unavailable", detail)
    }

    fn database(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Busy => Self::unavailable(
                "database-locked",
                "Database locked",
                "Another program holds the database's lock. Try again in a moment; if it stays so, the \
                 operator ends that program.",
            ),
            Trouble::Full => Self::needs_repair(
                "database-full",
                "Database full",
                "The database's disk takes no more: it is full, a quota or a limit of file sizes is reached, \
                 or it fails. Try again when the operator has made room; the service goes on by itself then.",
            ),
            Trouble::ReadOnly => Self::needs_repair(
                "database-read-only",
                "Database read-only",
                "The database or its folder can't be written to. Try again when the operator has made it \
                 writable; the service goes on by itself then.",
            ),
            Trouble::Corrupt => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "database-corrupt",
                "Database corrupt",
                "The database file is damaged there, and trying again does not help. The operator stops \
                 the service and restores the file from a backup, or recovers it with sqlite3's .recover.",
            ),
            Trouble::Io => Self::needs_repair(
                "database-failing",
                "Database failing",
                "The database's disk fails. Try again later; the operator finds the error in the log, and \
                 looks after the disk.",
            ),
            Trouble::Other => Self::unavailable(
                "database-unavailable",
                "Database unavailable",
                "The database can't be used at the moment. Try again later.",
            ),
        }
    }

    /// What to change, in a sentence.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// Every fault of a body's fields.
    pub fn errors(&self) -> &[FieldError] {
        &self.errors
    }

    fn unavailable(
        name: &'static str,
        title: &'static str,
        detail: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, name, title, detail)
            .with_header("retry-after", RETRY_AFTER)
    }

    /// The same where it takes longer.
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
            errors: Vec::new(),
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
        }

        let body = Body {
            r#type: format!("urn:storm:problem:{}", self.name),
            title: self.title,
            status: self.status.as_u16(),
            detail: &self.detail,
            errors: &self.errors,
        };
        let mut response = json(self.status, &body);
        let headers = response.headers_mut();
        let kind = HeaderValue::from_static("application/problem+json");
        headers.insert(header::CONTENT_TYPE, kind);
        if let Some((name, value)) = self.header {
            headers.insert(
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            );
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use storm_shared::services::store::{StoreError, Trouble};

    use super::Problem;

    #[test]
    fn every_trouble_has_a_type_of_its_own_and_only_damage_is_not_to_be_tried_again() {
        let (mut names, mut final_names) = (Vec::new(), Vec::new());
        for trouble in [
            Trouble::Busy,
            Trouble::Full,
            Trouble::ReadOnly,
            Trouble::Corrupt,
            Trouble::Io,
            Trouble::Other,
        ] {
            let problem = Problem::database(trouble);
            assert_eq!(problem.status, 503);
            names.push(problem.name);
            if problem.header.is_none() {
                final_names.push(problem.name);
            }
        }
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), 6);
        assert_eq!(final_names, ["database-corrupt"]);
    }

    #[test]
    fn the_stores_own_words_stay_inside() {
        let broken = StoreError::Unusable {
            path: "/srv/secret.db".into(),
            problem: "no such table: requests".to_owned(),
        };
        for (error, name) in [
            (StoreError::QueueFull, "overloaded"),
            (StoreError::Closed, "shutting-down"),
            (broken, "database-unavailable"),
        ] {
            let problem = Problem::store(&error);
            assert_eq!(problem.name, name);
            assert_eq!(problem.header, Some(("retry-after", "1")));
            let detail = problem.detail();
            assert!(
                !detail.contains("secret") && !detail.contains("table"),
                "{detail}"
            );
        }
    }
}
