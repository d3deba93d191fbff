//! The operations on requests.

use serde_json::{Value, json};
use storm_shared::models::Status;

use super::{
    ID, asked,
    operation::{Access, Answer, Operation},
    schemas,
};
use crate::{
    reply::Kind,
    validation::{self, bounds},
};

pub(super) fn operations() -> Vec<Operation> {
    vec![
        list(),
        find(),
        cancel(),
        redeliver(),
        erase(),
        redeliver_page(),
    ]
}

/// A finished request.
pub(super) fn example() -> Value {
    json!({
        "id": ID,
        "mode": "async",
        "handler": "report",
        "status": "COMPLETED",
        "input_payload": { "report_name": "Q1_Finance", "records": 10 },
        "result_payload": {
            "report_id": "3eebd0ea-44d7-531b-b660-ca91c206c5e6",
            "checksum": "a6652297c0dc6ba69ad50361e2bc93bffd239fa77e22c556eeb264bf2cf1bd73",
        },
        "callback_url": "https://example.com/webhook",
        "created_at": "2026-11-24T08:00:00.000Z",
        "completed_at": "2026-11-24T08:00:00.215Z",
        "failure": null,
        "claims": 1,
        "lost_claims": 0,
        "attempts": [{
            "number": 1,
            "stage": "callback",
            "started_at": "2026-11-24T08:00:00.121Z",
            "duration_ms": 88,
            "class": "success",
            "status": 204,
            "error": null,
        }],
        "next_attempt_at": null,
        "parked_since": null,
        "parks": 0,
        "redelivery": null,
        "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "events": [],
        "waiting_for": null,
        "erased_at": null,
    })
}

/// A request that waits for a retry.
fn example_of_a_retry() -> Value {
    let mut request = example();
    request["status"] = json!("PENDING");
    request["completed_at"] = json!(null);
    request["attempts"][0]["class"] = json!("status");
    request["attempts"][0]["status"] = json!(500);
    request["attempts"][0]["error"] = json!("HTTP status 500");
    request["next_attempt_at"] = json!("2026-11-24T08:00:02.209Z");
    request["events"] = json!([{
        "at": "2026-11-24T08:00:00.209Z",
        "event": "attempt_failed",
        "claim": 1,
        "detail": "HTTP status 500",
    }]);
    request["waiting_for"] = json!({
        "reason": "retry",
        "detail": "Attempt 1 failed (HTTP status 500): the next one is scheduled.",
        "until": "2026-11-24T08:00:02.209Z",
    });
    request
}

/// The parameter `id` of a path.
fn id() -> Value {
    json!({
        "name": "id",
        "in": "path",
        "required": true,
        "description": "The id of the request.",
        "schema": schemas::request_id(),
        "example": ID,
    })
}

/// An optional parameter of a query.
pub(super) fn query(name: &str, description: &str, schema: &Value) -> Value {
    json!({ "name": name, "in": "query", "description": description, "schema": schema })
}

fn list() -> Operation {
    let page = json!({
        "requests": [{
            "id": ID,
            "mode": "async",
            "handler": "report",
            "status": "FAILED",
            "callback_url": "https://example.com/webhook",
            "created_at": "2026-11-24T08:00:00.000Z",
            "completed_at": "2026-11-24T08:00:14.112Z",
            "failure": {
                "reason": "callback_failed",
                "detail": "All 4 attempts failed; the last: HTTP status 500.",
            },
        }],
        "next_cursor": "01a210fc8a71744b8961b8ba8b51db38V3Zx7lJ1QkqN",
    });
    // With the same filters, or the cursor is refused.
    let next = json!({
        "cursor": "$response.body#/next_cursor",
        "status": "$request.query.status",
        "handler": "$request.query.handler",
        "created_after": "$request.query.created_after",
        "created_before": "$request.query.created_before",
    });
    let answer = Answer::json(200, "RequestPage", "A page.")
        .example("page", page)
        .links_to_request("/requests/0/id", &["getRequest"])
        .link("listRequests", next);
    Operation::get("/requests", "listRequests", "List requests, newest first")
        .tag("requests")
        .describe(
            "A page examines 10,000 requests at most, so it can be short or empty and have a \
             `next_cursor`: only a null one marks the last page.",
        )
        .access(Access::Client)
        .parameter(query(
            "status",
            "Only requests with this status.",
            &schemas::of("Status"),
        ))
        .parameter(query(
            "handler",
            "Only requests of this handler, which must be in the settings, or have work to do.",
            &schemas::handler_name(),
        ))
        .parameter(query(
            "created_after",
            "Only requests that were accepted at this time or later. It ends the search early.",
            &schemas::time("RFC 3339."),
        ))
        .parameter(query(
            "created_before",
            "Only requests that were accepted before this time.",
            &schemas::time("RFC 3339."),
        ))
        .parameter(query(
            "limit",
            "The size of the page.",
            &schemas::page_size(bounds::LIST),
        ))
        .parameter(query(
            "cursor",
            "The `next_cursor` of the page before. The filters must be the same.",
            &json!({ "type": "string" }),
        ))
        .answer(answer)
        .refuses(validation::list(&asked("limit", "0")))
        .reads()
}

