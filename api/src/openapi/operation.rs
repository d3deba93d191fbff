//! One operation: a method of a path, what it takes, and every answer to it.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{headers, schemas};
use crate::{
    body,
    reply::{Kind, Problem},
};

/// The types that every path answers.
const ANY_PATH: &[Kind] = &[Kind::BadHost, Kind::Misdirected, Kind::TooManyConnections];

/// Those of methods that can change something.
const CHANGES: &[Kind] = &[Kind::CrossOrigin, Kind::CallbackLoop];

/// Those of paths that need a token where tokens are set up.
const TOKEN: &[Kind] = &[
    Kind::Unauthorized,
    Kind::Forbidden,
    Kind::RateLimited,
    // Until the database is open.
    Kind::DatabaseUnavailable,
];

/// Those of a body of JSON.
const JSON_BODY: &[Kind] = &[
    Kind::MalformedBody,
    Kind::BodyTimeout,
    Kind::BodyTooLarge,
    Kind::UnsupportedMediaType,
    Kind::Validation,
    Kind::UnsupportedTransferCoding,
    Kind::MemoryBudgetExceeded,
];

/// Those where no body is taken.
const NO_BODY: &[Kind] = &[
    Kind::MalformedBody,
    Kind::UnexpectedBody,
    Kind::BodyTimeout,
    Kind::UnsupportedMediaType,
    Kind::UnsupportedTransferCoding,
];

/// Those of the store.
const STORE: &[Kind] = &[
    Kind::Overloaded,
    Kind::ShuttingDown,
    Kind::DatabaseLocked,
    Kind::DatabaseFull,
    Kind::DatabaseReadOnly,
    Kind::DatabaseCorrupt,
    Kind::DatabaseMoved,
    Kind::DatabaseMigrated,
    Kind::DatabaseFailing,
    Kind::DatabaseUnreachable,
    Kind::DatabaseUnavailable,
];

/// An operation.
pub(super) struct Operation {
    pub(super) path: &'static str,
    pub(super) method: &'static str,
    id: &'static str,
    tag: &'static str,
    summary: &'static str,
    description: String,
    access: Access,
    parameters: Vec<Value>,
    body: Option<Value>,
    problems: Vec<Kind>,
    /// What it says of a problem in other words than most operations, and when it does.
    own: Vec<(&'static str, Problem)>,
    answers: Vec<Answer>,
    callbacks: Option<Value>,
}

/// Who may call it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// All.
    Open,
    /// Clients: `API_TOKENS`.
    Client,
    /// Operators: `ADMIN_TOKENS`.
    Operator,
    /// Scrapers: `METRICS_TOKEN`, or clients.
    Scraper,
}

/// An answer that is no problem.
pub(super) struct Answer {
    status: u16,
    description: &'static str,
    media_type: &'static str,
    schema: Value,
    examples: Map<String, Value>,
    /// The names of those in [`headers`], and whether each is always there.
    headers: Vec<(&'static str, bool)>,
    links: Map<String, Value>,
}

impl Answer {
    pub(super) fn json(status: u16, schema: &str, description: &'static str) -> Self {
        Self {
            status,
            description,
            media_type: "application/json",
            schema: schemas::of(schema),
            examples: Map::new(),
            headers: Vec::new(),
            links: Map::new(),
        }
    }

    /// One without a body.
    pub(super) fn empty(status: u16, description: &'static str) -> Self {
        Self {
            media_type: "",
            ..Self::json(status, "", description)
        }
    }

    pub(super) fn of(media_type: &'static str, schema: Value, description: &'static str) -> Self {
        Self {
            media_type,
            schema,
            ..Self::json(200, "", description)
        }
    }

    pub(super) fn example(mut self, name: &str, value: Value) -> Self {
        let example = Map::from_iter([("value".to_owned(), value)]);
        self.examples.insert(name.to_owned(), example.into());
        self
    }

    /// A header that is always there.
    pub(super) fn header(mut self, name: &'static str) -> Self {
        self.headers.push((name, true));
        self
    }

    /// A header that can be there.
    pub(super) fn may_have(mut self, name: &'static str) -> Self {
        self.headers.push((name, false));
        self
    }

    /// What can be done with the request whose id is at `id` in the body.
    pub(super) fn links_to_request(mut self, id: &str, operations: &[&str]) -> Self {
        for operation in operations {
            let id = format!("$response.body#{id}");
            self = self.link(operation, json!({ "id": id }));
        }
        self
    }

