//! `MAX_BACKLOG`: jobs past it are refused until some have ended.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;
use storm_shared::{
    models::{CallbackUrl, Origin, RequestId},
    services::store::{Ended, NewJob, OwnerId, Paused, Scope, Store},
};
use tempfile::TempDir;
use tokio::{
    net::TcpListener,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    auth::Tenants,
    client::{Answer, Client, bare, post},
    idempotency::{accepted, keyed, with_key},
    program_database::Direct,
    redelivery::{HOOK, failed},
    server::{Server, settings},
};

const JOB: &str = r#"{"records": 1, "report_name": "a"}"#;

/// Another submission.
const OTHER: &str = r#"{"records": 2, "report_name": "b"}"#;

async fn submit(server: &Server) -> Answer {
    server.ask(post("/async", JOB)).await
}

/// Submits jobs until one is refused. Returns the answer.
async fn until_refused(server: &Server) -> Answer {
    loop {
        let answer = submit(server).await;
        if answer.status == 503 {
            assert_eq!(answer.problem(), "503 backlog-full");
            return answer;
        }
        assert_eq!(answer.status, 202);
    }
}

/// The jobs in the database.
async fn jobs(server: &Server) -> Vec<RequestId> {
    let sql = "SELECT id FROM requests WHERE mode = 'async' AND status = 'PENDING'";
    let ids = server.database().await.column(sql).await;
    ids.iter().map(|id| id.parse().unwrap()).collect()
}

/// Adds jobs as another process does.
async fn add(store: &Store, count: usize) {
    let spec: storm_shared::models::ReportSpec = serde_json::from_str(JOB).unwrap();
    for _ in 0..count {
        let job = NewJob::new(RequestId::generate(), spec.clone(), None);
        store.accept(job).await.unwrap();
    }
}

#[tokio::test]
async fn past_max_backlog_new_jobs_are_refused_until_some_have_ended() {
    let server = Server::start(&[("MAX_BACKLOG", "5")]).await;
    let store = &server.app.store;
    let over = failed(store, HOOK).await;
    let first = accepted(&server.ask(keyed("first", JOB)).await, false);
    // Never more than the limit, whenever the API counts.
    while jobs(&server).await.len() < 5 {
        submit(&server).await;
    }
    for _ in 0..20 {
        let refused = until_refused(&server).await;
        assert_eq!(refused.header("retry-after"), Some("60"), "nothing ends");
    }
    assert_eq!(jobs(&server).await.len(), 5);

    // What makes no new job is answered as ever.
    let again = server.ask(keyed("first", JOB)).await;
    assert_eq!(accepted(&again, true), first);
    let conflict = server.ask(keyed("first", OTHER)).await;
    assert_eq!(conflict.problem(), "422 idempotency-key-reused");
    let invalid = server.ask(keyed("invalid", "{}")).await;
    assert_eq!(invalid.problem(), "422 validation");
    // Without a key it is refused before it is parsed.
    let unread = server.ask(post("/async", "{}")).await;
    assert_eq!(unread.problem(), "503 backlog-full");
    assert_eq!(server.ask(post("/sync", JOB)).await.status, 200);
    let redeliver = bare("POST", &format!("/requests/{over}/redeliver"));
    assert_eq!(server.ask(redeliver).await.status, 202);
    // A refused submission stores no key.
    let refused = server.ask(keyed("next", JOB)).await;
    assert_eq!(refused.problem(), "503 backlog-full");

    let first = first.parse().unwrap();
    store.cancel(Scope::All, first).await.unwrap().unwrap();
    let mut next = server.ask(keyed("next", JOB)).await;
    while next.status == 503 {
        next = server.ask(keyed("next", JOB)).await;
    }
    accepted(&next, false);
    until_refused(&server).await;
    assert_eq!(jobs(&server).await.len(), 5);
}

