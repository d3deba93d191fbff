//! Fatal errors name their setting once.

use std::{fs, net::TcpListener, process::Command};

use tempfile::TempDir;

/// A handler, whose other settings are judged only if it has a URL.
const HANDLER: (&str, &str) = ("HANDLERS__PDF__URL", "http://example/");

/// The one line of the error that stops the program.
fn fatal(folder: &TempDir, settings: &[(&str, &str)]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_storm-worker"))
        .env_clear()
        .env(
            "DB_URL",
            format!("sqlite:{}", folder.path().join("storm.db").display()),
        )
        .envs([("WORKER_ADDR", "127.0.0.1:0"), ("REDIS_URL", "none")])
        .envs(settings.iter().copied())
        .output()
        .unwrap();
    assert!(!output.status.success());
    let text = String::from_utf8(output.stderr).unwrap();
    text.lines().last().unwrap().to_owned()
}

#[test]
fn the_error_that_stops_the_worker_names_its_setting_once() {
    let folder = TempDir::new().unwrap();
    let text_file = folder.path().join("notes.txt");
    fs::write(
        &text_file,
        "not a database, but long enough to be read as one",
    )
    .unwrap();
    let text_path = text_file.to_str().unwrap();
    let database = format!("sqlite:{text_path}");
    let missing = folder.path().join("missing.pem");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for (setting, value) in [
        ("DB_URL", database.as_str()),
        ("WORKER_ADDR", taken.as_str()),
        ("CALLBACK_CA_FILE", missing.to_str().unwrap()),
        ("CALLBACK_CA_FILE", text_path),
        ("CALLBACK_ALLOW", "everywhere"),
        ("CALLBACK_SIGNING_SECRETS", "guess"),
        ("REDIS_URL", "http://example"),
        ("HANDLERS__PDF__URL", "ftp://example/"),
        ("HANDLERS__PDF__ULR", "http://example/"),
        ("HANDLERS__PDF__TIMEOUT", "5"),
        ("HANDLERS__PDF__HEADERS__HOST", "example"),
    ] {
        let line = fatal(&folder, &[HANDLER, (setting, value)]);
        assert_eq!(line.matches(setting).count(), 1, "{line}");
    }
}

#[test]
fn a_table_of_a_handler_that_is_not_accepted_stops_the_worker_and_no_secret_is_shown() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("storm.toml");
    let path = file.to_str().unwrap();
    let url = "url = 'http://example/'";
    for (table, problem) in [
        (
            format!("[handlers.pdf]\n{url}\nsecret = 'hunter2'"),
            "HANDLERS__PDF__SECRET=(hidden): the 1st key must begin with",
        ),
        (
            format!("[handlers.pdf]\n{url}\nheaders = {{ x-key = 'hunter2é' }}"),
            "HANDLERS__PDF__HEADERS__X_KEY=(hidden): expected visible ASCII",
        ),
        (
            format!("[handlers.pdf]\n{url}\nsecrets = 'hunter2'"),
            "storm.toml: unknown setting `handlers.pdf.secrets`; expected one of: kind, ",
        ),
        (
            format!("[handlers.report]\n{url}"),
            "HANDLERS__REPORT: the handler `report` is built in",
        ),
        (
            format!("[handlers.pdf]\n{url}\nconcurrency = 5001"),
            "WORKER_CONCURRENCY=10000: half of it, 5000, is for handlers",
        ),
    ] {
        fs::write(&file, table).unwrap();
        let line = fatal(&folder, &[("STORM_CONFIG", path)]);
        assert!(
            line.contains(problem) && !line.contains("hunter2"),
            "{line}"
        );
    }
}
