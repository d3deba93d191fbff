//! `storm-api migrate` as a process: beside a running service, and killed on the way.

use std::{
    path::Path,
    process::{Command, Output, Stdio},
    time::Duration,
};

use rusqlite::Connection;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::sleep;

use crate::{
    client::{Answer, bare, post},
    eventually,
    postgres_database::PostgresDatabase,
    service::{self, Service, exited_with},
};

/// A folder with a database file, and an empty database.
struct Places {
    folder: TempDir,
    database: PostgresDatabase,
}

impl Places {
    async fn new() -> Self {
        Self {
            folder: TempDir::new().unwrap(),
            database: PostgresDatabase::fresh().await,
        }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn target(&self) -> String {
        self.database.url()
    }

    fn migrate(&self) -> Command {
        let mut command = service::program(self.path());
        command
            .args(["migrate", "--from", "sqlite:storm.db", "--to"])
            .arg(self.target())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn ask(&self, query: &str) -> String {
        self.database.ask(query)
    }

    /// A service on the target, whose database is open.
    async fn service_on_target(&self) -> Service {
        let mut command = service::program(self.path());
        command.env("DB_URL", self.target());
        let service = Service::spawn(command, self.path()).await;
        service.is_open().await;
        service
    }
}

fn said(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

/// Asserts that a command has failed, and returns its only line.
fn one_line(output: &Output) -> String {
    let (code, stdout, stderr) = said(output);
    assert_eq!((code, stdout.as_str()), (Some(1), ""), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    stderr
}

async fn submit(service: &Service, name: &str, key: &str) -> Answer {
    let body = json!({"records": 10, "report_name": name, "callback_url": "https://example.com/x"});
    let request = post("/async", body);
    let request = request.replacen("\r\n", &format!("\r\nidempotency-key: {key}\r\n"), 1);
    service.ask(request).await
}

async fn accept(service: &Service, name: &str) -> String {
    let answer = submit(service, name, name).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    answer.json()["request_id"].as_str().unwrap().to_owned()
}

async fn find(service: &Service, id: &str) -> Value {
    let answer = service.ask(bare("GET", &format!("/requests/{id}"))).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

fn database(folder: &Path) -> Connection {
    let database = Connection::open(folder.join("storm.db")).unwrap();
    database.busy_timeout(Duration::from_secs(10)).unwrap();
    database
}

/// Adds finished requests by hand.
fn add_finished(folder: &Path, count: u32) {
    let db = database(folder);
    db.execute_batch(&format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})
         INSERT INTO requests (id, mode, status, input_payload, callback_url, created_at,
             completed_at, result_payload, ended)
         SELECT printf('%08x-%04x-7000-8000-%012x', i / 3, i % 65536, i), 'async', 'COMPLETED',
             '{{\"n\":' || i || '}}', 'https://a.example/', '2026-11-30T12:00:00.000Z',
             '2026-11-30T12:00:01.000Z', '{{\"of\":' || i || '}}', 0 FROM n;
         INSERT INTO events (request_id, number, at, event, claim)
         SELECT id, 1, created_at, 'given_back', 1 FROM requests WHERE mode = 'async' LIMIT 3000;"
    ))
    .unwrap();
}

#[tokio::test]
async fn a_running_service_is_refused_and_one_on_the_target_has_every_request() {
    let places = Places::new().await;
    let service = Service::start_in(places.path()).await;
    let mut ids = Vec::new();
    for name in ["a", "b", "c"] {
        ids.push(accept(&service, name).await);
    }
    let mut before = Vec::new();
    for id in &ids {
        before.push(find(&service, id).await);
    }

    let output = places.migrate().output().unwrap();
    let (code, stdout, stderr) = said(&output);
    assert_eq!((code, stderr.as_str()), (Some(0), ""), "{stdout}");
    assert!(stdout.contains("requests          3\n"), "{stdout}");
    assert!(stdout.contains("rows/s"), "{stdout}");

    let refused = submit(&service, "late", "late").await;
    assert_eq!(
        (refused.status, refused.problem().as_str()),
        (503, "503 database-migrated")
    );
    // The database is checked once a second.
    let ready = loop {
        let ready = service.ask(bare("GET", "/readyz")).await;
        if ready.status == 503 {
            break ready;
        }
        sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(ready.json()["database"], "migrated to another database");
    // A repeat of what was accepted is answered, as it is in the target.
    assert_eq!(
        submit(&service, "a", "a").await.json()["request_id"],
        ids[0].as_str()
    );
    assert!(exited_with(service.stop().await, 0));

    // It starts no more.
    let mut command = service::program(places.path());
    let ended = command.stderr(Stdio::piped()).output().unwrap();
    let (code, _, stderr) = said(&ended);
    let last = stderr.lines().last().unwrap_or_default();
    assert_eq!(code, Some(1), "{stderr}");
    assert!(
        last.contains("this store was moved to postgres://storm@"),
        "{stderr}"
    );

    let service = places.service_on_target().await;
    for (id, mut before) in ids.iter().zip(before) {
        let mut after = find(&service, id).await;
        for shown in [&mut before, &mut after] {
            shown["waiting_for"] = Value::Null;
        }
        assert_eq!(before, after);
    }
    assert_eq!(
        submit(&service, "a", "a").await.json()["request_id"],
        ids[0].as_str()
    );
    accept(&service, "late").await;
    assert!(exited_with(service.stop().await, 0));

    let (code, stdout, _) = said(&places.migrate().output().unwrap());
    assert_eq!(code, Some(0));
    assert!(
        stdout.starts_with("already moved to postgres://storm@"),
        "{stdout}"
    );
}

#[tokio::test]
async fn at_the_end_of_a_move_the_whole_url_is_said_but_for_its_password() {
    let places = Places::new().await;
    Service::start_in(places.path()).await.stop().await;
    let url = |login: &str| places.target().replacen("storm@", login, 1) + "?sslmode=disable";
    let run = |login: &str| {
        let mut command = service::program(places.path());
        command.args(["migrate", "--from", "sqlite:storm.db", "--to", &url(login)]);
        let (code, stdout, stderr) = said(&command.output().unwrap());
        assert_eq!((code, stderr.as_str()), (Some(0), ""), "{stdout}");
        assert!(!stdout.contains("hunter"), "{stdout}");
        stdout
    };
    let start = format!("start the services with DB_URL={}\n", url("storm@"));
    let hint = "its password is not shown: add it, or set PGPASSFILE or PGPASSWORD\n";
    let first = run("storm:hunter%3a2@");
    assert!(first.ends_with(&(start.clone() + hint)), "{first}");
    // Whoever repeats it, because the end was not seen, reads the same.
    let again = run("storm@");
    assert!(again.starts_with("already moved to "), "{again}");
    assert!(again.ends_with(&start), "{again}");
}

#[tokio::test]
async fn a_move_that_is_killed_at_any_moment_is_repeated_and_no_row_is_missing_or_there_twice() {
    const ROWS: u32 = 40_000;
    let places = Places::new().await;
    let service = Service::start_in(places.path()).await;
    let id = accept(&service, "first").await;
    assert!(exited_with(service.stop().await, 0));
    add_finished(places.path(), ROWS);
    let is_marked = || {
        let db = database(places.path());
        db.table_exists(None, "moved_to").unwrap_or(false)
    };
    let rows = |table: &str| -> u32 {
        let count = places.ask(&format!("SELECT count(*) FROM {table}"));
        count.parse().unwrap_or(0)
    };
    // Each is killed once this is true; or has ended before that was seen.
    let moments: [(&str, &dyn Fn() -> bool); 6] = [
        ("its begin", &|| {
            !places.ask("SELECT id FROM moved_in").is_empty()
        }),
        ("the mark", &is_marked),
        ("the first rows", &|| rows("requests") > 0),
        ("half of them", &|| rows("requests") > ROWS / 2),
        ("the events", &|| rows("events") > 0),
        ("the comparison", &|| {
            places.ask("SELECT stage FROM moved_in") == "8"
        }),
    ];
    for (moment, has_come) in moments {
        let mut child = places.migrate().spawn().unwrap();
        eventually(moment, || has_come() || child.try_wait().unwrap().is_some()).await;
        child.kill().unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.stderr.is_empty(), "{moment}: {output:?}");
        let is_done = places.ask("SELECT done IS NOT NULL FROM moved_in") == "t";
        if !is_done {
            let mut command = service::program(places.path());
            command
                .env("DB_URL", places.target())
                .stderr(Stdio::piped());
            let (code, _, stderr) = said(&command.output().unwrap());
            assert_eq!(code, Some(1), "{moment}: {stderr}");
            assert!(
                stderr.contains("run `storm-api migrate` to its end"),
                "{stderr}"
            );
        }
    }
    let output = places.migrate().output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!((rows("requests"), rows("events")), (ROWS + 1, 3000));
    let sums = places.ask(
        "SELECT sum((input_payload ->> 'n')::bigint), sum((result_payload ->> 'of')::bigint)
         FROM requests WHERE status = 'COMPLETED'",
    );
    let sum = u64::from(ROWS) * u64::from(ROWS + 1) / 2;
    assert_eq!(sums, format!("{sum}|{sum}"));
    let service = places.service_on_target().await;
    assert_eq!(find(&service, &id).await["status"], "PENDING");
    assert!(exited_with(service.stop().await, 0));
}

#[tokio::test]
async fn what_can_not_be_moved_is_said_in_one_line_without_a_password() {
    let places = Places::new().await;
    Service::start_in(places.path()).await.stop().await;
    let run = |from: &str, to: &str| {
        let mut command = service::program(places.path());
        command.args(["migrate", "--from", from, "--to", to]);
        command.stderr(Stdio::piped()).output().unwrap()
    };
    let secret = places.target().replacen("storm@", "storm:hunter2@", 1);
    for (from, to, says) in [
        ("sqlite:missing.db", secret.as_str(), "the source: "),
        (
            "sqlite:storm.db",
            "postgres://storm:hunter2@127.0.0.1:1/a",
            "the target: ",
        ),
        (secret.as_str(), "sqlite:storm.db", "and never back"),
    ] {
        let line = one_line(&run(from, to));
        assert!(line.contains(says) && !line.contains("hunter2"), "{line}");
    }
    for (from, to, argument) in [
        ("storm.db", secret.as_str(), "--from"),
        ("sqlite:storm.db", "postgres://storm:hunter2@/", "--to"),
    ] {
        let output = run(from, to);
        let (code, _, stderr) = said(&output);
        assert_eq!(code, Some(2), "{stderr}");
        assert!(
            stderr.starts_with(argument) && !stderr.contains("hunter2"),
            "{stderr}"
        );
    }
    // A disk that is full when the file is opened, and at the mark.
    for blocks in [8, 36] {
        let mut command = Command::new("bash");
        let migrate = places.migrate();
        command
            .args(["-c", &format!(r#"ulimit -f {blocks}; exec "$0" "$@""#)])
            .arg(migrate.get_program())
            .args(migrate.get_args())
            .current_dir(places.path())
            .env_clear();
        let line = one_line(&command.output().unwrap());
        assert!(
            line.contains("disk is full, or a limit is reached; nothing was changed"),
            "{line}"
        );
    }
    // Everything is as it was.
    let service = Service::start_in(places.path()).await;
    accept(&service, "a").await;
    assert!(exited_with(service.stop().await, 0));

    let mut dry = places.migrate();
    let (code, stdout, stderr) = said(&dry.arg("--dry-run").output().unwrap());
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert!(
        stdout.contains("would be moved to postgres://storm@"),
        "{stdout}"
    );
    let service = Service::start_in(places.path()).await;
    accept(&service, "b").await;
}
