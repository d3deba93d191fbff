//! Compares every answer that a test gets with the description of the API: path, method, status,
//! header fields, media type and body. A request that was accepted must be as described, too.

mod refusals;
mod schema;
mod seen;
mod sent;

use std::sync::LazyLock;

use serde_json::{Map, Value, json, value::RawValue};
use storm_api::assets::is_asset;

pub(crate) use self::schema::faults;
pub(crate) use self::sent::{Sent, SentRequest};
use crate::{
    admin::Operated,
    auth::bearing,
    client::{Answer, bare, post},
    server::Server,
};

/// The document.
pub(crate) static DOCUMENT: LazyLock<Value> = LazyLock::new(storm_api::openapi::document);

/// The fields of any answer, which HTTP itself describes.
const HTTP_FIELDS: [&str; 5] = [
    "connection",
    "content-length",
    "content-type",
    "date",
    "transfer-encoding",
];

/// What can be answered before a path or a method is looked at.
const BEFORE_ROUTING: [&str; 9] = [
    "bad-host",
    "callback-loop",
    "cross-origin",
    "database-unavailable",
    "forbidden",
    "misdirected",
    "rate-limited",
    "too-many-connections",
    "unauthorized",
];

/// Panics if the answer to this request is not as described. A `HEAD` is described as a `GET`.
pub(crate) fn check(request: &SentRequest, answer: &Answer) {
    if let Err(fault) = compare(request, answer) {
        let SentRequest { method, target, .. } = request;
        panic!("not as described: {method} {target}: {fault}\n{answer:?}");
    }
}

fn compare(request: &SentRequest, answer: &Answer) -> Result<(), String> {
    let path = request.path();
    let Some(item) = item(path) else {
        return match answer.problem_name() {
            Some(name) if is_general(&name) || name == "not-found" => Ok(()),
            // Without a body, the name is not known.
            None if request.method == "HEAD" && answer.is_problem() => Ok(()),
            _ if is_asset(path) => Ok(()),
            _ => Err("there is no such path".to_owned()),
        };
    };
    let method = match request.method.as_str() {
        "HEAD" => "get".to_owned(),
        method => method.to_ascii_lowercase(),
    };
    let Some(operation) = item.get(&method) else {
        return check_undescribed_method(item, answer);
    };
    // What the listener of METRICS_ADDR says of all paths but its own.
    let is_elsewhere = operation["responses"].get("404").is_none();
    if is_elsewhere && has_no_such_path(answer) {
        return Ok(());
    }
    // Where no token is needed, another spelling of the path needs one.
    if path.ends_with('/') && answer.problem_name().is_some_and(|name| is_general(&name)) {
        return Ok(());
    }
    check_response(operation, request, answer)?;
    seen::note(operation, answer);
    if (200..300).contains(&answer.status) {
        check_request(operation, request)?;
    }
    Ok(())
}

/// A request can be unknown, too: the title says which.
fn has_no_such_path(answer: &Answer) -> bool {
    answer.status == 404 && answer.text().contains("\"title\":\"No such path\"")
}

/// The item of a path, without placeholders first. As the router has it, a slash may end a path.
fn item(path: &str) -> Option<&'static Map<String, Value>> {
    let paths = DOCUMENT["paths"].as_object()?;
    let path = path
        .strip_suffix('/')
        .filter(|it| !it.is_empty())
        .unwrap_or(path);
    let item = paths.get(path).or_else(|| {
        paths
            .iter()
            .find(|(template, _)| fits(template, path))
            .map(|(_, it)| it)
    });
    item?.as_object()
}

fn fits(template: &str, path: &str) -> bool {
    let (mut names, mut segments) = (template.split('/'), path.split('/'));
    loop {
        match (names.next(), segments.next()) {
            (None, None) => return true,
            (Some(name), Some(segment))
                if name == segment || (name.starts_with('{') && !segment.is_empty()) => {}
            _ => return false,
        }
    }
}

fn is_general(name: &str) -> bool {
    BEFORE_ROUTING.contains(&name)
}

