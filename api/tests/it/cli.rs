//! The subcommands for operators, as processes beside a running API.

use std::{
    fs::{self, File},
    process::{Command, Output, Stdio},
};

use rusqlite::Connection;
use serde_json::{Value, json};
use storm_shared::{
    config::Settings,
    models::{CallbackUrl, ReportSpec, RequestId},
    services::store::{NewJob, Store},
};
use tempfile::TempDir;

use crate::{
    client::{bare, post},
    program_database::{self, folder_on_sqlite},
    service::{self, Service, exited_with},
};

/// A folder with a database.
pub(crate) struct Place(pub(crate) TempDir);

impl Place {
    pub(crate) fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    pub(crate) fn on_sqlite() -> Self {
        Self(folder_on_sqlite())
    }

    pub(crate) async fn store(&self) -> Store {
        let url = program_database::url(self.0.path());
        let settings = Settings::with([("DB_URL", url.as_str())]).unwrap();
        Store::open(&settings.store).await.unwrap()
    }

    /// The file of a database on `SQLite`.
    pub(crate) fn file(&self) -> Connection {
        Connection::open(self.path("storm.db")).unwrap()
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = service::program(self.0.path());
        command.args(arguments).stderr(Stdio::piped());
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        Ran::of(&self.command(arguments).output().unwrap())
    }

    pub(crate) fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).unwrap();
        let name = |entry: fs::DirEntry| entry.file_name().into_string().unwrap();
        let mut names: Vec<_> = entries.map(|entry| name(entry.unwrap())).collect();
        names.retain(|name| name != "api.log");
        names.sort();
        names
    }
}

/// What a command did.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    pub(crate) fn of(output: &Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout.clone()).unwrap(),
            stderr: String::from_utf8(output.stderr.clone()).unwrap(),
        }
    }

    pub(crate) fn ok(self) -> String {
        assert_eq!((self.code, self.stderr.as_str()), (Some(0), ""), "{self:?}");
        self.stdout
    }

    pub(crate) fn json(self) -> Value {
        serde_json::from_str(&self.ok()).unwrap()
    }
}

fn ids(list: &Value) -> Vec<&str> {
    let requests = list["requests"].as_array().unwrap();
    let ids = requests.iter().map(|request| request["id"].as_str());
    ids.map(Option::unwrap).collect()
}

/// Accepts a job for an existing receiver, which nobody calls: there is no worker.
pub(crate) async fn accept(service: &Service) -> String {
    let body = json!({"records": 10, "report_name": "a", "callback_url": "https://example.com/x"});
    let answer = service.ask(post("/async", body)).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    answer.json()["request_id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_list_goes_on_by_its_cursor_and_has_what_the_api_answers() {
    let place = Place::new();
    let service = Service::start_in(place.0.path()).await;
    for _ in 0..5 {
        accept(&service).await;
    }
    let answered = service.ask(bare("GET", "/requests")).await.json();
    let all = place.run(&["requests", "list", "--all", "--json"]).json();
    assert_eq!(all, answered);
    let mut found: Vec<String> = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let mut arguments = vec!["requests", "list", "--limit", "2", "--json"];
        arguments.extend(cursor.iter().flat_map(|cursor| ["--cursor", cursor]));
        let page = place.run(&arguments).json();
        found.extend(ids(&page).into_iter().map(str::to_owned));
        let Some(next) = page["next_cursor"].as_str() else {
            break;
        };
        cursor = Some(next.to_owned());
    }
    assert_eq!(found, ids(&all));
    // As text: one line for each, aligned; the cursor is on standard error.
    let ran = place.run(&["requests", "list", "--limit", "2", "--status", "pending"]);
    let lines: Vec<_> = ran.stdout.lines().collect();
    assert_eq!(lines.len(), 3, "{ran:?}");
    let column = lines[0].find("STATUS").unwrap();
    assert!(
        lines[1..]
            .iter()
            .all(|line| line[column..].starts_with("PENDING "))
    );
    assert!(ran.stderr.contains("--cursor "), "{ran:?}");
    let none = place
        .run(&["requests", "list", "--status", "FAILED", "--json"])
        .json();
    assert_eq!(none, json!({"requests": [], "next_cursor": null}));
    for (arguments, problem) in [
        (
            &["--cursor", "x"][..],
            "--cursor: expected that of the previous list",
        ),
        (
            &["--created-after", "yesterday"],
            "expected a time of RFC 3339",
        ),
        (&["--limit", "0"], "above 0; --all for all of them"),
        (
            &[
                "--created-after",
                "2026-11-24T08:00:00Z",
                "--created-before",
                "2026-11-24T08:00:00Z",
            ],
            "must be earlier than --created-before",
        ),
        (&["--status", "done"], "PENDING"),
        (&["--client", "a b"], "--client"),
        (&["--handler", "a__b"], "single underscores"),
    ] {
        let ran = place.run(&[&["requests", "list"], arguments].concat());
        assert_eq!(ran.code, Some(2), "{ran:?}");
        assert!(ran.stderr.contains(problem), "{ran:?}");
    }
    assert!(exited_with(service.stop().await, 0));
}

