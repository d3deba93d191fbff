//! The description of the API: an `OpenAPI` 3.1 document.
//!
//! It is made of the constants and words that the code itself checks and answers with: the types of
//! problems, the bounds of fields and pages, the words of states. The tests compare every answer
//! that they get with it, so that no route, status, header or field is left out.

mod callback;
mod headers;
mod operation;
mod operators;
mod problems;
mod requests;
mod schemas;
mod service;
mod submissions;

use std::sync::LazyLock;

use serde_json::{Map, Value, json};
use storm_shared::models::RequestId;

use self::operation::Operation;
use crate::reply::Kind;

/// The id of the request in the examples.
const ID: &str = "01a210fc-8a71-744b-8961-b8ba8b51db38";

const DESCRIPTION: &str = "\
Slow work behind HTTP. `POST /async` stores a job, answers `202` at once, and calls the client back \
(a webhook) when the work is done; or the client polls. `POST /sync` does the same work while the \
client waits.

* **Errors** are `application/problem+json` (RFC 9457). Their `type` is stable, and `detail` says \
what to change.
* **HEAD** works wherever `GET` does. Any other method is `405` with `Allow`, and any other path \
`404`.
* **Authentication:** with the setting `API_TOKENS`, clients send a bearer token; without it, none \
is needed, and all callers see all requests. Operators have tokens of their own (`ADMIN_TOKENS`); \
without that setting the paths under `/admin` are `404`.
* **New members** can be added to answers: clients must ignore those that they don't know.
* **Malformed HTTP** is `400`, and a head of more than 16 KiB or 100 fields `431`, without a body.";

static DOCUMENT: LazyLock<String> = LazyLock::new(|| document().to_string());

/// The document as JSON. Made once, by the first who needs it.
pub fn text() -> &'static str {
    &DOCUMENT
}

/// The document.
pub fn document() -> Value {
    json!({
        "openapi": "3.1.0",
        "jsonSchemaDialect": "https://spec.openapis.org/oas/3.1/dialect/base",
        "info": {
            "title": "Request Storm Handler",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": "Slow work behind HTTP: with the client waiting, or as a job with a webhook.",
            "description": DESCRIPTION,
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
        },
        "servers": [{ "url": "/", "description": "This service." }],
        "tags": [
            { "name": "submissions", "description": "Have work done." },
            { "name": "requests", "description": "See, cancel, redeliver and erase requests." },
            { "name": "operators", "description": "What operators do, with `ADMIN_TOKENS`." },
            { "name": "service", "description": "Its health, metrics and description." },
        ],
        "paths": paths(),
        "webhooks": { "callback": { "post": callback::operation("webhook") } },
        "components": {
            "schemas": schemas::all(),
            "headers": headers::all(),
            "examples": problem_examples(),
            "securitySchemes": security_schemes(),
        },
    })
}

/// A query of one parameter, as the validation reads it.
fn asked(name: &str, value: &str) -> [(String, String); 1] {
    [(name.to_owned(), value.to_owned())]
}

fn operations() -> impl Iterator<Item = Operation> {
    submissions::operations()
        .into_iter()
        .chain(requests::operations())
        .chain(operators::operations())
        .chain(service::operations())
}

fn paths() -> Value {
    let mut paths = Map::new();
    for operation in operations() {
        let path = paths.entry(operation.path).or_insert_with(|| json!({}));
        path[operation.method] = operation.render();
    }
    Value::Object(paths)
}

fn problem_examples() -> Value {
    // Never another: it is a UUID.
    let id = ID.parse().unwrap_or_else(|_| RequestId::generate());
    let all = Kind::ALL.iter().map(|kind| {
        let value = problems::example(*kind, id).json();
        let summary = kind.when();
        let example = json!({ "summary": summary, "value": value });
        (kind.name().to_owned(), example)
    });
    Value::Object(all.collect())
}

fn security_schemes() -> Value {
    let bearer = |description: &str| json!({ "type": "http", "scheme": "bearer", "description": description });
    json!({
        "client": bearer("A client's token: an entry of `API_TOKENS`. Without this setting none is \
                          needed."),
        "operator": bearer("An operator's token: an entry of `ADMIN_TOKENS`. Without this setting \
                            there are no operators."),
        "metrics": bearer("The token of `METRICS_TOKEN`; without it, a client's; without \
                           `API_TOKENS`, none is needed."),
    })
}
