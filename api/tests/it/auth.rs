//! Authentication, tenant scope and rate limits.

use std::fmt::Display;

use serde_json::json;
use storm_api::serving::serve_metrics;
use storm_shared::services::access::Token;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    client::{Answer, Client, bare, health, post},
    program_database::Direct,
    server::{Server, settings},
};

const JOB: &str = r#"{"records": 1, "report_name": "a"}"#;

/// The path of a request that does not exist.
const UNKNOWN: &str = "/requests/0193b7a2-5d3c-7e21-9f0a-3c5b8e6d1f42";

pub(crate) fn token() -> Token {
    Token::generate().unwrap()
}

pub(crate) fn entry(name: &str, token: &Token) -> String {
    format!("{name}:{}", token.hash().to_hex())
}

/// Adds a header line to the request.
fn with(line: impl Display, request: &str) -> String {
    request.replacen("\r\n", &format!("\r\n{line}\r\n"), 1)
}

/// Adds the token to the request.
pub(crate) fn bearing(token: &Token, request: &str) -> String {
    with(
        format_args!("authorization: Bearer {}", token.as_str()),
        request,
    )
}

/// A server with two tenants.
pub(crate) struct Tenants {
    pub(crate) server: Server,
    pub(crate) one: Token,
    pub(crate) other: Token,
}

impl Tenants {
    pub(crate) async fn start(overrides: &[(&str, &str)]) -> Self {
        let (one, other) = (token(), token());
        let tokens = [entry("one", &one), entry("other", &other)].join(",");
        let tokens = [("API_TOKENS", tokens.as_str())];
        let server = Server::start(&[&tokens[..], overrides].concat()).await;
        Self { server, one, other }
    }

    pub(crate) async fn ask_as(&self, token: &Token, request: &str) -> Answer {
        self.server.ask(bearing(token, request)).await
    }
}

#[tokio::test]
async fn every_path_but_the_health_checks_requires_a_token() {
    let tenants = Tenants::start(&[]).await;
    for path in [
        "/async",
        "/sync",
        "/requests",
        "/requests/x",
        UNKNOWN,
        "/metrics",
        "/nothing",
        "/healthz/",
        "//healthz",
        "/HEALTHZ",
        "/livez/",
        "/readyz/",
        "//readyz",
        "/readyz/x",
        "/metrics/",
    ] {
        for request in [bare("GET", path), bare("BREW", path), post(path, JOB)] {
            let answer = tenants.server.ask(&request).await;
            assert_eq!(answer.problem(), "401 unauthorized", "{request}");
            assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
        }
    }
    let healthz = tenants.server.ask(bare("GET", "/healthz")).await;
    assert_eq!(healthz.json()["database"], "ok");
    for probe in ["/livez", "/readyz"] {
        let answer = tenants.server.ask(bare("GET", probe)).await;
        assert_eq!(answer.status, 200, "{probe}");
    }

    let one = &tenants.one;
    for (request, status) in [
        (post("/async", JOB), 202),
        (post("/sync", JOB), 200),
        (bare("GET", "/nothing"), 404),
        (bare("GET", "/async"), 405),
        (bare("GET", "/healthz"), 503), // Redis is unreachable
    ] {
        let answer = tenants.ask_as(one, &request).await;
        assert_eq!(answer.status, status, "{request}");
    }
}

#[tokio::test]
async fn the_authorization_scheme_is_case_insensitive() {
    let tenants = Tenants::start(&[]).await;
    for scheme in ["Bearer", "bearer", "BEARER"] {
        let line = format!("authorization: {scheme} {}", tenants.one.as_str());
        let answer = tenants.server.ask(with(line, &post("/async", JOB))).await;
        assert_eq!(answer.status, 202, "{scheme}");
    }
}

