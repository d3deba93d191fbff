//! The operations that have work done, and the list of handlers.

use serde_json::{Value, json};
use storm_shared::{models::HandlerName, services::ssrf::Policy};

use super::{
    ID, callback, headers,
    operation::{Access, Answer, Operation},
    requests, schemas,
};
use crate::{
    body::LIMIT,
    reply::{Kind, Problem},
    validation::{AsyncForm, Form, HandlerForm, SyncForm},
};

/// What a submission refuses, beside its body.
const SUBMISSION: &[Kind] = &[
    Kind::BadIdempotencyKey,
    Kind::IdempotencyKeyReused,
    Kind::BacklogFull,
    Kind::ReceiverOverloaded,
];

pub(super) fn operations() -> Vec<Operation> {
    vec![sync(), report(), handler(), handlers()]
}

fn sync() -> Operation {
    let example = json!({ "records": 10, "report_name": "Q1_Finance" });
    let done = json!({
        "report_id": "3eebd0ea-44d7-531b-b660-ca91c206c5e6",
        "status": "completed",
        "checksum": "a6652297c0dc6ba69ad50361e2bc93bffd239fa77e22c556eeb264bf2cf1bd73",
    });
    Operation::post(
        "/sync",
        "makeReport",
        "Make a report while the client waits",
    )
    .tag("submissions")
    .describe(
        "The report is made on one of `SYNC_THREADS` threads, or waits for one. It is recorded \
             once, when it is over.",
    )
    .access(Access::Client)
    .body("SyncSubmission", &[("report", example)])
    .refuses(read(&SyncForm))
    .answer(Answer::json(200, "Report", "The report.").example("report", done))
    .problems(&[
        Kind::Saturated,
        Kind::SyncTimeout,
        Kind::ShuttingDown,
        Kind::ReportFailed,
    ])
}

fn report() -> Operation {
    let polled = json!({ "records": 500, "report_name": "Q1_Finance" });
    let called_back = json!({
        "records": 500,
        "report_name": "Q1_Finance",
        "callback_url": "https://example.com/webhook",
    });
    let operation = Operation::post("/async", "submitReport", "Have a report made as a job")
        .describe(
            "The `202` means that the job is committed. Its callback can arrive before the `202` \
             does. With `Prefer: wait`, the answer is the result if it is stored in time.",
        )
        .body(
            "AsyncSubmission",
            &[("polling", polled), ("with-callback", called_back)],
        )
        .refuses(read(&AsyncForm::new(Policy::default())));
    let message = format!("Report generation started. Poll GET /requests/{ID} for the result");
    submission(operation, &message)
        .answer(waited(&requests::example()))
        .callbacks(callback::of_submission("report"))
}

fn handler() -> Operation {
    let example = json!({
        "payload": { "image": "cat.png" },
        "callback_url": "https://example.com/webhook",
    });
    let report = json!({ "payload": { "records": 10, "report_name": "Q1_Finance" } });
    let operation = Operation::post(
        "/async/{handler}",
        "submitJob",
        "Submit a job for a handler",
    )
    .describe(
        "As `POST /async`, for work of your own. Where the handler is `report`, the payload has the \
         fields of a report.",
    )
    .parameter(json!({
        "name": "handler",
        "in": "path",
        "required": true,
        "description": "The name of a handler: `GET /handlers` lists them.",
        "schema": schemas::handler_name(),
        "example": "report",
    }))
    .body(
        "HandlerSubmission",
        &[("report", report), ("thumbnails", example)],
    )
    .refuses(read(&HandlerForm::new(
        HandlerName::REPORT,
        LIMIT,
        Policy::default(),
    )))
    .problems(&[Kind::UnknownHandler, Kind::OldWorkers]);
    let message = format!("Job accepted for `thumbnails`. Poll GET /requests/{ID} for the result");
    submission(operation, &message)
        .answer(waited(&requests::example()))
        .callbacks(callback::of_submission("job"))
}

/// What a form says of an object without fields.
fn read<F: Form>(form: &F) -> Result<(), Problem> {
    let read = form.read(b"{}");
    read.map(|_| ()).map_err(|invalid| *invalid.problem)
}

/// What both submissions of jobs have. Their `202` says `message`.
fn submission(mut operation: Operation, message: &str) -> Operation {
    for header in headers::of_submission() {
        operation = operation.parameter(header);
    }
    let accepted = json!({
        "request_id": ID,
        "status": "pending",
        "expected_at": "2026-11-25T04:35:20.697Z",
        "message": message,
    });
    let answer = Answer::json(202, "Accepted", "The job is committed.")
        .example("accepted", accepted)
        .header("location")
        .header("retry-after")
        .may_have("idempotent-replayed")
        .may_have("preference-applied")
        .links_to_request(
            "/request_id",
            &[
                "getRequest",
                "cancelRequest",
                "redeliverRequest",
                "eraseRequest",
            ],
        );
    operation
        .tag("submissions")
        .access(Access::Client)
        .answer(answer)
        .problems(SUBMISSION)
        .writes()
}

/// The `200` of a client that waits.
fn waited(example: &Value) -> Answer {
    let description =
        "With `Prefer: wait`: the request, whose result is stored or which has failed.";
    Answer::json(200, "Request", description)
        .example("completed", example.clone())
        .header("content-location")
        .may_have("idempotent-replayed")
        .may_have("preference-applied")
}

fn handlers() -> Operation {
    let example = json!({ "handlers": [
        {
            "name": "report", "kind": "built-in", "concurrency": null, "timeout_ms": null,
            "max_payload": 16384, "max_result": null, "waiting": null, "running": null,
            "workers": null, "breaker": null,
        },
        {
            "name": "thumbnails", "kind": "http", "concurrency": 100, "timeout_ms": 30000,
            "max_payload": 262_144, "max_result": 1_048_576, "waiting": 12, "running": 0,
            "workers": 2, "breaker": {
                "state": "open", "open": 2, "half_open": 0, "unknown": 0,
                "until": "2026-11-24T08:00:08.215Z",
            },
        },
    ] });
    Operation::get("/handlers", "listHandlers", "List the handlers")
        .tag("submissions")
        .access(Access::Client)
        .answer(
            Answer::json(200, "HandlerList", "The handlers, and what they do.")
                .example("handlers", example),
        )
}