    pub(super) fn link(mut self, operation: &str, parameters: Value) -> Self {
        let mut link = json!({ "operationId": operation });
        link["parameters"] = parameters;
        self.links.insert(operation.to_owned(), link);
        self
    }
}

impl Operation {
    pub(super) fn get(path: &'static str, id: &'static str, summary: &'static str) -> Self {
        Self::new("get", path, id, summary)
    }

    /// Of a request with a body of JSON.
    pub(super) fn post(path: &'static str, id: &'static str, summary: &'static str) -> Self {
        Self::new("post", path, id, summary)
            .problems(CHANGES)
            .problems(JSON_BODY)
    }

    /// Of a request that changes something, and has no body.
    pub(super) fn bare(
        method: &'static str,
        path: &'static str,
        id: &'static str,
        summary: &'static str,
    ) -> Self {
        Self::new(method, path, id, summary)
            .problems(CHANGES)
            .problems(NO_BODY)
            .says("the body broke off", body::broken())
            .says(
                "a body was sent, which is not JSON",
                Problem::no_media_type(),
            )
    }

    fn new(
        method: &'static str,
        path: &'static str,
        id: &'static str,
        summary: &'static str,
    ) -> Self {
        Self {
            path,
            method,
            id,
            tag: "",
            summary,
            description: String::new(),
            access: Access::Open,
            parameters: Vec::new(),
            body: None,
            problems: ANY_PATH.to_vec(),
            own: Vec::new(),
            answers: Vec::new(),
            callbacks: None,
        }
    }

    pub(super) fn tag(self, tag: &'static str) -> Self {
        Self { tag, ..self }
    }

    pub(super) fn describe(self, description: &str) -> Self {
        let description = description.to_owned();
        Self {
            description,
            ..self
        }
    }

    pub(super) fn access(self, access: Access) -> Self {
        let this = Self { access, ..self };
        if access == Access::Open {
            return this;
        }
        let forbidden = Problem::forbidden(access == Access::Operator);
        let this = this.problems(TOKEN).says(Kind::Forbidden.when(), forbidden);
        // Then it is a path like any that does not exist.
        let when = match access {
            Access::Operator => "there are no operators: `ADMIN_TOKENS` is not set",
            Access::Scraper => "the metrics have a listener of their own: `METRICS_ADDR`",
            Access::Open | Access::Client => return this,
        };
        this.problems(&[Kind::NotFound])
            .says(when, Problem::no_such_path())
    }

    pub(super) fn parameter(mut self, parameter: Value) -> Self {
        self.parameters.push(parameter);
        self
    }

    /// The body, with an example for each use.
    pub(super) fn body(mut self, schema: &str, examples: &[(&str, Value)]) -> Self {
        let examples: Map<_, _> = examples
            .iter()
            .map(|(name, value)| ((*name).to_owned(), json!({ "value": value })))
            .collect();
        let content = json!({ "schema": schemas::of(schema), "examples": examples });
        self.body = Some(json!({
            "required": true,
            "content": { "application/json": content },
        }));
        self
    }

    /// It reads the store.
    pub(super) fn reads(self) -> Self {
        self.problems(STORE)
    }

    /// It writes to the store.
    pub(super) fn writes(self) -> Self {
        self.reads().problems(&[Kind::OutcomeUnknown])
    }

    pub(super) fn problems(mut self, kinds: &[Kind]) -> Self {
        self.problems.extend(kinds);
        self
    }

    /// It answers a type of problem like this, `when`; most operations say something else.
    pub(super) fn says(mut self, when: &'static str, problem: Problem) -> Self {
        self.own.retain(|(_, known)| known.kind() != problem.kind());
        self.own.push((when, problem));
        self
    }

    /// It refuses invalid fields or parameters, such as those of which `refused` is the outcome.
    pub(super) fn refuses<T>(self, refused: Result<T, Problem>) -> Self {
        let this = self.problems(&[Kind::Validation]);
        match refused {
            Err(problem) if problem.kind() == Kind::Validation => {
                this.says(Kind::Validation.when(), problem)
            }
            _ => this,
        }
    }

    /// It never answers this type, although other paths do.
    pub(super) fn without(mut self, kind: Kind) -> Self {
        self.problems.retain(|known| *known != kind);
        self
    }

    pub(super) fn answer(mut self, answer: Answer) -> Self {
        self.answers.push(answer);
        self
    }

