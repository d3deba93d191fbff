//! The binary: exit status, output to a pipe, files, signals.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::TcpStream,
    process::{Command, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use serde_json::Value;
use storm_loadgen::signatures::VARIABLE;

use crate::fake_api::{Act, FakeApi, SECRET};

/// The program with these arguments; its output goes to pipes.
pub(crate) fn program(line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_storm-loadgen"));
    command.env_remove(VARIABLE);
    command.args(line.split_whitespace());
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

pub(crate) async fn output(mut command: Command) -> Output {
    tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap()
}

/// A temporary file with a unique name, removed on drop.
pub(crate) struct TempFile(std::path::PathBuf);

impl TempFile {
    pub(crate) fn new(name: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("storm-loadgen-{}-{number}-{name}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }

    pub(crate) fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }

    pub(crate) fn read(&self) -> String {
        std::fs::read_to_string(&self.0).unwrap()
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_demo_that_passes_exits_with_0_and_writes_its_result() {
    let api = FakeApi::start(|_| Act::Right).await;
    let json = TempFile::new("demo.json");
    let line = format!(
        "demo --api {} --listen localhost:0 --requests 3 --records 1 --json {}",
        api.url(),
        json.path()
    );
    let output = output(program(&line)).await;
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("3 of 3 correct"), "{text}");
    assert!(
        output.stderr.is_empty() && !text.contains('\x1b'),
        "a pipe must get no progress bar"
    );

    let json: Value = serde_json::from_str(&json.read()).unwrap();
    assert_eq!(
        (&json["command"], &json["passed"]),
        (&"demo".into(), &true.into())
    );
    assert_eq!(
        (&json["sync"]["ok"], &json["async"]["ok"]),
        (&3.into(), &3.into())
    );
    assert_eq!(
        (&json["jobs"]["right"], &json["jobs"]["lost"]),
        (&3.into(), &0.into())
    );
    assert_eq!(json["jobs"]["ideal_ms"], 10.0);
    for side in [&json["sync"], &json["async"]] {
        let first = &side["series"]["points"][0];
        assert_eq!(
            (&side["series"]["interval_ms"], &first["offered"]),
            (&100.into(), &3.into()),
            "{side}"
        );
        assert!(side["distribution"]["answer"][0][1].is_u64(), "{side}");
    }
    for latency in [
        &json["sync"]["latency"],
        &json["jobs"]["time_to_completion"],
    ] {
        assert!(latency["p95_ms"].as_f64().unwrap() > 0.0, "{latency}");
    }
    assert!(text.contains("expected_at: off by "), "{text}");
    let deviation = &json["jobs"]["deviation"];
    assert_eq!(deviation["jobs"], 3);
    assert!(deviation["p50_ms"].is_f64() && deviation["late"].is_u64());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_demo_with_a_wrong_callback_exits_with_1() {
    let api = FakeApi::start(|_| Act::WrongChecksum).await;
    let line = format!(
        "demo --api {} --listen localhost:0 --requests 2 --records 1",
        api.url()
    );
    let output = output(program(&line)).await;
    assert_eq!(output.status.code(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_demo_with_a_bad_signature_exits_with_1_if_signatures_are_checked() {
    let api = FakeApi::start(|_| Act::Forged).await;
    let line = format!(
        "demo --api {} --listen localhost:0 --requests 2 --records 1",
        api.url()
    );
    let unchecked = output(program(&line)).await;
    assert_eq!(unchecked.status.code(), Some(0));
    let mut checked = program(&line);
    checked.env(VARIABLE, SECRET);
    let checked = output(checked).await;
    assert_eq!(checked.status.code(), Some(1));
    let text = String::from_utf8(checked.stdout).unwrap();
    assert!(text.contains("2 of 2 bad"), "{text}");
}

#[test]
fn receive_exits_with_1_after_a_bad_signature() {
    let mut receive = program("receive --listen 127.0.0.1:0");
    let mut child = receive.env(VARIABLE, SECRET).spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    let address = line.split('/').nth(2).unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    let request = "POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}";
    stream.write_all(request.as_bytes()).unwrap();
    std::io::read_to_string(stream).unwrap();
    let pid = child.id().to_string();
    Command::new("kill").args(["-INT", &pid]).status().unwrap();
    let rest = std::io::read_to_string(stdout).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1), "{rest}");
    assert!(
        rest.contains("1 in total, 0 unique; signatures: 1 of 1 bad"),
        "{rest}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_secret_is_reported_in_one_line_without_showing_it() {
    let mut demo = program("demo");
    demo.env(VARIABLE, SECRET.replace("whsec_", "whsec-"));
    let output = output(demo).await;
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    let message = "CALLBACK_SIGNING_SECRETS=(hidden): the 1st key must begin with `whsec_`";
    assert!(
        error.contains(message) && error.lines().count() == 1,
        "{error}"
    );
    assert!(!error.contains(&SECRET[6..]), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_can_not_start_exits_with_1_and_prints_one_line() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap();
    let output = output(program(&format!("demo --listen {address}"))).await;
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(error.lines().count(), 1, "{error}");
    assert!(
        error.contains(&address.to_string()) && error.contains("--listen"),
        "{error}"
    );
}

#[test]
fn help_that_can_not_be_written_is_an_error() {
    for line in ["--help", "-h", "storm --help", "--version"] {
        let full = std::fs::File::options().write(true).open("/dev/full");
        let ran = program(line).stdout(full.unwrap()).output().unwrap();
        let told = String::from_utf8(ran.stderr).unwrap();
        assert_eq!(ran.status.code(), Some(1), "{line}: {told}");
        assert!(
            told.starts_with("can't write to standard output: "),
            "{told}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_option_exits_with_2() {
    let output = output(program(
        "storm --mode sync --rate 50000 --duration 1h --records 1",
    ))
    .await;
    assert_eq!(output.status.code(), Some(2));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("at most 2000000"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn storms_append_lines_to_one_csv_file_with_one_header() {
    let api = FakeApi::start(|_| Act::Right).await;
    let csv = TempFile::new("storm.csv");
    for mode in ["sync", "async"] {
        let line = format!(
            "storm --mode {mode} --api {} --listen localhost:0 --rate 100 --duration 50ms --records 1 --csv {}",
            api.url(),
            csv.path()
        );
        assert_eq!(output(program(&line)).await.status.code(), Some(0));
    }
    let csv = csv.read();
    let rows: Vec<Vec<_>> = csv.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!(rows.len(), 3, "{csv}");
    assert!(rows.iter().all(|row| row.len() == rows[0].len()), "{csv}");
    assert_eq!(
        (rows[0][0], rows[1][0], rows[2][0]),
        ("mode", "sync", "async")
    );
    let right = rows[0].iter().position(|name| *name == "right").unwrap();
    assert_eq!((rows[1][right], rows[2][right]), ("", "5"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_storm_prints_its_result_so_far() {
    // The signal must arrive during the run, so the run is long, and three requests must arrive
    // first.
    let api = Arc::new(FakeApi::start(|_| Act::Right).await);
    let line = format!(
        "storm --mode sync --api {} --rate 50 --duration 1h --records 1",
        api.url()
    );
    let child = program(&line).spawn().unwrap();
    api.has_received(3).await;
    let pid = child.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-INT", &pid])
            .status()
            .unwrap()
            .success()
    );
    let output = tokio::task::spawn_blocking(|| child.wait_with_output().unwrap())
        .await
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(130), "{text}");
    assert!(
        text.contains("offered") && text.contains("interrupted"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_goes_with_every_request_and_is_shown_nowhere() {
    let api = FakeApi::start(|_| Act::Right).await;
    let line = format!(
        "storm --mode async --poll --api {} --rate 100 --duration 50ms --records 1",
        api.url()
    );
    let mut storm = program(&line);
    storm.env("STORM_TOKEN", "storm_secret");
    let storm = output(storm).await;
    assert_eq!(storm.status.code(), Some(0));
    let bearer = Some("Bearer storm_secret".to_owned());
    assert_eq!(api.authorizations(), [bearer].into());

    // clap shows values of environment variables in help texts by default.
    let mut help = program("storm --help");
    help.env("STORM_TOKEN", "storm_secret");
    let help = output(help).await;
    let mut wrong = program(&line);
    wrong.env("STORM_TOKEN", "storm_secret with spaces");
    let wrong = output(wrong).await;
    assert_eq!(wrong.status.code(), Some(2));
    for output in [&storm, &help, &wrong] {
        let text = [&output.stdout[..], &output.stderr].concat();
        assert!(!String::from_utf8(text).unwrap().contains("secret"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_token_or_with_an_empty_one_no_authorization_is_sent() {
    let api = FakeApi::start(|_| Act::Right).await;
    let line = format!(
        "demo --api {} --listen localhost:0 --requests 1 --records 1",
        api.url()
    );
    for token in [None, Some("")] {
        let mut demo = program(&line);
        demo.env_remove("STORM_TOKEN");
        demo.envs(token.map(|token| ("STORM_TOKEN", token)));
        assert_eq!(output(demo).await.status.code(), Some(0));
    }
    assert_eq!(api.authorizations(), [None].into());
}