#[tokio::test]
async fn every_invalid_token_returns_the_same_401() {
    let tenants = Tenants::start(&[]).await;
    let right = tenants.one.as_str();
    let request = bare("GET", UNKNOWN);
    let missing = tenants.server.ask(&request).await;
    let twice = format!("authorization: Bearer {right}\r\nauthorization: Bearer {right}");
    for line in [
        format!("authorization: Bearer {}", token().as_str()),
        format!("authorization: Bearer {right}0"),
        format!("authorization: Bearer {}", &right[..right.len() - 1]),
        format!("authorization: Bearer {}", right.to_uppercase()),
        format!("authorization: Bearer {}", tenants.one.hash().to_hex()),
        format!("authorization: Bearer {}", "a".repeat(8000)),
        format!("authorization: Basic {right}"),
        format!("authorization: {right}"),
        "authorization: Bearer".to_owned(),
        twice,
    ] {
        let answer = tenants.server.ask(with(line, &request)).await;
        assert_eq!(answer.problem(), "401 unauthorized");
        assert_eq!(answer.json(), missing.json());
        assert_eq!(
            answer.header("www-authenticate"),
            missing.header("www-authenticate")
        );
    }
}

#[tokio::test]
async fn a_request_without_a_token_returns_401_before_its_body_is_read() {
    let tenants = Tenants::start(&[]).await;
    let mut client = tenants.server.connect().await;
    let request = post("/async", JOB);
    let (head, body) = request.split_at(request.len() - JOB.len());
    client.send(head).await;
    assert_eq!(client.answer().await.problem(), "401 unauthorized");
    // The connection stays usable.
    client.send(body).await;
    client.send(bearing(&tenants.one, &request)).await;
    assert_eq!(client.answer().await.status, 202);
}

#[tokio::test]
async fn a_request_of_another_tenant_returns_404() {
    let tenants = Tenants::start(&[]).await;
    let (one, other) = (&tenants.one, &tenants.other);
    let accepted = tenants.ask_as(one, &post("/async", JOB)).await;
    assert_eq!(tenants.ask_as(one, &post("/sync", JOB)).await.status, 200);
    let database = tenants.server.database().await;
    let sync = database
        .value("SELECT id FROM requests WHERE mode = 'sync'")
        .await;
    let unknown = tenants.ask_as(other, &bare("GET", UNKNOWN)).await;
    for path in [
        accepted.header("location").unwrap(),
        &format!("/requests/{sync}"),
    ] {
        let find = bare("GET", path);
        assert_eq!(tenants.ask_as(one, &find).await.status, 200, "{path}");
        let answer = tenants.ask_as(other, &find).await;
        assert_eq!(answer.problem(), "404 not-found");
        assert_eq!(answer.json(), unknown.json());
    }
}

#[tokio::test]
async fn a_tenant_can_redeliver_only_its_own_requests() {
    let tenants = Tenants::start(&[]).await;
    let (one, other) = (&tenants.one, &tenants.other);
    let job =
        json!({"records": 1, "report_name": "a", "callback_url": "https://receiver.example/"});
    let accepted = tenants.ask_as(one, &post("/async", job)).await;
    let location = accepted.header("location").unwrap();
    let over =
        "UPDATE requests SET status = 'FAILED', result_payload = '{}', completed_at = created_at";
    tenants.server.database().await.change(1, over).await;
    let redeliver = bare("POST", &format!("{location}/redeliver"));
    let unknown = bare("POST", &format!("{UNKNOWN}/redeliver"));
    let answer = tenants.ask_as(other, &redeliver).await;
    assert_eq!(answer.problem(), "404 not-found");
    assert_eq!(answer.json(), tenants.ask_as(other, &unknown).await.json());
    let all = bare("POST", "/requests/redeliver?status=FAILED");
    let others = tenants.ask_as(other, &all).await;
    assert_eq!(others.json()["redelivering"], 0);
    let its_own = tenants.ask_as(one, &all).await;
    assert_eq!(its_own.json()["redelivering"], 1);
}

