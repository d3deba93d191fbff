//! Fatal errors name their setting once.

use std::{fs, net::TcpListener, process::Command};

use tempfile::TempDir;

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
    ] {
        let line = fatal(&folder, &[(setting, value)]);
        assert_eq!(line.matches(setting).count(), 1, "{line}");
    }
}
