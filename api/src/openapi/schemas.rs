//! The schemas of bodies, with the bounds and words of the code that reads and writes them.

use serde_json::{Map, Value, json};
use storm_shared::{
    models::{
        AttemptClass, CallbackUrl, ClientName, EventKind, FailureReason, HandlerName, Records,
        ReportName, Stage, Status, WaitReason,
    },
    services::problem::TYPE_PREFIX,
};

use crate::{
    reply::Kind,
    validation::{MAX_BULK_IDS, bounds},
};

/// What the name of a handler looks like: [`HandlerName`].
const HANDLER_NAME: &str = "^[a-z][a-z0-9]*(_[a-z0-9]+)*_?$";

/// What the name of a client looks like: [`ClientName`].
const CLIENT_NAME: &str = "^[A-Za-z0-9._-]+$";

/// All of them, by name.
pub(super) fn all() -> Value {
    let groups = [
        words(),
        submissions(),
        requests(),
        actions(),
        handlers(),
        operators(),
        health(),
        problems(),
        callbacks(),
    ];
    let all = groups.into_iter().flat_map(|group| match group {
        Value::Object(group) => group,
        _ => Map::new(),
    });
    Value::Object(all.collect())
}

/// A reference to the schema of this name.
pub(super) fn of(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

/// The same, or null.
fn or_null(name: &str) -> Value {
    json!({ "oneOf": [of(name), { "type": "null" }] })
}

/// An object that has all of these properties but the `optional` ones for sure.
fn object(description: &str, properties: Value, optional: &[&str]) -> Value {
    let names = properties.as_object().map(Map::keys).into_iter().flatten();
    let required: Vec<_> = names
        .filter(|name| !optional.contains(&name.as_str()))
        .collect();
    let mut object = json!({
        "type": "object",
        "description": description,
        "required": required,
    });
    object["properties"] = properties;
    object
}

/// The same of what clients send, where unknown properties are refused.
fn form(description: &str, properties: Value, optional: &[&str]) -> Value {
    let mut form = object(description, properties, optional);
    form["additionalProperties"] = json!(false);
    form
}

fn text(description: &str) -> Value {
    json!({ "type": "string", "description": description })
}

fn text_or_null(description: &str) -> Value {
    json!({ "type": ["string", "null"], "description": description })
}

fn count(description: &str) -> Value {
    json!({ "type": "integer", "minimum": 0, "description": description })
}

fn count_or_null(description: &str) -> Value {
    json!({ "type": ["integer", "null"], "minimum": 0, "description": description })
}

/// A time, as the service writes and reads it.
pub(super) fn time(description: &str) -> Value {
    json!({ "type": "string", "format": "date-time", "description": description })
}

fn time_or_null(description: &str) -> Value {
    json!({ "type": ["string", "null"], "format": "date-time", "description": description })
}

/// The size of a page: `default` if it is left out, and at most `max`.
pub(super) fn page_size((default, max): (usize, usize)) -> Value {
    json!({ "type": "integer", "minimum": 1, "maximum": max, "default": default })
}

/// The name of a handler.
pub(super) fn handler_name() -> Value {
    json!({
        "type": "string",
        "minLength": 1,
        "maxLength": HandlerName::MAX_CHARS,
        "pattern": HANDLER_NAME,
    })
}

/// The id of a request.
pub(super) fn request_id() -> Value {
    json!({ "type": "string", "format": "uuid", "description": "The id of a request." })
}

/// The words of single values.
fn words() -> Value {
    json!({
        "RequestId": request_id(),
        "Status": {
            "type": "string",
            "enum": Status::ALL.map(Status::as_str),
            "description": "The status of a request. `COMPLETED` and `FAILED` are final, but for a \
                            redelivery: one that succeeds makes `FAILED` `COMPLETED`.",
        },
        "Mode": {
            "type": "string",
            "enum": ["sync", "async"],
            "description": "The endpoint that accepted the request.",
        },
        "FailureReason": {
            "type": "string",
            "enum": FailureReason::ALL.map(FailureReason::as_str),
            "description": "Why a request is `FAILED`.",
        },
        "Failure": object(
            "Why a request is `FAILED`.",
            json!({ "reason": of("FailureReason"), "detail": text("One sentence for a person.") }),
            &[],
        ),
    })
}

fn submissions() -> Value {
    let records = |max| {
        json!({
            "type": "integer",
            "minimum": 1,
            "maximum": max,
            "description": "The number of records, each of which takes 10 ms.",
        })
    };
    let report_name = json!({
        "type": "string",
        "minLength": 1,
        "maxLength": ReportName::MAX_CHARS,
        "description": "The report's name.",
    });
    let callback_url = json!({
        "type": ["string", "null"],
        "format": "uri",
        "pattern": "^[Hh][Tt][Tt][Pp][Ss]?:",
        "maxLength": CallbackUrl::MAX_CHARS,
        "description": "Where to deliver the result: an absolute http or https URL that the SSRF \
                        policy allows. Without one, the client polls.",
    });
    json!({
        "SyncSubmission": form(
            "A report that is made while the client waits.",
            json!({
                "records": records(Records::MAX_SYNC),
                "report_name": report_name,
                "callback_url": { "type": "null", "description": "None is taken." },
            }),
            &["callback_url"],
        ),
        "AsyncSubmission": form(
            "A report that is made as a job.",
            json!({
                "records": records(Records::MAX_ASYNC),
                "report_name": report_name,
                "callback_url": callback_url,
            }),
            &["callback_url"],
        ),
        "HandlerSubmission": form(
            "A job for a handler.",
            json!({
                "payload": {
                    "description": "Any JSON, also null: at most `max_payload` bytes of the \
                                    handler, and 128 levels of arrays and objects within each \
                                    other.",
                },
                "callback_url": callback_url,
            }),
            &["callback_url"],
        ),
        "Accepted": object(
            "A job that is committed.",
            json!({
                "request_id": of("RequestId"),
                "status": { "type": "string", "const": "pending" },
                "expected_at": time("When the job should be done: an estimate, and no promise."),
                "message": text("One sentence for a person."),
            }),
            &[],
        ),
        "Report": object(
            "A finished report. Equal submissions give equal reports.",
            json!({
                "report_id": { "type": "string", "format": "uuid" },
                "status": { "type": "string", "const": "completed" },
                "checksum": checksum(),
            }),
            &[],
        ),
    })
}

fn checksum() -> Value {
    json!({
        "type": "string",
        "pattern": "^[0-9a-f]{64}$",
        "description": "64 hexadecimal digits of SHA-256.",
    })
}

fn requests() -> Value {
    let summary = json!({
        "id": of("RequestId"),
        "mode": of("Mode"),
        "handler": text("The handler that does the work."),
        "status": of("Status"),
        "callback_url": text_or_null("As it was sent."),
        "created_at": time("When it was accepted."),
        "completed_at": time_or_null("When it became `COMPLETED` or `FAILED`."),
        "failure": or_null("Failure"),
    });
    let more = json!({
        "input_payload": {
            "description": "The submission: of a report, `report_name` and `records`; of another \
                            handler, the payload as it was sent.",
        },
        "result_payload": {
            "description": "The result, once it is stored; null before that. Of a report: \
                            `report_id` and `checksum`.",
        },
        "claims": count("How often workers claimed the job."),
        "lost_claims": count("The lost claims in a row."),
        "attempts": { "type": "array", "items": of("Attempt") },
        "next_attempt_at": time_or_null("The earliest time of the next claim, while it waits."),
        "parked_since": time_or_null("When it was first parked since its last attempt."),
        "parks": count("How often it was parked."),
        "redelivery": or_null("Status"),
        "traceparent": text("The trace of the request and its callback."),
        "events": { "type": "array", "items": of("Event") },
        "waiting_for": or_null("WaitingFor"),
        "erased_at": time_or_null("When its contents were erased."),
    });
    let mut request = summary.clone();
    if let (Value::Object(request), Value::Object(more)) = (&mut request, more) {
        request.extend(more);
    }
    json!({
        "Request": object("A request and all that became of it.", request, &[]),
        "RequestSummary": object("A request in a list.", summary, &[]),
        "RequestPage": object(
            "A page of requests, newest first.",
            json!({
                "requests": { "type": "array", "items": of("RequestSummary") },
                "next_cursor": text_or_null("The `cursor` of the next page. Null: the last page."),
            }),
            &[],
        ),
        "Attempt": object(
            "An attempt at the work or at the callback.",
            json!({
                "number": { "type": "integer", "minimum": 1 },
                "stage": { "type": "string", "enum": [Stage::Work, Stage::Callback] },
                "started_at": time("When it began."),
                "duration_ms": count("How long it took, in milliseconds."),
                "class": {
                    "type": "string",
                    "enum": AttemptClass::ALL.map(AttemptClass::as_str),
                    "description": "Its outcome.",
                },
                "status": {
                    "type": ["integer", "null"],
                    "minimum": 100,
                    "maximum": 999,
                    "description": "The HTTP status, if there was an answer.",
                },
                "error": text_or_null("What went wrong."),
            }),
            &[],
        ),
        "Event": object(
            "What went wrong and may have caused a repeated callback.",
            json!({
                "at": time("When it happened."),
                "event": { "type": "string", "enum": EventKind::ALL.map(EventKind::as_str) },
                "claim": { "type": "integer", "description": "The fencing token." },
                "detail": text_or_null("For a person."),
            }),
            &[],
        ),
        "WaitingFor": object(
            "Why the request is unfinished.",
            json!({
                "reason": {
                    "type": "string",
                    "examples": WaitReason::ALL,
                    "description": "The reason. Clients must accept words that are not among the \
                                    examples.",
                },
                "detail": text("One sentence for a person."),
                "until": time_or_null("When it goes on at the earliest, if that is known."),
            }),
            &[],
        ),
    })
}

fn actions() -> Value {
    json!({
        "Cancelled": object(
            "What was cancelled.",
            json!({
                "request_id": of("RequestId"),
                "status": of("Status"),
                "failure": or_null("Failure"),
                "message": text("What was cancelled, and what may still arrive."),
            }),
            &[],
        ),
        "Erased": object(
            "A request whose contents are erased.",
            json!({
                "request_id": of("RequestId"),
                "status": of("Status"),
                "erased_at": time("When: the first time, if it was erased before."),
                "message": text("One sentence for a person."),
            }),
            &[],
        ),
        "Redelivering": object(
            "A redelivery that was started.",
            json!({
                "request_id": of("RequestId"),
                "redelivery": { "type": "string", "const": "pending" },
                "message": text("One sentence for a person."),
            }),
            &[],
        ),
        "RedeliveriesStarted": object(
            "A page of redeliveries that were started.",
            json!({
                "redelivering": count("How many were started."),
                "skipped": count("How many were not: their receiver is over its backlog limit, or \
                                  they changed meanwhile."),
                "cursor": text_or_null("The `cursor` of the next page. Null: the last page."),
            }),
            &[],
        ),
    })
}

fn handlers() -> Value {
    json!({
        "HandlerList": object(
            "The handlers, the built-in one first.",
            json!({ "handlers": { "type": "array", "items": of("Handler") } }),
            &[],
        ),
        "Handler": object(
            "A handler, its limits, and what it does.",
            json!({
                "name": handler_name(),
                "kind": { "type": "string", "enum": ["built-in", "http", "rust"] },
                "concurrency": count_or_null("The jobs of it that one worker runs at a time."),
                "timeout_ms": count_or_null("The time for one attempt, in milliseconds."),
                "max_payload": count("In bytes."),
                "max_result": count_or_null("In bytes."),
                "waiting": count_or_null("Jobs whose work is to be done, and that no worker holds."),
                "running": count_or_null("Jobs that workers hold for their work."),
                "workers": count_or_null("Workers that serve it."),
                "breaker": or_null("Breaker"),
            }),
            &[],
        ),
        "BreakerState": {
            "type": "string",
            "enum": ["closed", "open", "half-open"],
            "description": "Null if no worker says.",
        },
        "Breaker": object(
            "The circuit breakers of a handler, one in each worker.",
            json!({
                "state": or_null("BreakerState"),
                "open": count("Workers in which it is open."),
                "half_open": count("Workers in which it is half-open."),
                "unknown": count("Workers that do not say."),
                "until": time_or_null("When the next probe is due."),
            }),
            &[],
        ),
    })
}

fn operators() -> Value {
    json!({
        "Pauses": object(
            "The pauses in force.",
            json!({
                "everything": or_null("Pause"),
                "origins": { "type": "array", "items": of("Pause") },
            }),
            &[],
        ),
        "Pause": object(
            "A pause.",
            json!({
                "origin": text("The origin that is paused. Absent where everything is."),
                "since": time("Since when."),
                "operator": text("Who paused it."),
            }),
            &["origin"],
        ),
        "PauseTarget": {
            "description": "What is paused or resumed.",
            "oneOf": [of("PauseEverything"), of("PauseOrigin")],
        },
        "PauseEverything": form(
            "All work.",
            json!({ "everything": { "type": "boolean", "const": true } }),
            &[],
        ),
        "PauseOrigin": form("The callbacks to one origin.", json!({ "origin": origin() }), &[]),
        "PauseChanged": object(
            "A pause or a resumption.",
            json!({
                "changed": { "type": "boolean", "description": "False for a repeat." },
                "message": text("What it means."),
            }),
            &[],
        ),
        "CancelFilter": bulk_filter("Which jobs and redeliveries to cancel.", &Status::ALL),
        "RedeliverFilter": bulk_filter(
            "Which requests to redeliver. Without `status` and `ids`: `FAILED` ones.",
            &[Status::Completed, Status::Failed],
        ),
        "Bulked": object(
            "What was done to a page of requests.",
            json!({
                "dry_run": { "type": "boolean", "description": "Whether it was only tried out." },
                "matched": count("Requests that matched the filter."),
                "changed": count("Those that were changed."),
                "skipped": count("Those that were not, or would not be."),
                "ids": {
                    "type": "array",
                    "items": of("RequestId"),
                    "description": "Those that would change. Only of a `dry_run`.",
                },
                "cursor": text_or_null("The `cursor` of the next page. Null: the last page."),
            }),
            &["ids"],
        ),
        "AuditPage": object(
            "What operators have done, newest first.",
            json!({
                "records": { "type": "array", "items": of("AuditRecord") },
                "next_cursor": text_or_null("The `cursor` of the next page. Null: the last page."),
            }),
            &[],
        ),
        "AuditRecord": object(
            "What an operator has done.",
            json!({
                "number": { "type": "integer", "minimum": 1 },
                "at": time("When."),
                "operator": text("Who."),
                "action": text("`pause`, `resume`, `cancel` or `redeliver`."),
                "filter": { "description": "What it was done to: JSON." },
                "matched": count("How many requests it was for."),
                "changed": count("How many of them it has changed."),
                "dry_run": { "type": "boolean" },
            }),
            &[],
        ),
    })
}

fn origin() -> Value {
    json!({
        "type": "string",
        "maxLength": CallbackUrl::MAX_CHARS,
        "description": "Scheme, host and port of callback URLs, such as `https://hooks.example`.",
    })
}

fn bulk_filter(description: &str, statuses: &[Status]) -> Value {
    let names = statuses.iter().map(|status| status.as_str());
    form(
        description,
        json!({
            "status": {
                "type": "array",
                "items": { "type": "string", "enum": names.collect::<Vec<_>>() },
                "minItems": 1,
                "maxItems": statuses.len(),
            },
            "client": {
                "type": "string",
                "minLength": 1,
                "maxLength": ClientName::MAX_CHARS,
                "pattern": CLIENT_NAME,
            },
            "handler": handler_name(),
            "origin": origin(),
            "created_after": time("Only requests that were accepted then or later."),
            "created_before": time("Only requests that were accepted before this time."),
            "reason": of("FailureReason"),
            "ids": {
                "type": "array",
                "items": of("RequestId"),
                "minItems": 1,
                "maxItems": MAX_BULK_IDS,
                "description": "Only these requests; without `limit` and `cursor`.",
            },
            "all": {
                "type": "boolean",
                "const": true,
                "description": "In place of a filter: all requests.",
            },
            "dry_run": {
                "type": "boolean",
                "default": false,
                "description": "Nothing is changed, and the answer lists what would be.",
            },
            "limit": page_size(bounds::BULK),
            "cursor": of("RequestId"),
        }),
        &[
            "status",
            "client",
            "handler",
            "origin",
            "created_after",
            "created_before",
            "reason",
            "ids",
            "all",
            "dry_run",
            "limit",
            "cursor",
        ],
    )
}

fn health() -> Value {
    json!({
        "Alive": object(
            "The process runs.",
            json!({ "status": { "type": "string", "const": "alive" } }),
            &[],
        ),
        "Health": object(
            "The results of the checks.",
            json!({
                "status": { "type": "string", "enum": ["ok", "unavailable"] },
                "database": text("`ok`, or why not in a few stable words."),
                "redis": text("`ok`, `none` if it is not configured, or why not."),
                "database_connections": object(
                    "The connections to a database's server.",
                    json!({
                        "open": count("Those that are open, or being opened."),
                        "in_use": count("The open ones that do something."),
                        "waiting": count("Reads and writes that wait for one."),
                        "limit": count("How many may be open."),
                    }),
                    &[],
                ),
                "paused": {
                    "type": "boolean",
                    "const": true,
                    "description": "Present while everything is paused.",
                },
                "paused_origins": count("How many origins are paused, if any."),
            }),
            &["redis", "database_connections", "paused", "paused_origins"],
        ),
        "Readiness": object(
            "Whether requests can be accepted.",
            json!({
                "status": {
                    "type": "string",
                    "enum": ["ready", "starting", "draining", "unavailable"],
                },
                "database": text("`ok`, or why not in a few stable words."),
                "redis": text("`ok`, `none` if it is not configured, or why not."),
            }),
            &["database", "redis"],
        ),
    })
}

fn problems() -> Value {
    let types = Kind::ALL
        .iter()
        .map(|kind| [TYPE_PREFIX, kind.name()].concat());
    json!({
        "Problem": object(
            "An error (RFC 9457).",
            json!({
                "type": {
                    "type": "string",
                    "format": "uri",
                    "examples": types.collect::<Vec<_>>(),
                    "description": "The type, which is stable. Clients must accept types that are \
                                    not among the examples.",
                },
                "title": text("The type in a few words."),
                "status": { "type": "integer", "minimum": 400, "maximum": 599 },
                "detail": text("What to change. For a person."),
                "errors": {
                    "type": "array",
                    "items": of("FieldError"),
                    "description": "Of `validation`: the faults.",
                },
                "request_id": of("RequestId"),
            }),
            &["errors", "request_id"],
        ),
        "FieldError": object(
            "A fault of a field or a parameter.",
            json!({
                "field": text("Its name, as sent."),
                "detail": text("What it accepts."),
            }),
            &[],
        ),
    })
}

fn callbacks() -> Value {
    json!({
        "Callback": {
            "description": "How a job ended. The same bytes on every attempt.",
            "oneOf": [of("ReportCallback"), of("HandlerCallback")],
        },
        "ReportCallback": object(
            "A finished report.",
            json!({
                "request_id": of("RequestId"),
                "report_id": { "type": "string", "format": "uuid" },
                "status": { "type": "string", "const": "completed" },
                "checksum": checksum(),
                "report_name": text("As it was submitted."),
                "records": count("As it was submitted."),
            }),
            &[],
        ),
        "HandlerCallback": object(
            "The end of a handler's work: its `result`, or the `failure`.",
            json!({
                "request_id": of("RequestId"),
                "handler": handler_name(),
                "status": { "type": "string", "enum": ["completed", "failed"] },
                "result": { "description": "Any JSON. Only if it is `completed`." },
                "failure": of("Failure"),
            }),
            &["result", "failure"],
        ),
    })
}
