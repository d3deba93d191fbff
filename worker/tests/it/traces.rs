//! Traces: what an API and workers export of a job, and what a bad collector does to them.

#[cfg(feature = "traces")]
mod bad_collectors;
#[cfg(feature = "traces")]
mod joined;
#[cfg(feature = "traces")]
mod over_tls;

use std::{
    path::Path,
    process::{Command, Output},
};

use tempfile::TempDir;

/// A start of the worker that does not get far: its log filter or its environment is refused.
fn start(folder: &Path, variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_storm-worker"));
    command.env_clear().current_dir(folder);
    command.envs([("REDIS_URL", "none"), ("WORKER_ADDR", "127.0.0.1:0")]);
    command.envs(variables.iter().copied()).output().unwrap()
}

/// An address at which the worker cannot listen, so that it ends.
const ENDS: (&str, &str) = ("WORKER_ADDR", "192.0.2.1:1");

const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

#[cfg(feature = "traces")]
#[test]
fn an_endpoint_or_a_certificate_that_is_none_is_refused_at_the_start_with_one_line() {
    let folder = TempDir::new().unwrap();
    for (name, value) in [
        (ENDPOINT, "collector:4317"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "nowhere"),
    ] {
        let output = start(folder.path(), &[ENDS, (name, value)]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(
            said.starts_with(&format!("{name}={value}: expected")),
            "{said}"
        );
    }
    let missing = folder.path().join("missing.pem");
    for (file, problem) in [
        (missing.as_path(), "No such file"),
        (Path::new("/dev/null"), "contains no certificate"),
    ] {
        let file = file.to_str().unwrap();
        let certificate = ("OTEL_EXPORTER_OTLP_CERTIFICATE", file);
        let endpoint = (ENDPOINT, "https://collector:4318");
        let output = start(folder.path(), &[ENDS, endpoint, certificate]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.contains(file) && said.contains(problem), "{said}");
    }
    // With it disabled, the variable is not even looked at.
    let disabled = [
        ENDS,
        (ENDPOINT, "collector:4317"),
        ("OTEL_SDK_DISABLED", "true"),
    ];
    let output = start(folder.path(), &disabled);
    assert_eq!(output.status.code(), Some(1));
}

#[cfg(not(feature = "traces"))]
#[test]
fn a_worker_without_traces_says_so_once_if_an_endpoint_is_set() {
    let folder = TempDir::new().unwrap();
    for (value, count) in [("http://127.0.0.1:4318", 1), ("not even a url", 1), ("", 0)] {
        let output = start(folder.path(), &[ENDS, (ENDPOINT, value)]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert_eq!(
            said.matches("built without traces").count(),
            count,
            "{said}"
        );
    }
}