    pub(super) fn callbacks(self, callbacks: Value) -> Self {
        Self {
            callbacks: Some(callbacks),
            ..self
        }
    }

    /// The object of the document.
    pub(super) fn render(&self) -> Value {
        let mut object = json!({
            "operationId": self.id,
            "tags": [self.tag],
            "summary": self.summary,
            "responses": self.responses(),
            "security": self.security(),
        });
        if !self.description.is_empty() {
            object["description"] = json!(self.description);
        }
        if !self.parameters.is_empty() {
            object["parameters"] = json!(self.parameters);
        }
        if let Some(body) = &self.body {
            object["requestBody"] = body.clone();
        }
        if let Some(callbacks) = &self.callbacks {
            object["callbacks"] = callbacks.clone();
        }
        object
    }

    fn security(&self) -> Value {
        match self.access {
            Access::Open => json!([]),
            Access::Client => json!([{ "client": [] }]),
            Access::Operator => json!([{ "operator": [] }]),
            Access::Scraper => json!([{ "metrics": [] }]),
        }
    }

    fn responses(&self) -> Value {
        let mut responses = BTreeMap::<u16, Value>::new();
        for answer in &self.answers {
            responses.insert(answer.status, self.response(answer));
        }
        let mut by_status = BTreeMap::<u16, Vec<Kind>>::new();
        for kind in &self.problems {
            let kinds = by_status.entry(kind.status().as_u16()).or_default();
            if !kinds.contains(kind) {
                kinds.push(*kind);
            }
        }
        for (status, mut kinds) in by_status {
            kinds.sort_unstable();
            let response = responses.entry(status).or_insert_with(|| json!({}));
            self.add_problems(response, status, &kinds);
        }
        let named = responses
            .into_iter()
            .map(|(status, response)| (status.to_string(), response));
        Value::Object(named.collect())
    }

    fn response(&self, answer: &Answer) -> Value {
        let mut headers = self.headers();
        for (name, is_required) in &answer.headers {
            headers.insert((*name).to_owned(), headers::of(name, *is_required));
        }
        let mut response = json!({ "description": answer.description, "headers": headers });
        if !answer.media_type.is_empty() {
            let mut content = json!({ "schema": answer.schema });
            if !answer.examples.is_empty() {
                content["examples"] = json!(answer.examples);
            }
            response["content"] = json!({ answer.media_type: content });
        }
        if !answer.links.is_empty() {
            response["links"] = json!(answer.links);
        }
        response
    }

    /// Those that each answer of it can have.
    fn headers(&self) -> Map<String, Value> {
        let mut names = Vec::new();
        if self.access != Access::Open {
            // Those over the limit, and those within it.
            names.extend(["ratelimit", "ratelimit-policy"]);
        }
        if self.method == "get" {
            names.push("cache-control");
        }
        names
            .into_iter()
            .map(|name| (name.to_owned(), headers::of(name, false)))
            .collect()
    }

    /// Adds problems of one status to its response.
    fn add_problems(&self, response: &mut Value, status: u16, kinds: &[Kind]) {
        let own = |kind: &Kind| self.own.iter().find(|(_, problem)| problem.kind() == *kind);
        let list: Vec<_> = kinds
            .iter()
            .map(|kind| {
                let when = own(kind).map_or(kind.when(), |(when, _)| when);
                format!("* `{}`: {when}", kind.name())
            })
            .collect();
        let list = list.join("\n");
        let description = match response.get("description").and_then(Value::as_str) {
            Some(description) => format!("{description}\n\n{list}"),
            None => list,
        };
        response["description"] = json!(description);
        let examples: Map<_, _> = kinds
            .iter()
            .map(|kind| {
                let example = match own(kind) {
                    Some((when, problem)) => json!({ "summary": when, "value": problem.json() }),
                    None => json!({ "$ref": format!("#/components/examples/{}", kind.name()) }),
                };
                (kind.name().to_owned(), example)
            })
            .collect();
        response["content"]["application/problem+json"] = json!({
            "schema": schemas::of("Problem"),
            "examples": examples,
        });
        let mut headers = self.headers();
        for (name, is_required) in headers::of_problem(status) {
            headers.insert((*name).to_owned(), headers::of(name, *is_required));
        }
        match response.get_mut("headers").and_then(Value::as_object_mut) {
            Some(known) => known.extend(headers),
            None if !headers.is_empty() => response["headers"] = json!(headers),
            None => {}
        }
    }
}
