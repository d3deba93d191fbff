//! The header fields of requests and answers.

use serde_json::{Value, json};
use storm_shared::models::IdempotencyKey;

/// A field of an answer.
struct Header {
    name: &'static str,
    kind: &'static str,
    description: &'static str,
    example: &'static str,
}

/// Those of answers, beside `Content-Type`, `Content-Length`, `Date` and `Connection`.
const HEADERS: &[Header] = &[
    Header {
        name: "accept-encoding",
        kind: "string",
        description: "The content codings of bodies that are read: none. Of a `415` for a body \
                      that is compressed.",
        example: "identity",
    },
    Header {
        name: "cache-control",
        kind: "string",
        description: "Whether the answer may be stored.",
        example: "no-store",
    },
    Header {
        name: "content-encoding",
        kind: "string",
        description: "How the body is compressed.",
        example: "gzip",
    },
    Header {
        name: "content-location",
        kind: "string",
        description: "The path of the request that the body shows.",
        example: "/requests/01a22967-ef6c-711d-a474-2abe5e191626",
    },
    Header {
        name: "content-security-policy",
        kind: "string",
        description: "What the pages of this service may load and run.",
        example: "default-src 'none'",
    },
    Header {
        name: "cross-origin-resource-policy",
        kind: "string",
        description: "Which pages may load it.",
        example: "same-origin",
    },
    Header {
        name: "etag",
        kind: "string",
        description: "Names this state of the resource, for `If-None-Match`.",
        example: "\"5e884898da28047151d0e56f8dc62927\"",
    },
    Header {
        name: "idempotent-replayed",
        kind: "string",
        description: "`true`: the submission repeats an earlier one, by its `Idempotency-Key`.",
        example: "true",
    },
    Header {
        name: "location",
        kind: "string",
        description: "The path of the request.",
        example: "/requests/01a22967-ef6c-711d-a474-2abe5e191626",
    },
    Header {
        name: "preference-applied",
        kind: "string",
        description: "The preferences that were applied.",
        example: "respond-async, wait=10",
    },
    Header {
        name: "ratelimit",
        kind: "string",
        description: "What is left of the rate limit, if there is one: the requests `r`, and the \
                      seconds `t` until one more is allowed.",
        example: "\"default\";r=9;t=1",
    },
    Header {
        name: "ratelimit-policy",
        kind: "string",
        description: "The rate limit, if there is one: `q` requests in `w` seconds.",
        example: "\"default\";q=10;w=60",
    },
    Header {
        name: "referrer-policy",
        kind: "string",
        description: "What links from it tell other sites.",
        example: "no-referrer",
    },
    Header {
        name: "retry-after",
        kind: "integer",
        description: "When to ask again, in seconds.",
        example: "1",
    },
    Header {
        name: "vary",
        kind: "string",
        description: "The request fields on which the answer depends.",
        example: "accept-encoding",
    },
    Header {
        name: "www-authenticate",
        kind: "string",
        description: "How to authenticate.",
        example: "Bearer",
    },
    Header {
        name: "x-accel-buffering",
        kind: "string",
        description: "`no`: a proxy must pass the events on as they come.",
        example: "no",
    },
    Header {
        name: "x-content-type-options",
        kind: "string",
        description: "That the media type is to be taken as it is.",
        example: "nosniff",
    },
];

/// All fields of answers, by name.
pub(super) fn all() -> Value {
    let all = HEADERS.iter().map(|header| {
        let schema = match header.kind {
            "integer" => json!({ "type": "integer", "minimum": 0 }),
            kind => json!({ "type": kind }),
        };
        let example = match header.kind {
            "integer" => json!(header.example.parse().unwrap_or(1)),
            _ => json!(header.example),
        };
        let described = json!({
            "description": header.description,
            "schema": schema,
            "example": example,
        });
        (header.name.to_owned(), described)
    });
    Value::Object(all.collect())
}

/// The field `name` of an answer, which is always there or not.
pub(super) fn of(name: &str, is_required: bool) -> Value {
    if !is_required {
        return json!({ "$ref": format!("#/components/headers/{name}") });
    }
    let mut header = all().get(name).cloned().unwrap_or_default();
    header["required"] = json!(true);
    header
}

/// The fields of problems with this status, and whether each is always there.
pub(super) fn of_problem(status: u16) -> &'static [(&'static str, bool)] {
    match status {
        401 => &[("www-authenticate", true)],
        415 => &[("accept-encoding", false)],
        429 => &[("retry-after", true)],
        503 => &[("retry-after", false)],
        _ => &[],
    }
}

/// The fields of a submission.
pub(super) fn of_submission() -> [Value; 3] {
    let key = json!({
        "type": "string",
        "minLength": 1,
        "maxLength": IdempotencyKey::MAX_CHARS,
        "pattern": "^[!-~]+$",
    });
    [
        field(
            "Idempotency-Key",
            "Makes the submission safe to repeat. A new one for each job, and the same with each \
             repeat.",
            &key,
            "5e0b6f7c-invoice-4711",
        ),
        field(
            "Prefer",
            "How long to wait for the result (RFC 7240), in whole seconds and at most 60: \
             `respond-async, wait=10`. What is malformed or unknown is ignored.",
            &json!({ "type": "string" }),
            "respond-async, wait=10",
        ),
        field(
            "traceparent",
            "The trace (W3C Trace Context) that the callback is sent with. An invalid one is \
             ignored.",
            &json!({ "type": "string" }),
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ),
    ]
}

fn field(name: &str, description: &str, schema: &Value, example: &str) -> Value {
    json!({
        "name": name,
        "in": "header",
        "description": description,
        "schema": schema,
        "example": example,
    })
}
