//! `GET /metrics`: what is counted and measured. `auth` tests who may read it.

use serde_json::json;
use tokio::time::{Duration, sleep, timeout};

use crate::{
    PATIENCE,
    client::{bare, post},
    idempotency::keyed,
    server::Server,
};

const JOB: &str = r#"{"records": 10, "report_name": "Q1_Finance"}"#;

/// The value of the first metric whose line starts with `name`.
async fn metric(server: &Server, name: &str) -> f64 {
    let scrape = server.ask(bare("GET", "/metrics")).await;
    let line = scrape.text().lines().find_map(|it| it.strip_prefix(name));
    let value = line.unwrap_or_else(|| panic!("no {name} in {}", scrape.text()));
    value.trim().parse().unwrap()
}

#[tokio::test]
async fn accepted_refused_and_repeated_submissions_are_told_apart() {
    let server = Server::start(&[]).await;
    server.ask(post("/async", JOB)).await;
    server.ask(keyed("k", JOB)).await;
    server.ask(keyed("k", JOB)).await;
    server.ask(post("/async", "no JSON")).await;
    server.ask(bare("GET", "/nothing")).await;
    let scrape = server.ask(bare("GET", "/metrics")).await;
    for line in [
        r#"storm_api_accepted_jobs_total{handler="report",kind="new"} 2"#,
        r#"storm_api_accepted_jobs_total{handler="report",kind="replayed"} 1"#,
        r#"storm_api_refused_total{endpoint="async",reason="malformed-body"} 1"#,
        r#"storm_api_refused_total{endpoint="other",reason="not-found"} 1"#,
        "storm_api_ack_seconds_count 3",
        "storm_api_connections 1",
        "storm_api_group_commit_writes_sum 2.0",
        "storm_build_info{service=\"api\",version=\"",
        "process_cpu_seconds_total ",
    ] {
        assert!(scrape.text().contains(line), "{line}: {}", scrape.text());
    }
}

#[tokio::test]
async fn the_pool_of_sync_shows_its_threads_and_its_queue() {
    let settings = [("SYNC_THREADS", "2"), ("SYNC_QUEUE", "3")];
    let server = Server::start(&settings).await;
    let threads = server.occupy().await;
    for (name, value) in [
        ("sync_threads_used", "2"),
        ("sync_threads", "2"),
        ("sync_requests", "2"),
        ("sync_requests_limit", "5"),
    ] {
        let line = format!("\nstorm_api_{name} {value}\n");
        let scrape = server.ask(bare("GET", "/metrics")).await;
        assert!(scrape.text().contains(&line), "{line}: {}", scrape.text());
    }
    drop(threads);
}

#[tokio::test]
async fn the_age_of_the_oldest_due_job_is_shown_though_there_is_no_worker() {
    let server = Server::start(&[("REDIS_URL", "none")]).await;
    server.ask(post("/async", JOB)).await;
    let database = server.database().await;
    let a_minute_ago = database.either(
        "UPDATE requests SET due = due - 60000",
        "UPDATE requests SET due = due - interval '1 minute'",
    );
    database.change(1, a_minute_ago).await;
    let shown = async {
        while metric(&server, "storm_api_oldest_due_age_seconds ").await < 60.0 {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, shown).await.expect("the age is measured");
}

#[tokio::test]
async fn what_clients_choose_becomes_no_label() {
    let server = Server::start(&[]).await;
    let series = async || {
        let scrape = server.ask(bare("GET", "/metrics")).await;
        let lines = scrape.text().lines();
        lines.filter(|line| !line.starts_with('#')).count()
    };
    // Counts the answer to a scrape, too.
    series().await;
    let mut counts = Vec::new();
    for round in 0..3 {
        for parent in ["", "/async", "/requests", "/admin"] {
            for method in ["GET", "POST", &format!("METHOD{round}")] {
                let request = bare(method, &format!("{parent}/path-{round}"));
                server.ask(&request).await;
                let host = format!("host-{round}.example");
                server.ask(request.replacen("localhost", &host, 1)).await;
            }
        }
        let job = json!({
            "records": 1, "report_name": round, "callback_url": format!("http://10.0.0.{round}/"),
        });
        server.ask(keyed(&format!("key-{round}"), job)).await;
        counts.push(series().await);
    }
    assert!(counts[0] == counts[2] && counts[0] < 300, "{counts:?}");
}

#[tokio::test]
async fn a_cancelled_job_is_counted_once_by_who_cancelled_it() {
    let server = Server::start(&[]).await;
    let accepted = server.ask(post("/async", JOB)).await;
    let cancel = bare("DELETE", accepted.header("location").unwrap());
    let shows = async |by: &str, count: u32| {
        let line = format!("storm_api_cancelled_jobs_total{{by=\"{by}\"}} {count}\n");
        let scrape = server.ask(bare("GET", "/metrics")).await;
        assert!(scrape.text().contains(&line), "{line}: {}", scrape.text());
    };
    shows("client", 0).await;
    shows("operator", 0).await;
    let unknown = "/requests/0193b7a2-5d3c-7e21-9f0a-3c5b8e6d1f42";
    assert_eq!(server.ask(bare("DELETE", unknown)).await.status, 404);
    for _ in 0..2 {
        assert_eq!(server.ask(cancel.clone()).await.status, 200);
    }
    shows("client", 1).await;
    shows("operator", 0).await;
}
