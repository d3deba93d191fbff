//! Where the tables come from: the file, the environment, other files and variables.

use std::time::Duration;

use super::{SECRET, URL, error, file, http, pdf};
use crate::config::Settings;

#[test]
fn the_environment_overrides_single_keys_and_headers_of_the_file() {
    let text = "[handlers.pdf]\nurl = 'http://a.example/'\ntimeout = '1s'\n\
                secret = { file = '/nowhere' }\n\
                headers = { X-A = 'file', X-B = 'file' }";
    let handler = pdf(
        text,
        &[
            ("HANDLERS__PDF__TIMEOUT", "2s"),
            ("HANDLERS__PDF__SECRET", SECRET),
            ("HANDLERS__PDF__HEADERS__X_A", "environment"),
            ("HANDLERS__OTHER__URL", "http://b.example/"),
        ],
    );
    assert_eq!(handler.timeout, Duration::from_secs(2));
    let http = http(handler);
    assert_eq!(http.url.as_str(), "http://a.example/");
    assert_eq!(http.signer.secrets(), 1);
    assert_eq!(http.headers["x-a"], "environment");
    assert_eq!(http.headers["x-b"], "file");
}

#[test]
fn secrets_and_headers_can_come_from_files_and_variables() {
    let secret = file(&format!("{SECRET}\n"));
    let path = secret.path().to_str().unwrap();
    let text = format!(
        "[handlers.pdf]\nurl = 'http://a.example/'\nsecret = {{ file = '{path}' }}\n\
         headers.x-key = {{ env = 'PDF_KEY' }}"
    );
    let in_file = pdf(&text, &[("PDF_KEY", " key ")]);
    let variables = [
        URL,
        ("HANDLERS__PDF__SECRET__FILE", path),
        ("HANDLERS__PDF__HEADERS__X_KEY__ENV", "PDF_KEY"),
        ("PDF_KEY", "key"),
    ];
    let in_environment = pdf("", &variables);
    for handler in [in_file, in_environment] {
        let http = http(handler);
        assert_eq!(http.signer.secrets(), 1);
        assert_eq!(http.headers["x-key"], "key");
    }
}

#[test]
fn a_file_or_variable_that_gives_no_value_is_an_error_that_names_it() {
    let empty = file(" \n");
    let long = file(&"a".repeat(70_000));
    for (path, shown, problem) in [
        ("/nowhere/a", true, "there is no such file"),
        ("/dev/zero", true, "it is not a file"),
        (
            empty.path().to_str().unwrap(),
            true,
            "it is empty; expected a file with",
        ),
        (
            long.path().to_str().unwrap(),
            true,
            "it is longer than 64KiB",
        ),
        // A secret in the wrong place.
        (SECRET, false, "expected the absolute path of a file"),
    ] {
        let shown = if shown { path } else { "(hidden)" };
        let expected = format!("HANDLERS__PDF__SECRET__FILE={shown}: {problem}");
        let text = format!("[handlers.pdf]\nsecret = {{ file = '{path}' }}");
        let variables = [("HANDLERS__PDF__SECRET__FILE", path)];
        for error in [error(&text, &[]), error("", &variables)] {
            assert!(error.starts_with(&expected), "{error}");
        }
    }
    for (name, shown, problem) in [
        ("PDF_KEY", "PDF_KEY", "there is no such variable"),
        (
            "EMPTY",
            "EMPTY",
            "there is no such variable in the environment, or it is empty",
        ),
        ("", "(hidden)", "expected the name of a variable"),
        (SECRET, "(hidden)", "expected the name of a variable"),
        ("whsec_abc", "(hidden)", "expected the name of a variable"),
    ] {
        let expected = format!("HANDLERS__PDF__HEADERS__X_KEY__ENV={shown}: {problem}");
        let text = format!("[handlers.pdf]\nheaders.x-key = {{ env = '{name}' }}");
        let variables = [("HANDLERS__PDF__HEADERS__X_KEY__ENV", name), ("EMPTY", " ")];
        for error in [error(&text, &[("EMPTY", "")]), error("", &variables)] {
            assert!(error.starts_with(&expected), "{error}");
        }
    }
}

