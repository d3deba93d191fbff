//! What only a database on a `PostgreSQL` server has: the server can be down, and is measured.

use std::{collections::BTreeSet, fs, sync::Arc, time::Duration};

use serde_json::Value;
use tempfile::TempDir;
use tokio::{task::spawn_blocking, time::sleep};

use crate::{
    cli::Place,
    client::{Answer, bare, health, post},
    idempotency::{accepted, keyed},
    postgres_server::{PostgresServer, until},
    program_database::{Direct, folder_at},
    service::{Service, exited_with, lines, program},
};

const JOB: &str = r#"{"records": 10, "report_name": "Q1_Finance"}"#;

/// What an outage of the server is answered with: nothing was stored, or nobody knows.
const OUTAGE: [&str; 2] = ["503 database-unreachable", "503 outcome-unknown"];

/// An API on a server of its own.
async fn service(server: &PostgresServer) -> (Service, TempDir) {
    let folder = folder_at(server.url());
    let service = Service::start(&folder).await;
    (service, folder)
}

/// Submits with this key until it is accepted, and returns the request's id. Each refusal must
/// be one that the outage explains.
async fn submit_until_accepted(service: &Service, key: &str) -> String {
    loop {
        let answer = service.ask(keyed(key, JOB)).await;
        if answer.status == 202 {
            let is_replay = answer.header("idempotent-replayed").is_some();
            return accepted(&answer, is_replay);
        }
        let problem = answer.problem();
        assert!(OUTAGE.contains(&problem.as_str()), "{}", answer.text());
        sleep(Duration::from_millis(20)).await;
    }
}

/// Submits with this key until the answer is that the server can't be reached.
async fn refused_as_unreachable(service: &Service, key: &str) {
    loop {
        let problem = service.ask(keyed(key, JOB)).await.problem();
        if problem == "503 database-unreachable" {
            return;
        }
        assert!(OUTAGE.contains(&problem.as_str()), "{problem}");
    }
}

async fn readiness(service: &Service) -> Answer {
    service.ask(bare("GET", "/readyz")).await
}

/// What libraries have logged. The service says itself that the database fails, once.
fn lines_of_others(folder: &TempDir) -> Vec<Value> {
    let mut lines = lines(&folder.path().join("api.log"));
    lines.retain(|line| {
        let target = line["target"].as_str().unwrap();
        !target.starts_with("storm_") && target != "log"
    });
    lines
}

