//! Refusals as `application/problem+json` (RFC 9457) that both services answer.

use hyper::{
    Response, StatusCode,
    header::{ALLOW, CONTENT_TYPE, HeaderValue},
};
use serde_json::json;

/// The media type of a problem.
pub const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");

/// What the `type` of each problem begins with; its name follows.
pub const TYPE_PREFIX: &str = "urn:storm:problem:";

/// A problem with this name. `detail` says what to change.
pub fn problem(status: StatusCode, name: &str, title: &str, detail: &str) -> Response<String> {
    let body = json!({
        "type": format!("{TYPE_PREFIX}{name}"),
        "title": title,
        "status": status.as_u16(),
        "detail": detail,
    });
    let mut response = Response::new(body.to_string());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, PROBLEM_JSON);
    response
}

/// `404`: the path is none of `paths`.
pub fn no_such_path(paths: &str) -> Response<String> {
    let detail = format!("The paths are {paths}.");
    problem(StatusCode::NOT_FOUND, "not-found", "No such path", &detail)
}

/// `405`: the path has the methods in `allowed` only, which `Allow` lists.
pub fn method_not_allowed(allowed: &'static str) -> Response<String> {
    let (status, title) = (StatusCode::METHOD_NOT_ALLOWED, "Method not allowed");
    let detail = format!("This path accepts {allowed}.");
    let mut response = problem(status, "method-not-allowed", title, &detail);
    let allowed = HeaderValue::from_static(allowed);
    response.headers_mut().insert(ALLOW, allowed);
    response
}