#[test]
fn a_name_that_is_no_handlers_or_is_reserved_is_refused() {
    for name in ["Pdf", "2pdf", "a-b", "\"a b\"", "a__b", "\"\""] {
        let error = error(
            &format!("[handlers.{name}]\nurl = 'http://a.example/'"),
            &[],
        );
        let expected = format!(
            "handlers.{}: expected a name of 1 to 64",
            name.trim_matches('"')
        );
        assert!(error.starts_with(&expected), "{error}");
    }
    for (variable, expected) in [
        (
            "HANDLERS__2PDF__URL",
            "HANDLERS__2PDF__URL: `2pdf` is no handler: expected a name",
        ),
        (
            "HANDLERS____URL",
            "HANDLERS____URL: `` is no handler: expected a name",
        ),
        (
            "HANDLERS__PDF",
            "HANDLERS__PDF: expected HANDLERS__NAME__URL, or another key",
        ),
        (
            "HANDLERS__pdf__URL",
            "HANDLERS__pdf__URL: expected a name in upper case",
        ),
        (
            "HANDLERS__PDF__HEADERS",
            "HANDLERS__PDF__HEADERS: expected HANDLERS__PDF__HEADERS__X_API_KEY for",
        ),
    ] {
        let error = error("", &[(variable, "http://a.example/")]);
        assert!(error.starts_with(expected), "{error}");
    }
    let reserved = "HANDLERS__REPORT: the handler `report` is built in and has no settings";
    for error in [
        error("[handlers.report]", &[]),
        error("", &[("HANDLERS__REPORT__URL", "http://a.example/")]),
    ] {
        assert!(error.starts_with(reserved), "{error}");
    }
    // Of three underscores, the first belongs to the name.
    let ends_in_underscore = Settings::with([("HANDLERS__A___URL", "http://a.example/")]);
    let handlers = ends_in_underscore.unwrap().handlers;
    assert!(handlers.get(&"a_".parse().unwrap()).is_some());
}

#[test]
fn an_unknown_key_is_refused_with_the_name_of_its_table() {
    let known = "expected one of: kind, url, secret, concurrency, timeout, retry_delays, \
                 max_payload, max_result, headers";
    let in_file = error("[handlers.pdf]\nulr = 'hunter2'", &[]);
    let expected = format!(": unknown setting `handlers.pdf.ulr`; {known}");
    assert!(in_file.ends_with(&expected), "{in_file}");
    for (variable, name) in [
        ("HANDLERS__PDF__ULR", "handlers.pdf.ulr"),
        ("HANDLERS__PDF__URL__FILE", "handlers.pdf.url.file"),
        ("HANDLERS__PDF__SECRET__PATH", "handlers.pdf.secret.path"),
        (
            "HANDLERS__PDF__HEADERS__X__FILE__X",
            "handlers.pdf.headers.x.file.x",
        ),
    ] {
        let error = error("", &[URL, (variable, "hunter2")]);
        assert_eq!(
            error,
            format!("{variable}: unknown setting `{name}`; {known}")
        );
    }
}

#[test]
fn what_is_no_table_or_no_text_is_refused() {
    for (text, expected) in [
        (
            "handlers = 'hunter2'",
            "HANDLERS: expected a table: [handlers]",
        ),
        (
            "handlers.pdf = 'hunter2'",
            "HANDLERS__PDF: expected a table: [handlers.pdf]",
        ),
        (
            "[handlers.pdf]\nheaders = 'x: hunter2'",
            "HANDLERS__PDF__HEADERS: expected a table: [handlers.pdf.headers]",
        ),
        (
            "[handlers.pdf]\nurl = ['hunter2']",
            "HANDLERS__PDF__URL: expected a text or a number",
        ),
        (
            "[[handlers.pdf]]\nurl = 'hunter2'",
            "HANDLERS__PDF: expected a table: [handlers.pdf]",
        ),
        (
            "[handlers.pdf]\nsecret = ['hunter2']",
            "HANDLERS__PDF__SECRET: expected a text, { file = \"/path\" } or { env = \"NAME\" }",
        ),
    ] {
        assert_eq!(error(text, &[]), expected);
    }
    let twice = [
        URL,
        ("HANDLERS__PDF__SECRET", SECRET),
        ("HANDLERS__PDF__SECRET__FILE", "/nowhere"),
    ];
    assert_eq!(
        error("", &twice),
        "HANDLERS__PDF__SECRET: several variables set it: it, …__FILE or …__ENV; expected one of \
         them"
    );
}