/// Asks until `/readyz` has this status.
async fn ready_turns(service: &Service, status: u16) -> Answer {
    loop {
        let answer = readiness(service).await;
        if answer.status == status {
            return answer;
        }
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_server_that_is_down_at_the_start_is_waited_for() {
    let server = PostgresServer::start(&[]);
    server.stop("fast");
    let folder = folder_at(server.url());
    let service = Service::spawn(program(folder.path()), folder.path()).await;
    let said = service.says("can't be opened yet").await;
    assert_eq!(said["trouble"], "unreachable");
    let unready = readiness(&service).await;
    assert_eq!(unready.status, 503);
    assert_eq!(unready.json()["database"], "not open yet");
    let refused = service.ask(post("/async", JOB)).await;
    assert_eq!(refused.problem(), "503 database-unavailable");
    server.begin();
    service.says("the database is open").await;
    ready_turns(&service, 200).await;
    assert_eq!(service.ask(post("/async", JOB)).await.status, 202);
    assert!(exited_with(service.stop().await, 0));
}

#[tokio::test]
async fn a_shutdown_ends_the_wait_for_a_server_that_is_down() {
    let server = PostgresServer::start(&[]);
    server.stop("fast");
    let folder = folder_at(server.url());
    let service = Service::spawn(program(folder.path()), folder.path()).await;
    service.says("can't be opened yet").await;
    assert!(exited_with(service.stop().await, 0));
}

#[tokio::test]
async fn a_crash_of_the_server_is_a_503_that_says_so_and_loses_no_accepted_job() {
    let server = PostgresServer::start(&[]);
    let (service, folder) = service(&server).await;
    let mut ids = BTreeSet::new();
    for number in 0..20 {
        ids.insert(submit_until_accepted(&service, &format!("before-{number}")).await);
    }
    server.stop("immediate");
    // The outcome is unknown only of what was sent before the service has seen the crash.
    refused_as_unreachable(&service, "during").await;
    let id = ids.first().unwrap();
    let unread = service.ask(bare("GET", &format!("/requests/{id}"))).await;
    assert_eq!(unread.problem(), "503 database-unreachable");
    assert_eq!(unread.header("retry-after"), Some("1"));
    let unready = ready_turns(&service, 503).await.json();
    assert_eq!(unready["database"], "unreachable", "{unready}");
    server.begin();
    ready_turns(&service, 200).await;
    for key in ["during", "after"] {
        ids.insert(submit_until_accepted(&service, key).await);
    }
    assert_eq!(ids.len(), 22);
    for id in &ids {
        let found = service.ask(bare("GET", &format!("/requests/{id}"))).await;
        let found = (found.status, found.json());
        assert_eq!(
            (found.0, &found.1["status"], &found.1["input_payload"]),
            (200, &"PENDING".into(), &serde_json::from_str(JOB).unwrap())
        );
    }
    let stored = Direct::open(folder.path()).await.count("requests").await;
    assert_eq!(stored, 22, "a job of each key, and no other");
    assert_eq!(lines_of_others(&folder), Vec::<Value>::new());
    assert!(exited_with(service.stop().await, 0));
}

#[tokio::test]
async fn a_server_that_restarts_under_load_makes_one_job_of_each_key() {
    let server = Arc::new(PostgresServer::start(&[]));
    let (service, folder) = service(&server).await;
    let submit = async |client: usize| {
        let mut ids = Vec::new();
        for number in 0..50 {
            ids.push(submit_until_accepted(&service, &format!("{client}-{number}")).await);
        }
        ids
    };
    let restarts = async {
        for mode in ["immediate", "fast"] {
            submit_until_accepted(&service, &format!("before {mode}").replace(' ', "-")).await;
            let server = Arc::clone(&server);
            // In a thread: the load goes on.
            let restart = spawn_blocking(move || {
                server.stop(mode);
                server.begin();
            });
            restart.await.unwrap();
        }
    };
    let (one, two, three, ()) = tokio::join!(submit(1), submit(2), submit(3), restarts);
    let ids: BTreeSet<_> = [one, two, three].concat().into_iter().collect();
    assert_eq!(ids.len(), 150, "a job of each key");
    let stored = Direct::open(folder.path()).await.count("requests").await;
    assert_eq!(stored, 152);
    assert_eq!(lines_of_others(&folder), Vec::<Value>::new());
    assert!(exited_with(service.stop().await, 0));
}

#[tokio::test]
async fn an_end_of_its_connections_costs_a_service_no_job() {
    let server = PostgresServer::start(&[]);
    let (service, _folder) = service(&server).await;
    for number in 0..10 {
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                   WHERE application_name = 'request-storm-handler'";
        server.execute(end).await;
        submit_until_accepted(&service, &format!("{number}")).await;
    }
    assert!(exited_with(service.stop().await, 0));
}

/// The values of a scrape's metrics whose names begin with `prefix`.
async fn metrics(service: &Service, prefix: &str) -> Vec<(String, u64)> {
    let scrape = service.ask(bare("GET", "/metrics")).await;
    let lines = scrape
        .text()
        .lines()
        .filter(|line| line.starts_with(prefix));
    let metric = |line: &str| {
        let (name, value) = line.rsplit_once(' ').unwrap();
        (name.to_owned(), value.parse().unwrap())
    };
    lines.map(metric).collect()
}

/// The names of the metrics in the manual's part about this engine.
fn documented() -> BTreeSet<String> {
    let manual = fs::read_to_string("../docs/OPERATIONS.md").unwrap();
    let (_, part) = manual.split_once("\n### PostgreSQL\n").unwrap();
    let (part, _) = part.split_once("\n### ").unwrap();
    let names = part.split('`').filter(|name| name.starts_with("storm_*_"));
    names.map(|name| name.replace('*', "api")).collect()
}

#[tokio::test]
async fn the_metrics_of_the_server_are_those_in_the_manual() {
    let server = PostgresServer::start(&[]);
    let (service, _folder) = service(&server).await;
    let names = metrics(&service, "storm_api_postgres_").await;
    let names: BTreeSet<_> = names.into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, documented());
    let others = ["storm_api_write_ahead_log", "storm_api_database_free"];
    for of_sqlite in others {
        assert_eq!(metrics(&service, of_sqlite).await, []);
    }
    let size = metrics(&service, "storm_api_database_bytes").await;
    assert!(size[0].1 > 1_000_000, "{size:?}");
    let pool = async || health(service.addr).await.json()["database_connections"].clone();
    until(async || pool().await["waiting"] == 0).await;
    let pool = pool().await;
    assert!(pool["open"].as_u64() >= Some(1), "{pool}");
    assert!(pool["limit"].as_u64() >= pool["open"].as_u64(), "{pool}");
    assert!(exited_with(service.stop().await, 0));
}

#[tokio::test]
async fn a_snapshot_that_keeps_dead_rows_is_measured_until_its_end() {
    let server = PostgresServer::start(&[]);
    let (service, folder) = service(&server).await;
    let value = async |name: &str| {
        let name = format!("storm_api_postgres_{name} ");
        metrics(&service, name.trim()).await[0].1
    };
    let reader = Direct::open(folder.path()).await;
    let old = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM requests";
    reader.run(old).await;
    while value("oldest_xmin_held_seconds").await == 0 {
        assert_eq!(service.ask(post("/async", JOB)).await.status, 202);
        sleep(Duration::from_millis(50)).await;
    }
    assert!(value("oldest_xmin_age_transactions").await > 1);
    // Each deletion leaves a dead row, which vacuum would keep.
    let writer = Direct::open(folder.path()).await;
    writer.run("DELETE FROM requests").await;
    while value("dead_rows").await == 0 {
        sleep(Duration::from_millis(50)).await;
    }
    reader.unlock().await;
    while value("oldest_xmin_held_seconds").await > 0 {
        assert_eq!(service.ask(post("/async", JOB)).await.status, 202);
        sleep(Duration::from_millis(50)).await;
    }
    assert!(exited_with(service.stop().await, 0));
}

#[tokio::test]
async fn commands_about_a_database_file_say_what_to_use_instead() {
    let server = PostgresServer::start(&[]);
    let place = Place(folder_at(server.url()));
    place.store().await.close().await;
    for (arguments, instead) in [
        (&["backup", "b.db"][..], "pg_dump"),
        (&["vacuum"], "autovacuum"),
    ] {
        let ran = place.run(arguments);
        assert_eq!(ran.code, Some(1), "{ran:?}");
        let problem = "/postgres is no database file; ";
        assert!(
            ran.stderr.contains(problem) && ran.stderr.contains(instead),
            "{ran:?}"
        );
        assert_eq!(ran.stderr.lines().count(), 1, "{ran:?}");
        assert_eq!(place.files(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn no_command_creates_or_migrates_a_database_and_a_missing_one_is_one_line() {
    let server = PostgresServer::start(&[]);
    let place = Place(folder_at(server.url()));
    let ran = place.run(&["stats"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let remedy = "the database is empty; start the API or a worker of this version";
    assert!(
        ran.stderr.starts_with("DB_URL: ") && ran.stderr.contains(remedy),
        "{ran:?}"
    );
    let tables = "pg_tables WHERE schemaname = 'public'";
    let database = Direct::open(place.0.path()).await;
    assert_eq!(database.count(tables).await, 0);

    let missing = Place(folder_at(server.url() + "_of_nobody"));
    let ran = missing.run(&["stats"]);
    assert_eq!(
        (ran.code, ran.stderr.lines().count()),
        (Some(1), 1),
        "{ran:?}"
    );
    assert!(ran.stderr.contains("create the database"), "{ran:?}");
    // Nor does a service wait for what nobody will make.
    let service = program(missing.0.path()).status().unwrap();
    assert!(exited_with(service, 1));

    server.stop("fast");
    let ran = place.run(&["stats"]);
    assert_eq!(
        (ran.code, ran.stderr.lines().count()),
        (Some(1), 1),
        "{ran:?}"
    );
}