fn find() -> Operation {
    let wait = json!({ "type": "string", "pattern": "^[0-9]{1,9}(ms|s|m)$" });
    let wait = json!({
        "name": "wait",
        "in": "query",
        "description": "A long poll: how long to wait for the end of the request. A whole number \
                        and the unit `ms`, `s` or `m`, and at most a minute: more is taken as that.",
        "schema": wait,
        "example": "20s",
    });
    let answer = Answer::json(200, "Request", "The request as it is now.")
        .example("completed", example())
        .example("retry", example_of_a_retry());
    Operation::get(
        "/requests/{id}",
        "getRequest",
        "See a request, or wait for its end",
    )
    .tag("requests")
    .access(Access::Client)
    .parameter(id())
    .parameter(wait)
    .answer(answer)
    .refuses(validation::wait(&asked("wait", "soon")))
    .problems(&[
        Kind::NotFound,
        Kind::TooManyWaiters,
        Kind::MemoryBudgetExceeded,
    ])
    .reads()
}

fn cancel() -> Operation {
    let cancelled = json!({
        "request_id": ID,
        "status": "FAILED",
        "failure": {
            "reason": "cancelled",
            "detail": "The client cancelled it while no worker held it.",
        },
        "message": "The job is cancelled: no callback will be sent",
    });
    Operation::bare(
        "delete",
        "/requests/{id}",
        "cancelRequest",
        "Cancel a job, or the redelivery in progress",
    )
    .tag("requests")
    .describe("A repeat is safe: for a cancelled job it is the same answer.")
    .access(Access::Client)
    .parameter(id())
    .answer(Answer::json(200, "Cancelled", "It is cancelled.").example("job", cancelled))
    .problems(&[Kind::NotFound, Kind::RequestOver])
    .writes()
}

fn redeliver() -> Operation {
    let redelivering = json!({
        "request_id": ID,
        "redelivery": "pending",
        "message": format!("Redelivery started. GET /requests/{ID} shows its attempts"),
    });
    Operation::bare(
        "post",
        "/requests/{id}/redeliver",
        "redeliverRequest",
        "Send the callback again",
    )
    .tag("requests")
    .describe("A new series of attempts with the same bytes to the same URL.")
    .access(Access::Client)
    .parameter(id())
    .answer(
        Answer::json(202, "Redelivering", "The redelivery is started.")
            .example("started", redelivering)
            .header("location")
            .links_to_request("/request_id", &["getRequest", "cancelRequest"]),
    )
    .problems(&[
        Kind::NotFound,
        Kind::RequestUnfinished,
        Kind::RedeliveryUnderWay,
        Kind::NothingToRedeliver,
        Kind::RequestErased,
        Kind::ReceiverOverloaded,
    ])
    .writes()
}

fn erase() -> Operation {
    let erased = json!({
        "request_id": ID,
        "status": "COMPLETED",
        "erased_at": "2026-11-24T08:00:00.000Z",
        "message": "The payload, the result and the URL are erased. The outcome is kept",
    });
    Operation::bare(
        "post",
        "/requests/{id}/erase",
        "eraseRequest",
        "Erase what a finished request was about",
    )
    .tag("requests")
    .describe(
        "Payload, result and URL are removed at once and for good; the outcome is kept. A repeat is \
         safe: it is the same answer.",
    )
    .access(Access::Client)
    .parameter(id())
    .answer(
        Answer::json(200, "Erased", "It is erased.")
            .example("erased", erased)
            .links_to_request("/request_id", &["getRequest"]),
    )
    .problems(&[
        Kind::NotFound,
        Kind::RequestUnfinished,
        Kind::RedeliveryUnderWay,
    ])
    .writes()
}

fn redeliver_page() -> Operation {
    let started = json!({ "redelivering": 97, "skipped": 3, "cursor": ID });
    let next = json!({ "cursor": "$response.body#/cursor", "status": "$request.query.status" });
    let mut status = query(
        "status",
        "Which requests.",
        &json!({ "type": "string", "enum": [Status::Failed, Status::Completed] }),
    );
    status["required"] = json!(true);
    Operation::bare(
        "post",
        "/requests/redeliver",
        "redeliverPage",
        "Send the callbacks of a page of requests again",
    )
    .tag("requests")
    .access(Access::Client)
    .parameter(status)
    .parameter(query(
        "since",
        "Only requests that were accepted at this time or later.",
        &schemas::time("RFC 3339."),
    ))
    .parameter(query(
        "limit",
        "The size of the page.",
        &schemas::page_size(bounds::REDELIVERY),
    ))
    .parameter(query(
        "cursor",
        "The `cursor` of the page before.",
        &schemas::request_id(),
    ))
    .answer(
        Answer::json(
            202,
            "RedeliveriesStarted",
            "How many redeliveries were started.",
        )
        .example("page", started)
        .link("redeliverPage", next),
    )
    .refuses(validation::page(&[]))
    .writes()
}
