//! The program as a process: exit codes, output and logs.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    process::{Command, Output, Stdio},
};

use storm_shared::{
    config::Settings,
    services::access::{Token, TokenHash},
};
use tempfile::TempDir;

use crate::{
    client::{Client, bare},
    program_database::folder_on_sqlite,
    server::NO_REDIS,
    service::{self, Service, exited_with},
};

fn program(folder: &TempDir) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_storm-api"));
    command
        .env_clear()
        .envs([NO_REDIS, ("API_ADDR", "127.0.0.1:0")]);
    command.current_dir(folder.path());
    command
}

fn standard_error(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn an_invalid_setting_prints_one_line_and_exits_2() {
    let folder = TempDir::new().unwrap();
    let output = program(&folder)
        .env("SYNC_THREADS", "none")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = standard_error(&output);
    assert!(
        said.lines().count() == 1 && said.contains("SYNC_THREADS=none"),
        "{said}"
    );
}

#[test]
fn an_address_in_use_is_reported_with_its_setting_and_exits_1() {
    let folder = TempDir::new().unwrap();
    let busy = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let addr = busy.local_addr().unwrap().to_string();
    let output = program(&folder).env("API_ADDR", &addr).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = standard_error(&output);
    assert!(said.contains(&format!("API_ADDR={addr}")), "{said}");
}

#[test]
fn a_fatal_start_is_told_once_whatever_the_log_filter_is() {
    let folder = TempDir::new().unwrap();
    let busy = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let addr = busy.local_addr().unwrap().to_string();
    let no_level = ["warning", "", "info,", "storm_api"];
    for filter in ["off", "OFF", "storm_worker=trace", "fatal=off", "error"]
        .iter()
        .chain(&no_level)
    {
        let mut command = program(&folder);
        command.env("API_ADDR", &addr).env("LOG", filter);
        let output = command.output().unwrap();
        let said = standard_error(&output);
        assert_eq!(said.lines().count(), 1, "{filter}: {said}");
        let (status, setting) = if no_level.contains(filter) {
            (2, format!("LOG={filter}: "))
        } else {
            (1, format!("API_ADDR={addr}: "))
        };
        assert_eq!(output.status.code(), Some(status), "{filter}: {said}");
        assert!(said.contains(&setting), "{filter}: {said}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_process_without_descriptors_ends_with_one_line() {
    let folder = TempDir::new().unwrap();
    let plain = program(&folder);
    let output = Command::new("bash")
        .args(["-c", r#"ulimit -n 4; exec "$0""#])
        .arg(plain.get_program())
        .env_clear()
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = standard_error(&output);
    assert!(said.starts_with("the process cannot start: "), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[test]
fn a_doubtful_setting_is_a_warning_that_names_it_and_hides_its_value() {
    let folder = TempDir::new().unwrap();
    let busy = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let hash = TokenHash::of(b"changeme").to_hex();
    let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let file = folder.path().join("storm.toml");
    fs::write(&file, format!("callback_signing_secrets = '{secret}'")).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let mut command = program(&folder);
    command
        .env("API_ADDR", busy.local_addr().unwrap().to_string())
        .env("API_TOKENS", format!("billing:{hash}"))
        .env("METRICS_TOKEN", &hash)
        .env("STORM_CONFIG", &file);
    let said = standard_error(&command.output().unwrap());
    let settings = [
        "API_TOKENS",
        "METRICS_TOKEN",
        "CALLBACK_SIGNING_SECRETS",
        "STORM_CONFIG",
    ];
    for setting in settings {
        let line = format!(r#""setting":"{setting}""#);
        assert_eq!(said.matches(&line).count(), 1, "{setting}: {said}");
    }
    assert!(!said.contains(&hash) && !said.contains("MfKQ"), "{said}");
}

#[tokio::test]
async fn startup_logs_address_database_and_queue_and_sigterm_exits_0() {
    let folder = TempDir::new().unwrap();
    let mut child = program(&folder)
        .env("QUEUE_NAME", "my_queue")
        .env("SYNC_TREADS", "4")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap())
        .lines()
        .map(Result::unwrap);
    let warning = lines.next().unwrap();
    assert!(warning.contains("SYNC_TREADS"), "{warning}");
    let started = lines.find(|line| line.contains("starting")).unwrap();
    let started: serde_json::Value = serde_json::from_str(&started).unwrap();
    let database = std::path::Path::new(started["database"].as_str().unwrap());
    assert!(database.is_absolute() && database.ends_with("data/storm.db"));
    assert_eq!(started["engine"], "sqlite");
    assert_eq!(started["queue"], "my_queue");
    assert_eq!(started["clients"], 0);

    let addr = started["addr"].as_str().unwrap().parse().unwrap();
    let mut client = Client::connect(addr).await;
    client.send(bare("GET", "/nothing")).await;
    assert_eq!(client.answer().await.status, 404);
    let killed = Command::new("kill")
        .args(["-TERM", &child.id().to_string()])
        .status();
    assert!(killed.unwrap().success());
    let rest: Vec<_> = lines.collect();
    assert!(child.wait().unwrap().success(), "{rest:?}");
}

#[test]
fn a_public_address_without_tokens_exits_2_with_one_line() {
    let folder = TempDir::new().unwrap();
    let mut open = program(&folder);
    open.env("API_ADDR", "0.0.0.0:0");
    let output = open.output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = standard_error(&output);
    assert_eq!(said.lines().count(), 1, "{said}");
    for part in ["API_ADDR=0.0.0.0:0", "API_TOKENS", "API_OPEN=true"] {
        assert!(said.contains(part), "{said}");
    }
    assert!(
        !folder.path().join("data").exists(),
        "it exited before it created any file"
    );
}

#[test]
fn a_public_address_is_allowed_with_tokens_or_api_open() {
    let tokens = format!("a:{:064x}", 1);
    for (name, value) in [("API_OPEN", "true"), ("API_TOKENS", tokens.as_str())] {
        let folder = TempDir::new().unwrap();
        let mut child = program(&folder)
            .env("API_ADDR", "0.0.0.0:0")
            .env(name, value)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut lines = lines.map_while(Result::ok);
        let starts = lines.any(|line| line.contains("starting"));
        let _ = child.kill();
        child.wait().unwrap();
        assert!(starts, "{name}");
    }
}

#[test]
fn a_generated_token_authenticates_its_client() {
    let folder = TempDir::new().unwrap();
    // `token new` ignores the settings, also those that would stop the service.
    let output = program(&folder)
        .args(["token", "new", "billing"])
        .envs([("API_ADDR", "0.0.0.0:0"), ("SYNC_THREADS", "none")])
        .output()
        .unwrap();
    assert!(output.status.success());
    let printed = String::from_utf8(output.stdout.clone()).unwrap();
    let (token, entry) = printed.trim_end().split_once('\n').unwrap();
    let settings = Settings::with([("API_TOKENS", entry), ("METRICS_TOKEN", entry)]).unwrap();
    let tokens = settings.access.tokens;
    let client = tokens.client_of(token.as_bytes()).unwrap();
    assert_eq!(tokens.clients()[client].as_str(), "billing");
    assert!(
        settings
            .access
            .metrics_token
            .unwrap()
            .is_of(token.as_bytes())
    );
    let told = standard_error(&output);
    assert!(!told.contains(token));
    // It can be either's: `token new` does not know.
    for setting in ["API_TOKENS", "ADMIN_TOKENS"] {
        assert!(told.contains(setting), "{told}");
    }
    let settings = Settings::with([("ADMIN_TOKENS", entry)]).unwrap();
    let operators = settings.access.admin_tokens;
    assert!(operators.client_of(token.as_bytes()).is_some());
}

#[test]
fn token_new_rejects_an_invalid_client_name() {
    let folder = TempDir::new().unwrap();
    for arguments in [&["token"][..], &["token", "new"], &["token", "new", "a b"]] {
        let output = program(&folder).args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stdout.is_empty());
    }
}

#[tokio::test]
async fn tokens_and_their_hashes_are_never_logged() {
    let folder = TempDir::new().unwrap();
    let token = Token::generate().unwrap();
    let hash = token.hash().to_hex();
    let mut command = service::program(folder.path());
    command
        .env("API_TOKENS", format!("a:{hash}"))
        .env("LOG", "trace");
    let service = Service::spawn(command, folder.path()).await;
    service.is_open().await;
    for (presented, status) in [(token.as_str(), 404), ("storm_wrong", 401)] {
        let request = bare("GET", "/nothing");
        let line = format!("\r\nauthorization: Bearer {presented}\r\n");
        let answer = service.ask(request.replacen("\r\n", &line, 1)).await;
        assert_eq!(answer.status, status);
    }
    assert!(exited_with(service.stop().await, 0));
    let said = fs::read_to_string(folder.path().join("api.log")).unwrap();
    assert!(said.contains(r#""level":"TRACE""#), "{said}");
    for secret in [token.as_str(), "storm_wrong", &hash] {
        assert!(!said.contains(secret), "{said}");
    }
}

#[tokio::test]
async fn metrics_on_metrics_addr_are_served_before_the_database_is_open() {
    let folder = TempDir::new().unwrap();
    let lock = service::database(folder.path()).await;
    lock.lock_opening().await;
    let mut command = service::program(folder.path());
    command.env("METRICS_ADDR", "127.0.0.1:0");
    let service = Service::spawn(command, folder.path()).await;
    let line = service.says("metrics").await;
    let addr = line["addr"].as_str().unwrap().parse().unwrap();
    let mut scraper = Client::connect(addr).await;
    scraper.send(bare("GET", "/metrics")).await;
    let scrape = scraper.answer().await;
    assert_eq!(scrape.status, 200);
    assert!(
        scrape
            .text()
            .contains(r#"storm_api_accepted_jobs_total{handler="report",kind="new"} 0"#)
    );
    assert!(exited_with(service.stop().await, 0));
}

#[tokio::test]
async fn sigint_and_sigquit_shut_down_gracefully_and_sigusr1_changes_nothing() {
    for name in ["QUIT", "INT"] {
        let folder = TempDir::new().unwrap();
        let service = Service::start(&folder).await;
        for ignored in ["USR1", "USR2", "ALRM"] {
            service.signal(ignored);
            service.says("has no meaning").await;
        }
        service.signal(name);
        let said = service.says("shutting down").await;
        assert_eq!(said["signal"], format!("SIG{name}"));
        assert!(exited_with(service.ended().await, 0), "{name}");
    }
}

#[tokio::test]
async fn a_database_that_others_may_read_is_warned_of_once_at_start() {
    let folder = folder_on_sqlite();
    let mut command = service::program(folder.path());
    command.env("LOG", "warn,storm_api=info");
    let service = Service::spawn(command, folder.path()).await;
    service.is_open().await;
    assert!(exited_with(service.stop().await, 0));
    let warnings = || {
        let mut lines = service::lines(&folder.path().join("api.log"));
        lines.retain(|line| line["level"] == "WARN");
        lines
    };
    assert!(warnings().is_empty(), "a new file is private");
    let database = folder.path().join("storm.db");
    fs::set_permissions(&database, fs::Permissions::from_mode(0o640)).unwrap();
    let service = Service::start(&folder).await;
    assert_eq!(service.says("others than its owner").await["mode"], "0640");
    assert!(exited_with(service.stop().await, 0));
    assert_eq!(warnings().len(), 1);
    let mode = fs::metadata(&database).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
}
