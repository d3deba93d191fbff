//! The operations about the service itself.

use serde_json::json;

use super::operation::{Access, Answer, Operation};
use crate::reply::Kind;

pub(super) fn operations() -> Vec<Operation> {
    let all = vec![
        health(),
        live(),
        ready(),
        metrics(),
        overview("/overview", "watch", Access::Client)
            .describe("A client sees its own receivers and failures only."),
        description(),
    ];
    let of_service = |operation: Operation| operation.tag("service");
    all.into_iter().map(of_service).collect()
}

fn health() -> Operation {
    let ok = json!({ "status": "ok", "database": "ok", "redis": "ok" });
    let failing = json!({ "status": "unavailable", "database": "ok", "redis": "unreachable" });
    Operation::get("/healthz", "checkHealth", "Check the database and Redis")
        .answer(Answer::json(200, "Health", "Both work.").example("ok", ok))
        .answer(
            Answer::json(503, "Health", "One of them does not.").example("failing", failing),
        )
        // Until the database is open.
        .problems(&[Kind::DatabaseUnavailable])
}

fn live() -> Operation {
    Operation::get("/livez", "checkLiveness", "Whether the process runs")
        .answer(
            Answer::json(200, "Alive", "It runs.").example("alive", json!({ "status": "alive" })),
        )
        // A probe is answered past the limit, too.
        .without(Kind::TooManyConnections)
}

fn ready() -> Operation {
    let ready = json!({ "status": "ready", "database": "ok", "redis": "unreachable" });
    let draining = json!({ "status": "draining" });
    Operation::get(
        "/readyz",
        "checkReadiness",
        "Whether requests can be accepted",
    )
    .answer(Answer::json(200, "Readiness", "They can.").example("ready", ready))
    .answer(Answer::json(503, "Readiness", "They can't.").example("draining", draining))
}

fn metrics() -> Operation {
    let text = json!({ "type": "string", "description": "The text format of Prometheus." });
    let example = "# HELP storm_build_info Always 1; the labels name the service and its version\n\
                   # TYPE storm_build_info gauge\n\
                   storm_build_info{service=\"api\",version=\"0.1.0\"} 1\n";
    Operation::get("/metrics", "getMetrics", "The metrics of this process")
        .describe("With `METRICS_ADDR` they are served there, and here is no such path.")
        .access(Access::Scraper)
        .answer(Answer::of("text/plain", text, "The metrics.").example("build", json!(example)))
}

/// The feed of the live page.
pub(super) fn overview(path: &'static str, id: &'static str, access: Access) -> Operation {
    let events = json!({
        "type": "string",
        "description": "Server-sent events: `history`, and then a `sample` each second.",
    });
    let example = "event: history\n\
                   data: {\"client\":null,\"interval_ms\":1000,\"samples\":[],\"now\":null}\n\n";
    let answer = Answer::of("text/event-stream", events, "The figures, as they come.");
    Operation::get(path, id, "Watch the figures of each second")
        .access(access)
        .answer(
            answer
                .example("beginning", json!(example))
                .header("x-accel-buffering"),
        )
        .problems(&[Kind::TooManyViewers])
}

fn description() -> Operation {
    let document = json!({
        "type": "object",
        "description": "An OpenAPI 3.1 document.",
        "required": ["openapi"],
        "properties": { "openapi": { "type": "string", "pattern": "^3\\.1\\." } },
        "additionalProperties": true,
    });
    let example = json!({
        "openapi": "3.1.0",
        "info": { "title": "Request Storm Handler", "version": "0.1.0" },
        "paths": {},
    });
    let known = json!({
        "name": "if-none-match",
        "in": "header",
        "description": "The `ETag` of a document that the client has.",
        "schema": { "type": "string" },
    });
    Operation::get("/openapi.json", "getDescription", "This document")
        .parameter(known)
        .answer(
            as_file(Answer::of("application/json", document, "The document."))
                .example("document", example)
                .may_have("content-encoding"),
        )
        .answer(as_file(Answer::empty(304, "The client has this document.")))
}

/// With the fields of all files that are embedded in the program.
fn as_file(answer: Answer) -> Answer {
    answer
        .header("etag")
        .header("vary")
        .header("content-security-policy")
        .header("cross-origin-resource-policy")
        .header("referrer-policy")
        .header("x-content-type-options")
}
