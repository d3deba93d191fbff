//! Fixed headers.

use super::{URL, error};

#[test]
fn headers_of_the_service_and_of_the_connection_are_refused_by_name() {
    for header in [
        "Content-Type",
        "content-length",
        "Host",
        "idempotency-key",
        "Storm-Attempt",
        "storm-x",
        "traceparent",
        "Webhook-Id",
        "connection",
        "transfer-encoding",
        "user-agent",
    ] {
        let lower = header.to_ascii_lowercase();
        let key = header.to_ascii_uppercase().replace('-', "_");
        let variable = format!("HANDLERS__PDF__HEADERS__{key}");
        let expected = format!("{variable}: `{lower}` belongs to the service itself");
        let text = format!("[handlers.pdf]\nurl = 'http://a.example/'\nheaders.{header} = 'x'");
        for error in [error(&text, &[]), error("", &[URL, (&variable, "x")])] {
            assert!(error.starts_with(&expected), "{error}");
        }
    }
}

#[test]
fn a_header_that_cannot_be_sent_is_refused_and_its_value_is_not_shown() {
    let headers = |headers: &str| {
        let text = format!("[handlers.pdf]\nurl = 'http://a.example/'\nheaders = {{ {headers} }}");
        error(&text, &[])
    };
    for value in [
        "\"hunter2\\nx: y\"",
        "\"hunter2é\"",
        "\" \"",
        "\"hunter2\\u007f\"",
    ] {
        let error = headers(&format!("x-key = {value}"));
        let expected = "HANDLERS__PDF__HEADERS__X_KEY=(hidden): expected visible ASCII";
        assert!(error.starts_with(expected), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
    for (entry, problem) in [
        (
            "\"x key\" = 'hunter2'",
            "X KEY: `x key` is not the name of a header",
        ),
        ("\"\" = 'hunter2'", ": `` is not the name of a header"),
        (
            "X-Key = 'hunter2', x-key = 'hunter2'",
            "X_KEY: it is there twice",
        ),
        (
            "x-key = ['hunter2']",
            "X_KEY: expected a text, { file = \"/path\" } or",
        ),
        ("x-key = 2", "X_KEY: expected a text, { file"),
        (
            "x-key = { path = 'hunter2' }",
            "X_KEY: expected a text, { file",
        ),
        (
            "x-key = { file = '/a', env = 'hunter2' }",
            "X_KEY: expected a text, { file",
        ),
        ("x-key = {}", "X_KEY: expected a text, { file"),
    ] {
        let error = headers(entry);
        assert!(error.contains(problem), "{error}");
        assert!(error.starts_with("HANDLERS__PDF__HEADERS__"), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}