#[tokio::test]
async fn a_refusal_costs_no_look_into_the_database_and_without_counts_the_last_one_stays() {
    let server = Server::start(&[("MAX_BACKLOG", "1")]).await;
    assert_eq!(submit(&server).await.status, 202);
    let database = server.database().await;
    let rename = async |from, to| {
        let sql = format!("ALTER TABLE {from} RENAME TO {to}");
        database.run(&sql).await;
    };
    rename("requests", "gone").await;
    // Longer than a count takes to fail.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(1500) {
        let refused = submit(&server).await;
        assert_eq!(refused.problem(), "503 backlog-full");
    }
    let keyed = server.ask(keyed("k", JOB)).await;
    assert_eq!(keyed.problem(), "503 database-unavailable");
    rename("gone", "requests").await;
    database.run("DELETE FROM requests").await;
    while submit(&server).await.status != 202 {
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_start_accepts_no_job_before_it_has_counted_the_backlog() {
    let folder = TempDir::new().unwrap();
    let settings = settings(&folder, &[("MAX_BACKLOG", "2")]);
    let store = Store::open(&settings.store).await.unwrap();
    add(&store, 2).await;
    store.close().await;
    let database = Direct::open(folder.path()).await;
    // Every count fails.
    database.run("ALTER TABLE workers RENAME TO gone").await;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(storm_api::run(listener, settings, shutdown.clone()));
    let ask = async |request: String| {
        let mut client = Client::connect(addr).await;
        client.send(request).await;
        client.answer().await
    };
    for _ in 0..3 {
        let refused = ask(post("/async", JOB)).await;
        assert_eq!(refused.problem(), "503 database-unavailable");
    }
    assert_eq!(ask(bare("GET", "/readyz")).await.status, 503);
    database.run("ALTER TABLE gone RENAME TO workers").await;
    while ask(bare("GET", "/readyz")).await.status != 200 {
        sleep(Duration::from_millis(10)).await;
    }
    let refused = ask(post("/async", JOB)).await;
    assert_eq!(refused.problem(), "503 backlog-full");
    shutdown.cancel();
    timeout(crate::PATIENCE, running)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn one_tenants_jobs_leave_room_in_the_backlog_for_anothers() {
    let it = Tenants::start(&[("MAX_BACKLOG", "16")]).await;
    let submit = async |token| it.ask_as(token, &post("/async", JOB)).await;
    let accepted = async |token| {
        let mut accepted = 0;
        while submit(token).await.status == 202 {
            accepted += 1;
        }
        accepted
    };
    assert_eq!(accepted(&it.one).await, 14);
    // Whenever it is counted.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(1500) {
        assert_eq!(submit(&it.one).await.problem(), "503 backlog-full");
    }
    assert_eq!(accepted(&it.other).await, 2);
    assert_eq!(jobs(&it.server).await.len(), 16);
    // Room that comes free is the other's.
    for id in jobs(&it.server).await.into_iter().take(3) {
        let store = &it.server.app.store;
        store.cancel(Scope::All, id).await.unwrap().unwrap();
    }
    while submit(&it.other).await.status != 202 {}
    assert_eq!(submit(&it.one).await.problem(), "503 backlog-full");
    assert_eq!(accepted(&it.other).await, 2);
}

#[tokio::test]
async fn a_dead_handlers_jobs_leave_room_in_the_backlog_for_reports_and_other_handlers() {
    let dead = ("HANDLERS__DEAD__URL", "http://127.0.0.1:9/");
    let other = ("HANDLERS__OTHER__URL", "http://127.0.0.1:9/");
    let server = Server::start(&[("MAX_BACKLOG", "16"), dead, other]).await;
    let submit = async |handler: &str| {
        let (path, body) = match handler {
            "report" => ("/async".to_owned(), JOB),
            name => (format!("/async/{name}"), r#"{"payload": 1}"#),
        };
        server.ask(post(&path, body)).await
    };
    let accepted = async |handler| {
        let mut accepted = 0;
        while submit(handler).await.status == 202 {
            accepted += 1;
        }
        accepted
    };
    assert_eq!(accepted("dead").await, 14);
    // Whenever it is counted.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(1500) {
        let refused = submit("dead").await;
        assert_eq!(refused.problem(), "503 backlog-full");
        let detail = refused.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains("the handler `dead`"), "{detail}");
        assert!(refused.header("retry-after").is_some());
    }
    // One with a key is refused, too: it is looked up first.
    let keyed = with_key("k", &post("/async/dead", r#"{"payload": 1}"#));
    assert_eq!(server.ask(keyed).await.problem(), "503 backlog-full");
    assert_eq!(submit("report").await.status, 202);
    assert_eq!(submit("other").await.status, 202);
    let full = submit("other").await;
    assert_eq!(full.problem(), "503 backlog-full");
    assert!(!full.text().contains("`other`"), "the limit is that of all");
    // Room that comes free is the others'.
    for id in jobs(&server).await.into_iter().take(3) {
        let store = &server.app.store;
        store.cancel(Scope::All, id).await.unwrap().unwrap();
    }
    while submit("report").await.status != 202 {}
    assert_eq!(submit("dead").await.problem(), "503 backlog-full");
    assert_eq!(accepted("other").await + accepted("report").await, 2);
    assert_eq!(jobs(&server).await.len(), 16);
}

#[tokio::test]
async fn one_tenants_jobs_for_a_handler_leave_room_for_anothers_for_the_same_and_for_reports() {
    let dead = ("HANDLERS__DEAD__URL", "http://127.0.0.1:9/");
    let it = Tenants::start(&[("MAX_BACKLOG", "32"), dead]).await;
    let to_dead = post("/async/dead", r#"{"payload": 1}"#);
    let report = post("/async", JOB);
    // Until one is refused.
    let accepted = async |token, job: &str| {
        let mut accepted = 0;
        loop {
            let answer = it.ask_as(token, job).await;
            if answer.status != 202 {
                assert_eq!(answer.problem(), "503 backlog-full");
                let names_it = answer.text().contains("the handler `dead`");
                return (accepted, names_it);
            }
            accepted += 1;
        }
    };
    assert_eq!(accepted(&it.one, &to_dead).await, (28, false));
    assert_eq!(accepted(&it.other, &to_dead).await, (2, true));
    assert_eq!(accepted(&it.one, &report).await, (0, false));
    assert_eq!(accepted(&it.other, &report).await, (2, false));
    assert_eq!(jobs(&it.server).await.len(), 32);
}

#[tokio::test]
async fn a_202_expects_a_paused_job_in_a_minute_at_the_earliest() {
    let server = Server::start(&[]).await;
    let (store, pauses) = (&server.app.store, &server.app.pauses);
    let to = |origin| {
        let url = format!("{origin}/hook");
        let body = json!({"records": 1, "report_name": "a", "callback_url": url});
        post("/async", body)
    };
    let waits = async |request: String| {
        let answer = server.ask(request).await;
        let expected_at: Timestamp = answer.json()["expected_at"]
            .as_str()
            .unwrap()
            .parse()
            .unwrap();
        let retry_after: u64 = answer.header("retry-after").unwrap().parse().unwrap();
        let wait = expected_at.duration_since(Timestamp::now()).as_secs();
        (wait > 30, retry_after > 30)
    };
    let origin: Origin = CallbackUrl::parse("https://a.example/")
        .unwrap()
        .origin()
        .clone();
    let [origin, everything] = [Paused::Origin(origin), Paused::Everything];
    assert_eq!(waits(to("https://a.example")).await, (false, false));
    store
        .pause(origin, "ops".parse().unwrap())
        .await
        .unwrap()
        .unwrap();
    pauses.look().await;
    assert_eq!(waits(to("https://a.example")).await, (true, true));
    assert_eq!(waits(to("https://b.example")).await, (false, false));
    assert_eq!(waits(post("/async", JOB)).await, (false, false));
    store
        .pause(everything, "ops".parse().unwrap())
        .await
        .unwrap()
        .unwrap();
    pauses.look().await;
    assert_eq!(waits(to("https://b.example")).await, (true, true));
    assert_eq!(waits(post("/async", JOB)).await, (true, true));
}

#[tokio::test]
async fn what_is_not_stored_takes_no_room() {
    let server = Server::start(&[("MAX_BACKLOG", "2")]).await;
    let lock = server.database().await;
    lock.lock().await;
    for _ in 0..3 {
        let answer = submit(&server).await;
        assert_eq!(answer.problem(), "503 database-locked");
    }
    lock.unlock().await;
    while jobs(&server).await.len() < 2 {
        submit(&server).await;
    }
    until_refused(&server).await;
    assert_eq!(jobs(&server).await.len(), 2);
}

/// A worker that says that it ends so many jobs with each heartbeat.
async fn worker(store: &Store, each: u64) -> JoinHandle<()> {
    let (store, owner) = (store.clone(), OwnerId::generate());
    store.register(owner, &[]).await.unwrap();
    tokio::spawn(async move {
        let mut ended = 0;
        loop {
            ended += each;
            store
                .renew(
                    owner,
                    Ended {
                        jobs: ended,
                        long_jobs: 0,
                    },
                )
                .await
                .unwrap();
            sleep(Duration::from_millis(50)).await;
        }
    })
}

/// The value of a metric.
async fn metric(server: &Server, name: &str) -> f64 {
    let scrape = server.ask(bare("GET", "/metrics")).await;
    let mut lines = scrape.text().lines();
    let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.unwrap().parse().unwrap()
}

/// The `Retry-After` of a refusal, with a backlog of 200 beyond a limit of 100, while a worker ends
/// `each` jobs with each heartbeat. It follows from the rate that the metrics show.
async fn retry_after(each: u64) -> u32 {
    let server = Server::start(&[("MAX_BACKLOG", "100")]).await;
    add(&server.app.store, 200).await;
    let worker = worker(&server.app.store, each).await;
    let begun = Instant::now();
    let found = loop {
        assert!(begun.elapsed() < crate::PATIENCE, "no refusal by its rate");
        sleep(Duration::from_millis(10)).await;
        let rate = metric(&server, "storm_api_drain_rate").await;
        if rate == 0.0 || metric(&server, "storm_api_backlog_jobs").await < 200.0 {
            continue;
        }
        let refused = until_refused(&server).await;
        let seconds: u32 = refused.header("retry-after").unwrap().parse().unwrap();
        // Unless it was counted again meanwhile.
        if metric(&server, "storm_api_drain_rate").await.to_bits() == rate.to_bits() {
            let expected = (101.0 / rate).ceil().clamp(1.0, 600.0);
            assert!(
                (f64::from(seconds) - expected).abs() < 0.5,
                "{seconds} at {rate}/s"
            );
            break seconds;
        }
    };
    worker.abort();
    found
}

#[tokio::test]
async fn retry_after_follows_from_the_rate_at_which_the_workers_end_jobs() {
    let (slow, fast) = tokio::join!(retry_after(1), retry_after(100));
    assert!(slow > fast, "{slow} s and {fast} s");
}

#[tokio::test]
async fn a_202_expects_the_jobs_before_it_to_end_at_the_rate_of_the_workers() {
    let server = Server::start(&[]).await;
    add(&server.app.store, 1000).await;
    let worker = worker(&server.app.store, 1).await;
    let begun = Instant::now();
    loop {
        assert!(
            begun.elapsed() < crate::PATIENCE,
            "no answer at a known rate"
        );
        let rate = metric(&server, "storm_api_drain_rate").await;
        if rate == 0.0 {
            continue;
        }
        let answer = submit(&server).await;
        let (expected_at, now) = (answer.json()["expected_at"].take(), Timestamp::now());
        // Unless it was counted again meanwhile.
        if metric(&server, "storm_api_drain_rate").await.to_bits() == rate.to_bits() {
            let expected_at: Timestamp = expected_at.as_str().unwrap().parse().unwrap();
            let wait = expected_at.duration_since(now).as_secs_f64();
            // A rate of which it is not known yet that the workers had enough to do.
            if wait < 3.1 {
                continue;
            }
            let jobs = jobs(&server).await.len();
            // And the time that its own record takes.
            let most = f64::from(u32::try_from(jobs).unwrap()) / rate + 0.01;
            // Less what has ended since the count: far less than a half, at some 20 jobs a second.
            assert!(
                (most / 2.0..=most).contains(&wait),
                "{wait} s for {jobs} at {rate}/s"
            );
            let retry_after: f64 = answer.header("retry-after").unwrap().parse().unwrap();
            assert!((retry_after - wait).abs() < wait / 2.0, "{retry_after} s");
            break;
        }
    }
    worker.abort();
}