#[tokio::test]
async fn each_client_and_each_time_selects_its_requests() {
    let place = Place::new();
    let store = place.store().await;
    for client in ["one", "two"] {
        let spec: ReportSpec =
            serde_json::from_value(json!({"records": 1, "report_name": "a"})).unwrap();
        let job = NewJob {
            created_by: Some(client.parse().unwrap()),
            ..NewJob::new(RequestId::generate(), spec, None::<CallbackUrl>)
        };
        store.accept(job).await.unwrap();
    }
    store.close().await;
    let count = |arguments: &[&str]| {
        let arguments = [&["requests", "list", "--json"], arguments].concat();
        ids(&place.run(&arguments).json()).len()
    };
    assert_eq!(count(&[]), 2);
    assert_eq!(count(&["--client", "one"]), 1);
    assert_eq!(count(&["--client", "three"]), 0);
    assert_eq!(count(&["--handler", "report"]), 2);
    // One that the settings do not have may have been removed.
    assert_eq!(count(&["--handler", "removed"]), 0);
    assert_eq!(count(&["--created-before", "2020-01-01T00:00:00Z"]), 0);
    assert_eq!(count(&["--created-after", "2020-01-01T01:00:00+01:00"]), 2);
}

#[tokio::test]
async fn show_prints_what_the_api_answers_and_fails_for_an_unknown_request() {
    let place = Place::new();
    let service = Service::start_in(place.0.path()).await;
    let id = accept(&service).await;
    let answered = service.ask(bare("GET", &format!("/requests/{id}"))).await;
    let shown = place.run(&["requests", "show", &id, "--json"]).json();
    assert_eq!(shown, answered.json());
    let text = place.run(&["requests", "show", &id]).ok();
    for part in [
        &id,
        "PENDING",
        "report",
        r#"{"report_name":"a","records":10}"#,
        "https://example.com/x",
    ] {
        assert!(text.contains(part), "{text}");
    }
    let unknown = "0193b7a2-5d3c-7e21-9f0a-3c5b8e6d1f42";
    let ran = place.run(&["requests", "show", unknown]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""));
    assert_eq!(ran.stderr, format!("{unknown}: there is no such request\n"));
    assert!(exited_with(service.stop().await, 0));
}