/// `405`, whose `Allow` has the methods that are described.
fn check_undescribed_method(item: &Map<String, Value>, answer: &Answer) -> Result<(), String> {
    let name = answer.problem_name().unwrap_or_default();
    if name != "method-not-allowed" {
        return if is_general(&name) || name == "not-found" {
            Ok(())
        } else {
            Err("there is no such method".to_owned())
        };
    }
    let mut described: Vec<_> = item
        .keys()
        .map(|method| method.to_ascii_uppercase())
        .collect();
    if item.contains_key("get") {
        described.push("HEAD".to_owned());
    }
    described.sort_unstable();
    let allow = answer.header("allow").unwrap_or_default();
    let mut allowed: Vec<_> = allow.split(", ").collect();
    allowed.sort_unstable();
    if allowed == described {
        Ok(())
    } else {
        Err(format!(
            "it allows {allowed:?}, and {described:?} are described"
        ))
    }
}

fn check_response(operation: &Value, request: &SentRequest, answer: &Answer) -> Result<(), String> {
    let status = answer.status.to_string();
    let response = operation["responses"]
        .get(&status)
        .ok_or_else(|| format!("there is no status {status}"))?;
    let none = Map::new();
    let headers = response["headers"].as_object().unwrap_or(&none);
    let contents = response["content"].as_object().unwrap_or(&none);
    let is_of_problems = contents.keys().eq(["application/problem+json"]);
    for (name, _) in answer.headers() {
        if !headers.contains_key(name) && !HTTP_FIELDS.contains(&name.as_str()) {
            return Err(format!("there is no header {name} with {status}"));
        }
    }
    for (name, header) in headers {
        // A problem can have the status of an answer with more fields.
        let has_all = is_of_problems || answer.problem_name().is_none();
        let is_required = header["required"] == true && has_all;
        if is_required && answer.header(name).is_none() {
            return Err(format!("the header {name} is missing"));
        }
        if let (Some(value), Some(schema)) = (answer.header(name), header_schema(header)) {
            faults(&read(value, schema), schema).map_err(|fault| format!("{name}: {fault}"))?;
        }
    }
    if request.method == "HEAD" || answer.status == 304 {
        return Ok(());
    }
    check_body(response, answer)
}

fn header_schema(header: &Value) -> Option<&Value> {
    self::schema::resolved(header).get("schema")
}

fn check_body(response: &Value, answer: &Answer) -> Result<(), String> {
    let kind = answer.header("content-type").unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default();
    let content = response["content"]
        .get(kind)
        .ok_or_else(|| format!("there is no media type {kind}"))?;
    if !kind.ends_with("json") {
        return Ok(());
    }
    let text = answer.text();
    let body: Value = match serde_json::from_str(text) {
        Ok(body) => body,
        // A payload can have half of a surrogate pair, for which this parser has no value.
        Err(_) if serde_json::from_str::<&RawValue>(text).is_ok() => return Ok(()),
        Err(error) => return Err(format!("the body is no JSON: {error}")),
    };
    if let Some(name) = answer.problem_name()
        && content["examples"].get(&name).is_none()
    {
        return Err(format!("there is no problem {name} with {}", answer.status));
    }
    faults(&body, &content["schema"])
}

/// A request that was accepted is as described.
fn check_request(operation: &Value, request: &SentRequest) -> Result<(), String> {
    for parameter in operation["parameters"].as_array().into_iter().flatten() {
        let (name, schema) = (parameter["name"].as_str().unwrap(), &parameter["schema"]);
        let value = match parameter["in"].as_str() {
            Some("query") => request.query(name),
            Some("header") => request.header(name),
            _ => continue, // an id in any form of a UUID is accepted
        };
        match value {
            None if parameter["required"] == true => return Err(format!("{name} is missing")),
            None => {}
            Some(value) => faults(&read(&value, schema), schema)
                .map_err(|fault| format!("accepted: {name}: {fault}"))?,
        }
    }
    let (Some(body), Some(described)) = (&request.body, operation.get("requestBody")) else {
        return Ok(());
    };
    // A payload can be JSON that this parser has no value for, such as half a surrogate pair.
    let Ok(body) = serde_json::from_slice(body) else {
        return Ok(());
    };
    let schema = &described["content"]["application/json"]["schema"];
    faults(&body, schema).map_err(|fault| format!("accepted: {fault}"))
}

/// The value that a text stands for.
fn read(text: &str, schema: &Value) -> Value {
    if schema["type"] == "integer" {
        text.parse::<i64>()
            .map_or_else(|_| Value::from(text), Value::from)
    } else {
        Value::from(text)
    }
}

