//! SIGHUP rereads tokens and rate limits while the API runs.

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf};

use serde_json::Value;
use storm_shared::services::access::Token;
use tempfile::TempDir;

use crate::{
    client::{Answer, Client, bare, post},
    service::{self, Service, exited_with},
};

/// The beginning of every line about a SIGHUP.
const HANGUP: &str = "SIGHUP: ";

/// An API whose settings file can be changed.
struct Api {
    service: Service,
    file: PathBuf,
    /// The SIGHUPs so far that had one line as their answer.
    signals: usize,
    folder: TempDir,
}

impl Api {
    async fn start(text: &str, variables: &[(&str, &str)]) -> Self {
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("storm.toml");
        write(&file, text);
        let mut command = service::program(folder.path());
        command
            .env("STORM_CONFIG", &file)
            .envs(variables.iter().copied());
        let service = Service::spawn(command, folder.path()).await;
        service.is_open().await;
        Self {
            service,
            file,
            signals: 0,
            folder,
        }
    }

    /// Changes the file and sends SIGHUP. Returns the one log line that follows.
    async fn reread(&mut self, text: &str) -> Value {
        write(&self.file, text);
        self.hang_up().await
    }

    async fn hang_up(&mut self) -> Value {
        self.service.signal("HUP");
        let line = self.service.says_nth(HANGUP, self.signals).await;
        self.signals += 1;
        line
    }

    async fn client(&self) -> Client {
        Client::connect(self.service.addr).await
    }

    async fn stop(self) -> String {
        assert!(exited_with(self.service.stop().await, 0));
        fs::read_to_string(self.folder.path().join("api.log")).unwrap()
    }
}

/// As an editor does it: the file is never half written.
fn write(file: &PathBuf, text: &str) {
    let new = file.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(new, file).unwrap();
}

fn tokens<const N: usize>() -> [Token; N] {
    [(); N].map(|()| Token::generate().unwrap())
}

fn api_tokens(clients: &[(&str, &Token)]) -> String {
    let entries = clients
        .iter()
        .map(|(name, token)| format!("{name}:{}", token.hash().to_hex()));
    format!("api_tokens = '{}'\n", entries.collect::<Vec<_>>().join(","))
}

async fn get(client: &mut Client, path: &str, token: &Token) -> Answer {
    client.send(with(token, &bare("GET", path))).await;
    client.answer().await
}

/// The same request with this token.
fn with(token: &Token, request: &str) -> String {
    let line = format!("\r\nauthorization: Bearer {}\r\n", token.as_str());
    request.replacen("\r\n", &line, 1)
}

#[tokio::test]
async fn a_removed_token_is_refused_and_a_new_one_accepted_on_open_connections_too() {
    let [old, new] = tokens();
    let mut api = Api::start(&api_tokens(&[("a", &old)]), &[]).await;
    let (mut of_old, mut of_new) = (api.client().await, api.client().await);
    assert_eq!(get(&mut of_old, "/nothing", &old).await.status, 404);
    assert_eq!(get(&mut of_new, "/nothing", &new).await.status, 401);

    let line = api.reread(&api_tokens(&[("a", &old), ("a", &new)])).await;
    assert_eq!(
        (&line["level"], &line["changed"]),
        (&"INFO".into(), &"API_TOKENS".into())
    );
    assert_eq!(get(&mut of_old, "/nothing", &old).await.status, 404);
    assert_eq!(get(&mut of_new, "/nothing", &new).await.status, 404);

    api.reread(&api_tokens(&[("a", &new)])).await;
    assert_eq!(get(&mut of_old, "/nothing", &old).await.status, 401);
    assert_eq!(get(&mut of_new, "/nothing", &new).await.status, 404);

    let log = api.stop().await;
    for secret in [old.hash().to_hex(), new.hash().to_hex()] {
        assert!(!log.contains(&secret), "{log}");
    }
}

