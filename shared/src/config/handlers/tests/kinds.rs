//! What each kind of handler needs, and what it takes none of.

use super::error;

#[test]
fn an_http_handler_needs_a_url_that_can_be_called() {
    let missing = "HANDLERS__PDF__URL: it is missing; expected the URL";
    for error in [
        error("[handlers.pdf]", &[]),
        error("[handlers.pdf]\nurl = ''", &[]),
        error("", &[("HANDLERS__PDF__TIMEOUT", "5s")]),
    ] {
        assert!(error.starts_with(missing), "{error}");
    }
    for (url, expected) in [
        (
            "ftp://a.example/",
            "=ftp://a.example/: must begin with `http://` or `https://`",
        ),
        ("a.example/x", "=a.example/x: must be an absolute URL"),
        (
            "http://a.example:0/",
            "=http://a.example:0/: must name a port",
        ),
        (
            "http://a.example/\u{7f}",
            "=(hidden): must not contain control characters",
        ),
        (
            "http://a.example/#hunter2",
            "=(hidden): must not have a fragment",
        ),
        (
            "http://u:hunter2@a.example/",
            "=(hidden): must not carry a user name or a password; set \
             HANDLERS__PDF__HEADERS__AUTHORIZATION instead",
        ),
        (
            "http://u:hunter2@a.example:99999/",
            "=(hidden): must be an absolute URL",
        ),
        ("ftp://a.example/?key=hunter2", "=(hidden): must begin with"),
    ] {
        let text = format!("[handlers.pdf]\nurl = {}", toml_text(url));
        for error in [error(&text, &[]), error("", &[("HANDLERS__PDF__URL", url)])] {
            let expected = format!("HANDLERS__PDF__URL{expected}");
            assert!(error.starts_with(&expected), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}

/// A basic string of TOML.
fn toml_text(text: &str) -> String {
    format!("\"{}\"", text.replace('\u{7f}', "\\u007f"))
}

#[test]
fn a_rust_handler_takes_nothing_of_an_endpoint() {
    for (key, variable) in [
        ("url = 'http://a.example/'", "HANDLERS__PDF__URL"),
        ("secret = 'x'", "HANDLERS__PDF__SECRET"),
        ("headers.x-key = 'x'", "HANDLERS__PDF__HEADERS__X_KEY"),
    ] {
        let kind = ("HANDLERS__PDF__KIND", "rust");
        for error in [
            error(&format!("[handlers.pdf]\nkind = 'rust'\n{key}"), &[]),
            error("", &[kind, (variable, "x")]),
        ] {
            let expected = format!("{variable}: a handler of the kind rust has no url");
            assert!(error.starts_with(&expected), "{error}");
        }
    }
}