/// Every object under `examples` beside a `schema` in the document, with its place.
fn examples(at: &str, value: &'static Value, found: &mut Vec<(String, Value, &'static Value)>) {
    match value {
        Value::Object(members) => {
            if let Some(schema) = members.get("schema") {
                let named = members.get("examples").and_then(Value::as_object);
                for (name, example) in named.into_iter().flatten() {
                    let example = self::schema::resolved(example)["value"].clone();
                    found.push((format!("{at}/{name}"), example, schema));
                }
                if let Some(example) = members.get("example") {
                    found.push((at.to_owned(), example.clone(), schema));
                }
            }
            for (name, member) in members {
                examples(&format!("{at}/{name}"), member, found);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                examples(&format!("{at}/{index}"), item, found);
            }
        }
        _ => {}
    }
}

/// Whether its answer has no end.
fn is_stream(operation: &Value) -> bool {
    !operation["responses"]["200"]["content"]["text/event-stream"].is_null()
}

/// A path without placeholders.
fn filled(template: &str) -> String {
    let id = "01a210fc-8a71-744b-8961-b8ba8b51db38";
    template.replace("{id}", id).replace("{handler}", "report")
}

#[tokio::test]
async fn every_described_method_is_routed_and_every_other_is_405() {
    let it = Operated::start(&[]).await;
    for (template, item) in DOCUMENT["paths"].as_object().unwrap() {
        let path = filled(template);
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
            let operation = item.get(method.to_ascii_lowercase());
            let request = match operation {
                Some(operation) if operation.get("requestBody").is_some() => post(&path, "{}"),
                _ => bare(method, &path),
            };
            let token = if path.starts_with("/admin") {
                &it.operator
            } else {
                &it.client
            };
            let mut client = it.server.connect().await;
            client.send(bearing(token, &request)).await;
            if operation.is_some_and(is_stream) {
                assert_eq!(client.head().await.status, 200, "{method} {path}");
                continue;
            }
            let answer = client.answer().await;
            let is_refused = answer.status == 405 || has_no_such_path(&answer);
            assert_eq!(is_refused, operation.is_none(), "{method} {path}");
            if operation.is_none() {
                assert_eq!(
                    answer.problem(),
                    "405 method-not-allowed",
                    "{method} {path}"
                );
            }
        }
    }
}

#[tokio::test]
async fn the_answer_to_an_unknown_path_names_the_paths() {
    let server = Server::start(&[]).await;
    let unknown = server.ask(bare("GET", "/nothing")).await.json();
    let detail = unknown["detail"].as_str().unwrap();
    let words: Vec<_> = detail
        .split([' ', ','])
        .map(|it| it.trim_end_matches('.'))
        .collect();
    for path in DOCUMENT["paths"].as_object().unwrap().keys() {
        // Without a token that opens them, these are unknown paths, too.
        if !path.starts_with("/admin") && path != "/metrics" {
            assert!(words.contains(&path.as_str()), "{path}");
        }
    }
}

#[tokio::test]
async fn the_description_is_served_without_a_token_and_compressed() {
    let it = Operated::start(&[]).await;
    let server = &it.server;
    let answer = server.ask(bare("GET", "/openapi.json")).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json(), json!(*DOCUMENT));
    assert_eq!(answer.header("cache-control"), Some("no-cache"));
    let tag = answer.header("etag").unwrap();
    assert!(tag.starts_with('"'), "{tag} is no strong one");
    let mut client = server.connect().await;
    for (field, status) in [
        ("accept-encoding: gzip".to_owned(), 200),
        (format!("if-none-match: {tag}"), 304),
    ] {
        let request = bare("HEAD", "/openapi.json");
        client
            .send(request.replacen("\r\n", &format!("\r\n{field}\r\n"), 1))
            .await;
        let head = client.head().await;
        assert_eq!(head.status, status, "{field}");
        if status == 200 {
            assert_eq!(head.header("content-encoding"), Some("gzip"));
        }
    }
}

#[test]
fn every_example_of_the_description_is_as_its_schema_says() {
    let mut found = Vec::new();
    examples("", &DOCUMENT, &mut found);
    assert!(found.len() > 100, "{}", found.len());
    for (place, example, schema) in found {
        assert_eq!(faults(&example, schema), Ok(()), "{place}");
    }
}

#[test]
fn every_answer_of_the_description_that_has_a_body_has_an_example() {
    for (path, item) in DOCUMENT["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            for (status, response) in operation["responses"].as_object().unwrap() {
                let contents = response.get("content").and_then(Value::as_object);
                for (kind, content) in contents.into_iter().flatten() {
                    let examples = content["examples"].as_object().map_or(0, Map::len);
                    assert!(examples > 0, "{method} {path} {status} {kind}");
                }
            }
        }
    }
}
