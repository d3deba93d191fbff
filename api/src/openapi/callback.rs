//! The callback, which the worker sends: see `docs/RECEIVERS.md`.

use serde_json::{Value, json};
use storm_shared::services::{marker::CALLBACK_MARKER, signature};

use super::{ID, schemas};

/// Those of a submission: the callback goes to its `callback_url`.
pub(super) fn of_submission(id: &str) -> Value {
    json!({ "ended": { "{$request.body#/callback_url}": { "post": operation(id) } } })
}

/// The operation of the receiver.
pub(super) fn operation(id: &str) -> Value {
    let header = |name: &str, is_required: bool, description: &str, example: &str| {
        json!({
            "name": name,
            "in": "header",
            "required": is_required,
            "description": description,
            "schema": { "type": "string" },
            "example": example,
        })
    };
    json!({
        "operationId": format!("{id}Ended"),
        "tags": ["submissions"],
        "summary": "A job has ended",
        "description": "Sent by the worker, at least once, in the format of Standard Webhooks 1.0. \
                        The body is the same bytes on every attempt: deduplicate by `webhook-id`.",
        "parameters": [
            header(signature::ID.as_str(), true, "The id of the request.", ID),
            header(
                signature::TIMESTAMP.as_str(),
                true,
                "When this attempt began, in seconds since 1970.",
                "1777012345",
            ),
            header(
                signature::SIGNATURE.as_str(),
                false,
                "One signature for each secret of the sender, separated by spaces: `v1,` and the \
                 base64 of the HMAC-SHA256 of `{webhook-id}.{webhook-timestamp}.{body}`, or `v1a,` \
                 and that of an ed25519 signature. Absent if the sender has no secret.",
                "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
            ),
            header(CALLBACK_MARKER, true, "Marks the request as a callback.", "1"),
            header(
                "traceparent",
                true,
                "The trace that the submission came with, or a new one.",
                "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            ),
        ],
        "requestBody": {
            "required": true,
            "content": { "application/json": {
                "schema": schemas::of("Callback"),
                "examples": {
                    "report": { "value": {
                        "request_id": ID,
                        "report_id": "3eebd0ea-44d7-531b-b660-ca91c206c5e6",
                        "status": "completed",
                        "checksum":
                            "a6652297c0dc6ba69ad50361e2bc93bffd239fa77e22c556eeb264bf2cf1bd73",
                        "report_name": "Q1_Finance",
                        "records": 10,
                    } },
                    "handler": { "value": {
                        "request_id": ID,
                        "handler": "thumbnails",
                        "status": "completed",
                        "result": { "width": 128 },
                    } },
                    "failed": { "value": {
                        "request_id": ID,
                        "handler": "thumbnails",
                        "status": "failed",
                        "failure": {
                            "reason": "work_failed",
                            "detail": "The work failed: the handler answered 422.",
                        },
                    } },
                },
            } },
        },
        "responses": {
            "2XX": { "description": "Delivered. The body is ignored." },
            "410": { "description": "The receiver is gone: no further attempt." },
            "429": {
                "description": "As for any other status, further attempts follow: here, and for \
                                `503`, no sooner than `Retry-After` says.",
            },
            "default": {
                "description": "The attempt has failed. It is retried on a schedule: 3 times by \
                                default.",
            },
        },
    })
}