#[tokio::test]
async fn a_tenant_can_cancel_only_its_own_requests() {
    let tenants = Tenants::start(&[]).await;
    let accepted = tenants.ask_as(&tenants.one, &post("/async", JOB)).await;
    let cancel = bare("DELETE", accepted.header("location").unwrap());
    let answer = tenants.ask_as(&tenants.other, &cancel).await;
    assert_eq!(answer.problem(), "404 not-found");
    let unknown = bare("DELETE", UNKNOWN);
    let unknown = tenants.ask_as(&tenants.other, &unknown).await;
    assert_eq!(answer.json(), unknown.json());
    let its_own = tenants.ask_as(&tenants.one, &cancel).await;
    assert_eq!(its_own.json()["failure"]["reason"], "cancelled");
}

#[tokio::test]
async fn requests_without_an_owner_are_hidden_with_tokens_and_all_rows_are_visible_without() {
    let tenants = Tenants::start(&[]).await;
    let named = tenants.ask_as(&tenants.one, &post("/async", JOB)).await;
    let find = bare("GET", named.header("location").unwrap());
    let database = tenants.server.database().await;
    let nobody = "UPDATE requests SET created_by = NULL";
    database.change(1, nobody).await;
    for token in [&tenants.one, &tenants.other] {
        assert_eq!(
            tenants.ask_as(token, &find).await.problem(),
            "404 not-found"
        );
    }

    let open = Server::start(&[]).await;
    let accepted = open.ask(post("/async", JOB)).await;
    let one = "UPDATE requests SET created_by = 'one'";
    open.database().await.change(1, one).await;
    let found = open
        .ask(bare("GET", accepted.header("location").unwrap()))
        .await;
    assert_eq!(found.status, 200);
}

#[tokio::test]
async fn every_token_of_a_tenant_sees_the_tenants_requests() {
    let (old, new) = (token(), token());
    let tokens = format!("{} {}", entry("a", &old), entry("a", &new));
    let server = Server::start(&[("API_TOKENS", &tokens)]).await;
    let accepted = server.ask(bearing(&old, &post("/async", JOB))).await;
    let find = bare("GET", accepted.header("location").unwrap());
    assert_eq!(server.ask(bearing(&new, &find)).await.status, 200);
}