#[tokio::test]
async fn a_second_client_has_its_share_of_the_backlog_from_its_reread_on() {
    let [one, other] = tokens();
    let mut api = Api::start(&api_tokens(&[("a", &one)]), &[("MAX_BACKLOG", "16")]).await;
    let mut client = api.client().await;
    api.reread(&api_tokens(&[("a", &one), ("b", &other)])).await;
    let mut accepted = async |token: &Token| {
        for accepted in 0.. {
            let body = r#"{"records": 1, "report_name": "a"}"#;
            client.send(with(token, &post("/async", body))).await;
            let answer = client.answer().await;
            if answer.status != 202 {
                assert_eq!(answer.problem(), "503 backlog-full");
                return accepted;
            }
        }
        unreachable!("the backlog is limited")
    };
    assert_eq!(accepted(&one).await, 14);
    assert_eq!(accepted(&other).await, 2);
    api.stop().await;
}

#[tokio::test]
async fn a_bad_file_changes_nothing_and_is_answered_by_the_line_of_a_start() {
    let [old, new] = tokens();
    let good = api_tokens(&[("a", &old)]);
    let mut api = Api::start(&good, &[]).await;
    let mut client = api.client().await;
    let replaced = api_tokens(&[("a", &new)]);
    for (text, problem) in [
        (
            format!("{replaced}sync_queue = -1"),
            "SYNC_QUEUE=-1: expected a whole number",
        ),
        (
            format!("{replaced}sync_que = 1"),
            "unknown setting `sync_que`",
        ),
        (
            format!("{replaced}rate_limit = 'many'"),
            "RATE_LIMIT=many: expected nothing, or",
        ),
        (
            format!("{replaced}[handlers.pdf]\nulr = 1"),
            "unknown setting `handlers.pdf.ulr`",
        ),
        (replaced.replace("api_tokens", "'"), "STORM_CONFIG="),
        (String::new(), "it is empty"),
        (
            "log = 'info'".into(),
            "API_TOKENS=: it was set and is empty now",
        ),
        ("api_addr = '0.0.0.0:80'".into(), "API_TOKENS"),
    ] {
        let line = api.reread(&text).await;
        let error = line["error"].as_str().unwrap();
        assert!(
            error.contains(problem) && line["level"] == "ERROR",
            "{line}"
        );
        assert_eq!(get(&mut client, "/nothing", &old).await.status, 404);
        assert_eq!(get(&mut client, "/nothing", &new).await.status, 401);
    }
    fs::remove_file(&api.file).unwrap();
    let line = api.hang_up().await;
    let error = line["error"].as_str().unwrap();
    assert!(error.contains("there is no such file"), "{line}");
    let line = api.reread(&replaced).await;
    assert_eq!(line["changed"], "API_TOKENS");
    assert_eq!(get(&mut client, "/nothing", &new).await.status, 404);
    api.stop().await;
}

#[tokio::test]
async fn a_client_keeps_the_state_of_its_rate_limit_until_the_limit_changes() {
    let [one, two] = tokens();
    let limited =
        |limit: &str, clients: &[_]| format!("{}rate_limit = '{limit}'", api_tokens(clients));
    let mut api = Api::start(&limited("2/h", &[("a", &one)]), &[]).await;
    let mut client = api.client().await;
    for status in [404, 404, 429] {
        assert_eq!(get(&mut client, "/nothing", &one).await.status, status);
    }
    api.reread(&limited("2/h", &[("b", &two), ("a", &one)]))
        .await;
    assert_eq!(get(&mut client, "/nothing", &one).await.status, 429);
    assert_eq!(get(&mut client, "/nothing", &two).await.status, 404);
    let line = api
        .reread(&limited("3/h", &[("b", &two), ("a", &one)]))
        .await;
    assert_eq!(line["changed"], "RATE_LIMIT");
    for status in [404, 404, 404, 429] {
        assert_eq!(get(&mut client, "/nothing", &one).await.status, status);
    }
    // A file that is cut off does not turn it off.
    let line = api.reread(&api_tokens(&[("a", &one)])).await;
    let error = line["error"].as_str().unwrap();
    assert!(error.starts_with("RATE_LIMIT=: it was set"), "{line}");
    assert_eq!(get(&mut client, "/nothing", &one).await.status, 429);
    api.stop().await;
}

