//! The operations of operators.

use serde_json::{Value, json};
use storm_shared::services::store::BulkAction;

use super::{
    ID, asked,
    operation::{Access, Answer, Operation},
    requests::query,
    schemas, service,
};
use crate::{
    reply::Kind,
    validation::{self, bounds},
};

pub(super) fn operations() -> Vec<Operation> {
    let all = vec![
        pauses(),
        pause(),
        resume(),
        bulk(
            BulkAction::Cancel,
            "/admin/cancel",
            "cancelMatching",
            "Cancel the jobs and redeliveries that match a filter",
            "CancelFilter",
        ),
        bulk(
            BulkAction::Redeliver,
            "/admin/redeliver",
            "redeliverMatching",
            "Send the callbacks of requests that match a filter again",
            "RedeliverFilter",
        ),
        audit(),
        service::overview("/admin/overview", "watchAll", Access::Operator),
    ];
    let of_operators = |operation: Operation| operation.tag("operators").access(Access::Operator);
    all.into_iter().map(of_operators).collect()
}

fn pauses() -> Operation {
    let pauses = json!({
        "everything": null,
        "origins": [{
            "origin": "https://hooks.example",
            "since": "2026-11-24T08:00:00.000Z",
            "operator": "ops",
        }],
    });
    Operation::get("/admin/pause", "listPauses", "List the pauses in force")
        .answer(Answer::json(200, "Pauses", "The pauses.").example("origin", pauses))
        .reads()
}

fn targets() -> [(&'static str, Value); 2] {
    [
        // First, so that it is what the form of the reference begins with: names are sorted.
        (
            "callbacks_to_an_origin",
            json!({ "origin": "https://hooks.example" }),
        ),
        ("everything", json!({ "everything": true })),
    ]
}

fn pause() -> Operation {
    let message =
        "The origin is paused: after the workers' next heartbeat, no callback to it begins";
    Operation::post(
        "/admin/pause",
        "pause",
        "Pause all work, or the callbacks to one origin",
    )
    .describe("Jobs are accepted meanwhile, and wait. A pause holds until it is resumed.")
    .body("PauseTarget", &targets())
    .answer(
        Answer::json(200, "PauseChanged", "It is paused.")
            .example("origin", json!({ "changed": true, "message": message })),
    )
    .problems(&[Kind::TooManyPauses])
    .refuses(validation::paused(b"{}"))
    .writes()
}

fn resume() -> Operation {
    let message = "Everything is resumed, except for the origins that are paused";
    Operation::post(
        "/admin/resume",
        "resume",
        "Resume all work, or the callbacks to one origin",
    )
    .body("PauseTarget", &targets())
    .answer(
        Answer::json(200, "PauseChanged", "It is not paused.")
            .example("everything", json!({ "changed": true, "message": message })),
    )
    .refuses(validation::paused(b"{}"))
    .writes()
}

fn bulk(
    action: BulkAction,
    path: &'static str,
    id: &'static str,
    summary: &'static str,
    filter: &'static str,
) -> Operation {
    // Each only tries: the form of the reference begins with one of them.
    let filters = [
        (
            "all",
            json!({ "all": true, "limit": 1000, "dry_run": true }),
        ),
        (
            "origin",
            json!({ "origin": "https://hooks.example", "dry_run": true }),
        ),
    ];
    let tried = json!({
        "dry_run": true, "matched": 1, "changed": 0, "skipped": 0, "ids": [ID], "cursor": null,
    });
    let done = json!({
        "dry_run": false, "matched": 100, "changed": 98, "skipped": 2, "cursor": ID,
    });
    Operation::post(path, id, summary)
        .describe(
            "Of all clients, a page at a time. There must be a filter, or `all`: true. Each page is \
             one record in the audit.",
        )
        .body(filter, &filters)
        .answer(
            Answer::json(200, "Bulked", "What was done, or would be.")
                .example("dry_run", tried)
                .example("page", done),
        )
        .refuses(validation::bulk(action, b"{}"))
        .writes()
}

fn audit() -> Operation {
    let page = json!({
        "records": [{
            "number": 3,
            "at": "2026-11-24T08:02:12.832Z",
            "operator": "ops",
            "action": "pause",
            "filter": { "origin": "https://hooks.example" },
            "matched": 1,
            "changed": 1,
            "dry_run": false,
        }],
        "next_cursor": "3",
    });
    let next = json!({ "cursor": "$response.body#/next_cursor" });
    Operation::get("/admin/audit", "listAudit", "List what operators have done")
        .parameter(query(
            "limit",
            "The size of the page.",
            &schemas::page_size(bounds::AUDIT),
        ))
        .parameter(query(
            "cursor",
            "The `next_cursor` of the page before.",
            &json!({ "type": "string", "pattern": "^[1-9][0-9]{0,17}$" }),
        ))
        .answer(
            Answer::json(200, "AuditPage", "A page, newest first.")
                .example("page", page)
                .link("listAudit", next),
        )
        .refuses(validation::audit(&asked("limit", "0")))
        .reads()
}