#[tokio::test]
async fn cancel_and_redeliver_say_for_each_request_what_happened() {
    let place = Place::new();
    let service = Service::start_in(place.0.path()).await;
    let (one, two) = (accept(&service).await, accept(&service).await);
    let unknown = "0193b7a2-5d3c-7e21-9f0a-3c5b8e6d1f42";
    let text = place.run(&["requests", "cancel", &one]).ok();
    assert!(
        text.contains("The job is cancelled: no callback will be sent"),
        "{text}"
    );
    let ran = place.run(&["requests", "cancel", &two, unknown, &one, "--json"]);
    assert_eq!(
        (ran.code, ran.stderr.as_str()),
        (Some(1), "not done for 1 of 3\n")
    );
    let results: Value = serde_json::from_str(&ran.stdout).unwrap();
    let done = results["results"].as_array().unwrap().iter();
    let done: Vec<_> = done
        .map(|result| (&result["request_id"], &result["done"]))
        .collect();
    assert_eq!(
        done,
        [
            (&json!(two), &json!(true)),
            (&json!(unknown), &json!(false)),
            (&json!(one), &json!(true))
        ]
    );
    let row = service
        .ask(bare("GET", &format!("/requests/{two}")))
        .await
        .json();
    assert_eq!(
        (&row["status"], &row["failure"]["reason"]),
        (&json!("FAILED"), &json!("cancelled"))
    );
    let detail = row["failure"]["detail"].as_str().unwrap();
    assert!(detail.starts_with("An operator cancelled it"), "{detail}");

    // A cancelled job without a result has nothing to deliver.
    let ran = place.run(&["requests", "redeliver", &one]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(
        ran.stdout.contains("no stored result or no callback URL"),
        "{ran:?}"
    );
    let db = service::database(place.0.path()).await;
    let report = r#"{"report_id":"r","checksum":"c"}"#;
    let stored = format!("UPDATE requests SET result_payload = '{report}' WHERE id = '{one}'");
    db.change(1, &stored).await;
    let ran = place.run(&["requests", "redeliver", &one]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(
        ran.stdout.contains("the job was cancelled; --cancelled"),
        "{ran:?}"
    );
    let cancelled_too = [
        "requests",
        "redeliver",
        "--cancelled",
        "--operator",
        "ops",
        &one,
    ];
    place.run(&cancelled_too).ok();
    let recorded = "SELECT action, filter, changed FROM audit WHERE operator = 'ops'";
    let filter = json!({ "ids": [&one] }).to_string();
    let expected = ["redeliver", &filter, "1"].map(|text| Some(text.to_owned()));
    assert_eq!(db.rows(recorded).await, [expected]);
    let ran = place.run(&cancelled_too);
    assert!(
        ran.stdout
            .contains("a redelivery of the request is in progress"),
        "{ran:?}"
    );
    let ran = place.run(&["requests", "cancel", &one]).ok();
    assert!(ran.contains("The redelivery is cancelled"), "{ran}");
    for verb in ["show", "cancel", "redeliver"] {
        let ran = place.run(&["requests", verb, "nope"]);
        assert_eq!(ran.code, Some(2), "{ran:?}");
        let expected = "expected a request's id, a UUID such as";
        assert!(ran.stderr.contains(expected), "{ran:?}");
    }
    assert!(exited_with(service.stop().await, 0));
}

#[tokio::test]
async fn stats_count_requests_workers_backlogs_and_files() {
    let place = Place::new();
    let service = Service::start_in(place.0.path()).await;
    for _ in 0..3 {
        accept(&service).await;
    }
    let one = accept(&service).await;
    place.run(&["requests", "cancel", &one]).ok();
    let database = service::database(place.0.path()).await;
    database
        .run(database.either(
            "INSERT INTO workers (owner, beat, renewed_at) VALUES
                 ('00000000-0000-4000-8000-000000000001', 1, '2020-01-01T00:00:00.000Z');
             UPDATE requests SET due = 1, claim = 1 WHERE id =
                 (SELECT min(id) FROM requests WHERE status = 'PENDING')",
            "INSERT INTO workers (owner, beat, renewed_at, handlers) VALUES
                 ('00000000-0000-4000-8000-000000000001', 1, '2020-01-01T00:00:00.000Z', '{}');
             UPDATE requests SET due = '2000-01-01', claim = 1 WHERE id =
                 (SELECT id FROM requests WHERE status = 'PENDING' LIMIT 1)",
        ))
        .await;
    let stats = place.run(&["stats", "--json"]).json();
    let requests = &stats["requests"];
    for (name, count) in [
        ("pending", 3),
        ("processing", 0),
        ("failed", 1),
        ("redeliveries", 0),
    ] {
        assert_eq!(requests[name], count, "{stats}");
    }
    assert!(requests["due"].as_u64() >= Some(1), "{stats}");
    assert!(
        requests["oldest_due_ms"].as_u64() > Some(1_000_000_000),
        "{stats}"
    );
    let worker = &stats["workers"][0];
    assert_eq!(worker["owner"], "00000000-0000-4000-8000-000000000001");
    assert!(worker["heartbeat_age_ms"].as_u64() > Some(1_000_000_000) && worker["jobs"] == 0);
    let destination = json!({"tenant": null, "origin": "https://example.com", "backlog": 1});
    assert_eq!(stats["destinations"], json!([destination]));
    assert!(stats["files"]["database_bytes"].as_u64() > Some(4096));
    let text = place.run(&["stats"]).ok();
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    for part in ["PENDING 3 ", "FAILED 1 ", "https://example.com - "] {
        assert!(text.contains(part), "{text}");
    }
    assert!(exited_with(service.stop().await, 0));
}

#[tokio::test]
async fn a_closed_pipe_ends_a_command_quietly_and_a_full_disk_fails_it() {
    let place = Place::new();
    let service = Service::start_in(place.0.path()).await;
    for _ in 0..3 {
        accept(&service).await;
    }
    for arguments in [
        &["requests", "list", "--all"][..],
        &["requests", "list", "--json"],
        &["audit"],
        &["audit", "--all", "--json"],
        &["stats"],
        &["completions", "bash"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = place.command(arguments).stdout(writer).output().unwrap();
        assert_eq!(
            (output.status.code(), output.stderr.as_slice()),
            (Some(0), &b""[..])
        );
        let full = File::options().write(true).open("/dev/full").unwrap();
        let ran = Ran::of(&place.command(arguments).stdout(full).output().unwrap());
        assert_eq!(ran.code, Some(1), "{ran:?}");
        assert!(
            ran.stderr.starts_with("can't write to standard output: "),
            "{ran:?}"
        );
    }
    assert!(exited_with(service.stop().await, 0));
}

#[tokio::test]
async fn text_that_was_edited_by_hand_reaches_no_terminal_as_it_is() {
    let place = Place::new();
    let service = Service::start_in(place.0.path()).await;
    let id = accept(&service).await;
    let hostile = "https://a/\u{1b}[2J\u{9b}1m\u{202e}";
    let database = service::database(place.0.path()).await;
    let edited = format!("UPDATE requests SET callback_url = '{hostile}'");
    database.change(1, &edited).await;
    place.run(&["pause", "everything"]).ok();
    let edited = database.either(
        "UPDATE audit SET operator = '$', filter = '$'",
        "UPDATE audit SET operator = '$', filter = to_json('$'::text)",
    );
    database.change(1, &edited.replace('$', hostile)).await;
    for arguments in [
        &["requests", "list"][..],
        &["requests", "list", "--json"],
        &["requests", "show", &id],
        &["requests", "show", &id, "--json"],
        &["audit"],
        &["audit", "--json"],
    ] {
        let text = place.run(arguments).ok();
        let is_plain = |c: char| c == '\n' || !c.is_control() && c != '\u{202e}';
        assert!(text.chars().all(is_plain), "{text:?}");
    }
    let list = place.run(&["requests", "list", "--json"]).json();
    assert_eq!(list["requests"][0]["callback_url"], hostile);
    assert!(exited_with(service.stop().await, 0));
}

#[tokio::test]
async fn pause_and_resume_hold_for_the_services_and_are_recorded() {
    let place = Place::new();
    let service = Service::start_in(place.0.path()).await;
    let id = accept(&service).await;
    let waits_for = async || {
        let path = format!("/requests/{id}");
        let request = service.ask(bare("GET", &path)).await.json();
        request["waiting_for"]["reason"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let said = place
        .run(&["pause", "everything", "--operator", "ops"])
        .ok();
    assert!(said.starts_with("Everything is paused"), "{said}");
    assert_eq!(waits_for().await, "paused");
    let again = place
        .run(&["pause", "everything", "--operator", "ops"])
        .ok();
    assert!(again.ends_with(" (no change).\n"), "{again}");
    place
        .run(&["pause", "https://example.com", "--operator", "ops"])
        .ok();
    let pauses = place.run(&["pauses", "--json"]).json();
    assert_eq!(pauses["everything"]["operator"], "ops");
    assert_eq!(pauses["origins"][0]["origin"], "https://example.com");
    let table = place.run(&["pauses"]).ok();
    assert!(table.contains("\neverything") && table.contains("\nhttps://example.com"));

    place
        .run(&["resume", "everything", "--operator", "ops"])
        .ok();
    assert_eq!(waits_for().await, "paused", "its origin is");
    place
        .run(&["resume", "https://example.com", "--operator", "ops"])
        .ok();
    assert_ne!(waits_for().await, "paused");
    for (what, said) in [
        (
            "everything",
            "There was no pause of everything (no change).\n",
        ),
        (
            "https://example.com",
            "The origin was not paused (no change).\n",
        ),
    ] {
        let again = place.run(&["resume", what, "--operator", "ops"]).ok();
        assert_eq!(again, said);
    }
    let database = service::database(place.0.path()).await;
    assert_eq!(database.count("audit WHERE operator = 'ops'").await, 7);
    // Whatever the shell's user is called, and where it names none.
    for (user, name) in [("CORP\\jdoe", "CORP-jdoe"), ("", "storm-api")] {
        let mut command = place.command(&["pause", "everything"]);
        let ran = command.env("USER", user).output().unwrap();
        Ran::of(&ran).ok();
        let pauses = place.run(&["pauses", "--json"]).json();
        assert_eq!(pauses["everything"]["operator"], name);
        place.run(&["resume", "everything"]).ok();
    }
    let help = place.run(&["pause", "--help"]).ok();
    assert!(
        help.contains("https://hooks.example") && !help.contains("<https"),
        "{help}"
    );
    let accepted =
        "must be `everything`, or scheme, host and port, such as `https://hooks.example`";
    for (arguments, problem) in [
        (&["pause"][..], "everything|ORIGIN"),
        (&["pause", "all"], accepted),
        (&["pause", "hooks.example"], accepted),
        (&["pause", "https://example.com/path"], accepted),
        (&["pause", "everything", "--operator", "a b"], "--operator"),
    ] {
        let ran = place.run(arguments);
        assert_eq!(ran.code, Some(2), "{ran:?}");
        assert!(ran.stderr.contains(problem), "{ran:?}");
    }
    assert!(exited_with(service.stop().await, 0));
}

#[tokio::test]
async fn audit_lists_what_operators_have_done_and_goes_on_at_its_cursor() {
    let place = Place::new();
    let service = Service::start_in(place.0.path()).await;
    let id = accept(&service).await;
    for (command, what) in [
        ("pause", "everything"),
        ("resume", "everything"),
        ("pause", "https://example.com"),
    ] {
        place.run(&[command, what, "--operator", "ops"]).ok();
    }
    place
        .run(&["requests", "cancel", &id, "--operator", "other"])
        .ok();
    let audit = place.run(&["audit", "--json"]).json();
    let told = |audit: &Value| -> Vec<(Value, Value, Value)> {
        let records = audit["records"].as_array().unwrap().iter();
        let told = records.map(|it| {
            (
                it["operator"].clone(),
                it["action"].clone(),
                it["changed"].clone(),
            )
        });
        told.collect()
    };
    let record = |operator, action| (json!(operator), json!(action), json!(1));
    let expected = [
        record("other", "cancel"),
        record("ops", "pause"),
        record("ops", "resume"),
        record("ops", "pause"),
    ];
    assert_eq!(told(&audit), expected);
    assert_eq!(audit["next_cursor"], Value::Null);
    assert_eq!(
        audit["records"][1]["filter"],
        json!({"origin": "https://example.com"})
    );
    assert_eq!(
        place.run(&["audit", "--all", "--json"]).json()["records"],
        audit["records"]
    );

    let first = place.run(&["audit", "--json", "--limit", "3"]).json();
    assert_eq!(told(&first), expected[..3]);
    let cursor = first["next_cursor"].as_str().unwrap();
    // What is done meanwhile is in no later page.
    place
        .run(&["resume", "https://example.com", "--operator", "ops"])
        .ok();
    let rest = place.run(&["audit", "--json", "--cursor", cursor]).json();
    assert_eq!(told(&rest), expected[3..]);

    let ran = place.run(&["audit", "--limit", "2"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(
        ran.stderr.contains("There may be more: --cursor 4"),
        "{ran:?}"
    );
    let lines: Vec<_> = ran.stdout.lines().collect();
    assert_eq!(lines.len(), 3, "{ran:?}");
    assert!(lines[0].starts_with("NUMBER") && lines[0].ends_with("FILTER"));
    let cells: Vec<_> = lines[1].split_whitespace().collect();
    assert_eq!(cells[0], "5");
    assert_eq!(
        cells[2..],
        [
            "ops",
            "resume",
            "no",
            "1",
            "1",
            r#"{"origin":"https://example.com"}"#
        ]
    );
    for (arguments, problem) in [
        (["--limit", "0"], "above 0; --all"),
        (["--cursor", "0"], "expected that of the previous list"),
        (["--cursor", "abc"], "expected that of the previous list"),
    ] {
        let ran = place.run(&[&["audit"][..], &arguments].concat());
        assert_eq!(ran.code, Some(2), "{ran:?}");
        assert!(ran.stderr.contains(problem), "{ran:?}");
    }
    assert!(exited_with(service.stop().await, 0));
}

#[cfg(not(feature = "postgres"))]
#[test]
fn without_postgresql_a_move_is_refused_with_the_build_that_can() {
    let place = Place::new();
    let to = "postgres://storm@db.example/storm";
    let ran = place.run(&["migrate", "--from", "sqlite:storm.db", "--to", to]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""), "{ran:?}");
    assert_eq!(ran.stderr.lines().count(), 1);
    assert!(
        ran.stderr
            .contains("use one that was built with --features postgres")
    );
    assert!(place.files().is_empty());
}

#[test]
fn completions_name_every_subcommand() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish"] {
        let text = place.run(&["completions", shell]).ok();
        for name in [
            "requests",
            "redeliver",
            "backup",
            "vacuum",
            "migrate",
            "audit",
            "--created-after",
        ] {
            let name = name.trim_start_matches("--");
            assert!(text.contains(name), "{shell}: {name}");
        }
    }
    let bash = place.run(&["completions", "bash"]).ok();
    let checked = Command::new("bash").args(["-n", "-c", &bash]).status();
    assert!(checked.unwrap().success());
    assert_eq!(place.run(&["completions", "cmd"]).code, Some(2));
}