#[tokio::test]
async fn the_metrics_token_is_reread_at_both_listeners() {
    let [old, new] = tokens();
    let setting = |token: &Token| format!("metrics_token = '{}'", token.hash().to_hex());
    for variables in [&[][..], &[("METRICS_ADDR", "127.0.0.1:0")]] {
        let mut api = Api::start(&setting(&old), variables).await;
        let mut client = if variables.is_empty() {
            api.client().await
        } else {
            let line = api.service.says("metrics").await;
            Client::connect(line["addr"].as_str().unwrap().parse().unwrap()).await
        };
        assert_eq!(get(&mut client, "/metrics", &old).await.status, 200);
        let line = api.reread(&setting(&new)).await;
        assert_eq!(line["changed"], "METRICS_TOKEN");
        assert_eq!(get(&mut client, "/metrics", &old).await.status, 401);
        assert_eq!(get(&mut client, "/metrics", &new).await.status, 200);
        api.stop().await;
    }
}

#[tokio::test]
async fn an_operators_token_is_reread() {
    let [old, new] = tokens();
    let setting = |token: &Token| format!("admin_tokens = 'ops:{}'", token.hash().to_hex());
    let mut api = Api::start(&setting(&old), &[]).await;
    let mut client = api.client().await;
    assert_eq!(get(&mut client, "/admin/pause", &old).await.status, 200);
    let line = api.reread(&setting(&new)).await;
    assert_eq!(line["changed"], "ADMIN_TOKENS");
    assert_eq!(get(&mut client, "/admin/pause", &old).await.status, 401);
    assert_eq!(get(&mut client, "/admin/pause", &new).await.status, 200);
    // A bad file, and one that leaves them out.
    for text in ["admin_tokens = 'ops'", "log = 'info'"] {
        let line = api.reread(text).await;
        let error = line["error"].as_str().unwrap();
        assert!(error.starts_with("ADMIN_TOKENS="), "{line}");
        assert_eq!(get(&mut client, "/admin/pause", &new).await.status, 200);
    }
    api.stop().await;
}

#[tokio::test]
async fn sighup_names_what_needs_a_restart_and_what_the_environment_overrides() {
    let mut api = Api::start("log = 'info'", &[("RATE_LIMIT", "9/s")]).await;
    let line = api.reread("sync_queue = 7\nrate_limit = '1/h'").await;
    assert_eq!(line["settings"], "RATE_LIMIT");
    let message = "overrides the file";
    assert!(
        line["message"].as_str().unwrap().contains(message),
        "{line}"
    );
    let line = api.service.says("needs a restart").await;
    assert_eq!(line["settings"], "SYNC_QUEUE");
    api.service.says("nothing in use has changed").await;
    let answer = api.service.ask(bare("GET", "/nothing")).await;
    assert!(
        answer
            .header("ratelimit-policy")
            .unwrap()
            .contains("q=9;w=1")
    );
    api.stop().await;
}

#[tokio::test]
async fn without_a_settings_file_sighup_says_so_and_the_service_goes_on() {
    let folder = TempDir::new().unwrap();
    let mut command = service::program(folder.path());
    // The answers to a signal are logged whatever the filter is, and however many there are.
    command.env("LOG", "error,storm_api=info");
    let service = Service::spawn(command, folder.path()).await;
    for nth in 0..8 {
        service.signal("HUP");
        let line = service.says_nth(HANGUP, nth).await;
        assert!(line["message"].as_str().unwrap().contains("STORM_CONFIG"));
    }
    assert_eq!(service.ask(bare("GET", "/livez")).await.status, 200);
    assert!(exited_with(service.stop().await, 0));
}