#[tokio::test]
async fn a_client_over_its_rate_limit_gets_429_with_retry_after_and_others_are_unaffected() {
    let tenants = Tenants::start(&[("RATE_LIMIT", "2/h")]).await;
    let (one, other) = (&tenants.one, &tenants.other);
    let policy = Some(r#""default";q=2;w=3600"#);
    for left in ["1", "0"] {
        let answer = tenants.ask_as(one, &post("/async", JOB)).await;
        assert_eq!(answer.status, 202);
        assert_eq!(answer.header("ratelimit-policy"), policy);
        let limit = format!(r#""default";r={left};t=1800"#);
        assert_eq!(answer.header("ratelimit"), Some(limit.as_str()));
        let soon = Some("1");
        assert_eq!(answer.header("retry-after"), soon, "that of the job");
    }
    for request in [post("/async", JOB), bare("GET", "/nothing")] {
        let answer = tenants.ask_as(one, &request).await;
        assert_eq!(answer.problem(), "429 rate-limited");
        assert_eq!(answer.header("ratelimit-policy"), policy);
        let wait = answer.header("retry-after").unwrap();
        assert!((1..=1800).contains(&wait.parse().unwrap()), "{wait}");
        let limit = format!(r#""default";r=0;t={wait}"#);
        assert_eq!(answer.header("ratelimit"), Some(limit.as_str()));
    }
    assert_eq!(
        tenants.ask_as(other, &post("/async", JOB)).await.status,
        202
    );
}

#[tokio::test]
async fn healthz_metrics_and_unauthenticated_requests_do_not_count_against_rate_limits() {
    let tenants = Tenants::start(&[("RATE_LIMIT", "1/h")]).await;
    let one = &tenants.one;
    for _ in 0..3 {
        let health = tenants.ask_as(one, &bare("GET", "/healthz")).await;
        assert_eq!(health.header("ratelimit"), None);
        for probe in ["/livez", "/readyz"] {
            let probe = tenants.ask_as(one, &bare("GET", probe)).await;
            assert_eq!((probe.status, probe.header("ratelimit")), (200, None));
        }
        let metrics = tenants.ask_as(one, &bare("GET", "/metrics")).await;
        assert_eq!((metrics.status, metrics.header("ratelimit")), (200, None));
        let stranger = tenants.server.ask(post("/async", JOB)).await;
        assert_eq!((stranger.status, stranger.header("ratelimit")), (401, None));
    }
    assert_eq!(tenants.ask_as(one, &post("/async", JOB)).await.status, 202);
    assert_eq!(tenants.ask_as(one, &post("/async", JOB)).await.status, 429);
}

#[tokio::test]
async fn without_tokens_all_clients_share_one_rate_limit() {
    let server = Server::start(&[("RATE_LIMIT", "2/h")]).await;
    for status in [202, 202, 429, 429] {
        assert_eq!(server.ask(post("/async", JOB)).await.status, status);
    }
}

#[tokio::test]
async fn without_a_rate_limit_responses_have_no_ratelimit_fields() {
    let server = Server::start(&[]).await;
    let answer = server.ask(post("/async", JOB)).await;
    assert_eq!(answer.status, 202);
    assert_eq!(answer.header("ratelimit"), None);
    assert_eq!(answer.header("ratelimit-policy"), None);
}

#[tokio::test]
async fn responses_are_counted_by_endpoint_and_status() {
    let tenants = Tenants::start(&[]).await;
    let one = &tenants.one;
    tenants.ask_as(one, &post("/async", JOB)).await;
    tenants.ask_as(one, &post("/nothing", JOB)).await;
    let refused = json!({"records": 1, "report_name": "a", "callback_url": "http://127.1/"});
    tenants.ask_as(one, &post("/async", refused)).await;
    tenants.server.ask(post("/async", JOB)).await;
    let metrics = tenants.ask_as(one, &bare("GET", "/metrics")).await;
    assert!(
        metrics
            .header("content-type")
            .unwrap()
            .starts_with("text/plain; version=0.0.4")
    );
    for line in [
        r#"storm_api_answers_total{endpoint="async",status="202"} 1"#,
        r#"storm_api_answers_total{endpoint="async",status="401"} 1"#,
        r#"storm_api_answers_total{endpoint="async",status="422"} 1"#,
        r#"storm_api_answers_total{endpoint="other",status="404"} 1"#,
        r#"storm_api_refused_callbacks_total{rule="loopback"} 1"#,
        r#"storm_api_refused_total{endpoint="async",reason="unauthorized"} 1"#,
        r#"storm_api_refused_total{endpoint="async",reason="validation"} 1"#,
    ] {
        assert!(metrics.text().contains(line), "{line}: {}", metrics.text());
    }
}

#[tokio::test]
async fn the_metrics_token_grants_access_to_metrics_only() {
    let scraper = token();
    let hash = scraper.hash().to_hex();
    let tenants = Tenants::start(&[("METRICS_TOKEN", &hash)]).await;
    let scrape = bare("GET", "/metrics");
    assert_eq!(tenants.ask_as(&scraper, &scrape).await.status, 200);
    assert_eq!(
        tenants.ask_as(&tenants.one, &scrape).await.problem(),
        "401 unauthorized"
    );
    // With a trailing slash it is another path, which needs a client's token and does not exist.
    let detour = bare("GET", "/metrics/");
    assert_eq!(tenants.ask_as(&tenants.one, &detour).await.status, 404);
    assert_eq!(tenants.ask_as(&scraper, &detour).await.status, 401);
    for request in [post("/async", JOB), bare("GET", "/nothing")] {
        let answer = tenants.ask_as(&scraper, &request).await;
        assert_eq!(answer.problem(), "401 unauthorized");
    }

    let open = Server::start(&[("METRICS_TOKEN", &hash)]).await;
    assert_eq!(open.ask(&scrape).await.problem(), "401 unauthorized");
    assert_eq!(open.ask(bearing(&scraper, &scrape)).await.status, 200);
    assert_eq!(open.ask(post("/async", JOB)).await.status, 202);
}

#[tokio::test]
async fn with_metrics_addr_metrics_are_served_on_that_address_only() {
    let tenants = Tenants::start(&[("METRICS_ADDR", "127.0.0.1:0")]).await;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let app = &tenants.server.app;
    let serving = serve_metrics(
        &app.settings,
        app.metrics.clone(),
        listener,
        tenants.server.shutdown.clone(),
    );
    tokio::spawn(serving);
    let ask = async |request: String| {
        let mut client = Client::connect(addr).await;
        client.send(request).await;
        client.answer().await
    };
    assert_eq!(ask(bare("GET", "/metrics")).await.status, 200);
    assert_eq!(ask(bare("POST", "/metrics")).await.status, 405);
    for request in [post("/async", JOB), bare("GET", "/healthz")] {
        assert_eq!(ask(request).await.problem(), "404 not-found");
    }
    let scrape = bare("GET", "/metrics");
    let elsewhere = tenants.ask_as(&tenants.one, &scrape).await;
    assert_eq!(elsewhere.problem(), "404 not-found");
    assert_eq!(tenants.server.ask(scrape).await.status, 401);
}

#[tokio::test]
async fn authentication_applies_before_the_database_is_open() {
    let folder = TempDir::new().unwrap();
    let lock = Direct::open(folder.path()).await;
    lock.lock_opening().await;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let one = token();
    let tokens = entry("one", &one);
    let settings = settings(&folder, &[("API_TOKENS", &tokens)]);
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(storm_api::run(listener, settings, shutdown.clone()));
    let ask = async |request: String| {
        let mut client = Client::connect(addr).await;
        client.send(request).await;
        client.answer().await.problem()
    };
    let request = post("/async", JOB);
    assert_eq!(ask(request.clone()).await, "401 unauthorized");
    assert_eq!(
        ask(bearing(&one, &request)).await,
        "503 database-unavailable"
    );
    assert_eq!(
        ask(bare("GET", "/healthz")).await,
        "503 database-unavailable"
    );
    shutdown.cancel();
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn requests_during_startup_are_counted_and_rate_limited() {
    let folder = TempDir::new().unwrap();
    let lock = Direct::open(folder.path()).await;
    lock.lock_opening().await;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let one = token();
    let tokens = entry("one", &one);
    let settings = settings(
        &folder,
        &[("API_TOKENS", tokens.as_str()), ("RATE_LIMIT", "2/h")],
    );
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(storm_api::run(listener, settings, shutdown.clone()));
    let ask = async |request: &str| {
        let mut client = Client::connect(addr).await;
        client.send(request).await;
        client.answer().await
    };
    let submit = bearing(&one, &post("/async", JOB));
    assert_eq!(ask(&submit).await.problem(), "503 database-unavailable");
    assert_eq!(ask(&post("/async", JOB)).await.status, 401);

    lock.unlock().await;
    while health(addr).await.json()["database"] != "ok" {}
    assert_eq!(
        ask(&submit).await.status,
        202,
        "the second of two requests an hour"
    );
    assert_eq!(ask(&submit).await.problem(), "429 rate-limited");
    let metrics = ask(&bearing(&one, &bare("GET", "/metrics"))).await;
    for line in [
        r#"storm_api_answers_total{endpoint="async",status="503"} 1"#,
        r#"storm_api_answers_total{endpoint="async",status="401"} 1"#,
        r#"storm_api_refused_total{endpoint="async",reason="unauthorized"} 1"#,
        r#"storm_api_refused_total{endpoint="async",reason="rate-limited"} 1"#,
    ] {
        assert!(metrics.text().contains(line), "{line}: {}", metrics.text());
    }
    shutdown.cancel();
    running.await.unwrap().unwrap();
}
