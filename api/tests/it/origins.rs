//! Requests that a web page can make a browser send, and callbacks of our own: what is refused
//! before authentication.

use storm_api::serving::serve_metrics;
use storm_shared::services::{access::Token, marker::CALLBACK_MARKER};
use tokio::net::TcpListener;

use crate::{
    client::{Answer, Client, bare, post},
    redelivery::{HOOK, failed},
    server::Server,
};

const JOB: &str = r#"{"records": 1, "report_name": "a"}"#;

const FOREIGN_ORIGIN: &str = "origin: https://evil.example";

/// Every path, and some that do not exist.
const PATHS: [&str; 8] = [
    "/sync",
    "/async",
    "/requests/x",
    "/requests/x/redeliver",
    "/requests/redeliver?status=FAILED",
    "/healthz",
    "/metrics",
    "/nothing",
];

/// The setting `API_TOKENS`, and the header line of its token.
fn tenant() -> (String, String) {
    let token = Token::generate().unwrap();
    let line = format!("authorization: Bearer {}\r\n", token.as_str());
    (format!("a:{}", token.hash().to_hex()), line)
}

/// Replaces the request's `Host` line by `lines`.
fn with_host(request: &str, lines: &str) -> String {
    request.replacen("host: localhost\r\n", lines, 1)
}

/// Adds a header line to the request.
fn with(request: &str, line: &str) -> String {
    request.replacen("\r\n", &format!("\r\n{line}\r\n"), 1)
}

/// Every request that would change something in a store that has the failed request `id`.
fn changes(id: &str) -> [String; 4] {
    [
        post("/async", JOB),
        post("/sync", JOB),
        bare("POST", &format!("/requests/{id}/redeliver")),
        bare("POST", "/requests/redeliver?status=FAILED"),
    ]
}

/// The numbers of requests and of redeliveries.
async fn rows(server: &Server) -> (usize, usize) {
    let database = server.database().await;
    (
        database.count("requests").await,
        database.count("redeliveries").await,
    )
}

/// Asserts that `lines` make the answer to each change a problem, and that nothing changes.
async fn assert_refused(server: &Server, lines: &str, problem: &str) {
    let id = failed(&server.app.store, HOOK).await.to_string();
    let before = rows(server).await;
    for request in changes(&id) {
        let answer = server.ask(with(&request, lines)).await;
        assert_eq!(answer.problem(), problem, "{lines} {request}");
    }
    assert_eq!(rows(server).await, before, "{lines}");
}

#[tokio::test]
async fn a_request_without_exactly_one_valid_host_is_400_on_every_path() {
    let (tokens, token) = tenant();
    for overrides in [&[][..], &[("API_TOKENS", tokens.as_str())]] {
        let server = Server::start(overrides).await;
        for path in PATHS {
            for lines in [
                "",
                "host: localhost\r\nhost: localhost\r\n",
                "host: localhost\r\nHOST: evil.example\r\n",
                "host:\r\n",
                "host: local host\r\n",
                "host: localhost/\r\n",
                "host: http://localhost\r\n",
                "host: localhost:port\r\n",
                "host: a@localhost\r\n",
                "host: loc\u{e4}lhost\r\n",
                "host: ::1\r\n",
            ] {
                for request in [bare("GET", path), post(path, JOB)] {
                    let request = with_host(&request, &format!("{token}{lines}"));
                    let answer = server.ask(&request).await;
                    assert_eq!(answer.problem(), "400 bad-host", "{request}");
                }
            }
        }
    }
}

#[tokio::test]
async fn http_1_0_needs_no_host() {
    let server = Server::start(&[("REDIS_URL", "none")]).await;
    let mut client = server.connect().await;
    client.send("GET /healthz HTTP/1.0\r\n\r\n").await;
    assert!(client.line().await.starts_with("HTTP/1.0 200 "));
    let mut client = server.connect().await;
    client
        .send("GET /healthz HTTP/1.0\r\nhost: evil.example\r\n\r\n")
        .await;
    assert!(client.line().await.starts_with("HTTP/1.0 421 "));
}

#[tokio::test]
async fn without_tokens_only_hosts_that_no_other_web_page_can_have_are_served() {
    let server = Server::start(&[("API_HOSTS", "api, storm.example")]).await;
    for path in PATHS {
        for host in [
            "evil.example",
            "evil.example:8000",
            "localhost.evil.example",
        ] {
            for request in [bare("GET", path), post(path, JOB)] {
                let line = format!("host: {host}\r\n");
                let answer = server.ask(with_host(&request, &line)).await;
                assert_eq!(answer.problem(), "421 misdirected", "{path} {host}");
                assert!(answer.text().contains("API_HOSTS"));
            }
        }
    }
    // The page's own origin is then that of the request, so only the host gives it away.
    let rebound = with_host(
        &with(&post("/async", JOB), "origin: http://evil.example"),
        "host: evil.example\r\n",
    );
    assert_eq!(server.ask(rebound).await.problem(), "421 misdirected");
    assert_eq!(rows(&server).await, (0, 0));
    for host in [
        "localhost",
        "LOCALHOST:8000",
        "localhost.:80",
        "api.localhost:1",
        "127.0.0.1:8000",
        "127.1",
        "192.168.1.5",
        "[::1]:8000",
        "API:8000",
        "storm.example.",
    ] {
        let request = with_host(&bare("GET", "/nothing"), &format!("host: {host}\r\n"));
        assert_eq!(server.ask(request).await.status, 404, "{host}");
    }
    let absolute = bare("GET", "http://storm.example/nothing");
    let absolute = with_host(&absolute, "host: evil.example\r\n");
    assert_eq!(server.ask(absolute).await.status, 404);
    let absolute = bare("GET", "http://evil.example/nothing");
    assert_eq!(server.ask(absolute).await.problem(), "421 misdirected");
}

#[tokio::test]
async fn where_a_token_is_required_every_host_is_served() {
    let (tokens, token) = tenant();
    let server = Server::start(&[("API_TOKENS", &tokens)]).await;
    let lines = format!("host: storm.example\r\n{token}");
    let request = with_host(&post("/async", JOB), &lines);
    assert_eq!(server.ask(request).await.status, 202);
    let health = with_host(&bare("GET", "/healthz"), "host: storm.example\r\n");
    assert_ne!(server.ask(health).await.status, 421);

    let scraper = [("METRICS_TOKEN", tokens.as_str())];
    let open = Server::start(&scraper).await;
    let scrape = with_host(&bare("GET", "/metrics"), &lines);
    assert_eq!(open.ask(scrape).await.status, 200);
    let health = with_host(&bare("GET", "/healthz"), &lines);
    assert_eq!(open.ask(health).await.problem(), "421 misdirected");
}

#[tokio::test]
async fn the_listener_of_metrics_addr_checks_the_host_unless_it_requires_a_token() {
    let (entry, token) = tenant();
    for (metrics_token, status) in [("", 421), (entry.as_str(), 200)] {
        let server = Server::start(&[
            ("METRICS_ADDR", "127.0.0.1:0"),
            ("METRICS_TOKEN", metrics_token),
        ])
        .await;
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let app = &server.app;
        let (settings, metrics) = (&app.settings, app.metrics.clone());
        let serving = serve_metrics(settings, metrics, listener, server.shutdown.clone());
        tokio::spawn(serving);
        let ask = async |lines: &str| {
            let request = with_host(&bare("GET", "/metrics"), &format!("{lines}{token}"));
            let mut client = Client::connect(addr).await;
            client.send(request).await;
            client.answer().await
        };
        assert_eq!(ask("host: localhost\r\n").await.status, 200);
        assert_eq!(ask("host: evil.example\r\n").await.status, status);
        assert_eq!(ask("").await.problem(), "400 bad-host");
    }
}

#[tokio::test]
async fn a_request_of_another_origins_page_is_403_and_changes_nothing() {
    let server = Server::start(&[]).await;
    for lines in [
        FOREIGN_ORIGIN,
        "origin: https://evil.example\r\ncontent-type: text/plain",
        "origin: null",
        "origin: http://localhost:3000",
        "origin: http://localhost\r\norigin: https://evil.example",
        "sec-fetch-site: cross-site",
        "sec-fetch-site: same-site",
        "origin: http://localhost\r\nsec-fetch-site: cross-site",
    ] {
        assert_refused(&server, lines, "403 cross-origin").await;
    }
    let own = "origin: http://localhost\r\nsec-fetch-site: same-origin";
    let id = failed(&server.app.store, HOOK).await.to_string();
    for request in changes(&id) {
        let status = server.ask(with(&request, own)).await.status;
        assert!(status < 300, "{status} {request}");
    }
}

#[tokio::test]
async fn a_token_does_not_excuse_another_origin() {
    let (tokens, token) = tenant();
    let server = Server::start(&[("API_TOKENS", &tokens)]).await;
    let lines = format!("{token}{FOREIGN_ORIGIN}");
    assert_refused(&server, &lines, "403 cross-origin").await;
    let request = with(&post("/async", JOB), token.trim_end());
    assert_eq!(server.ask(request).await.status, 202);
}

#[tokio::test]
async fn a_refusal_is_403_on_every_path_before_the_body_is_read_and_keeps_the_connection() {
    let server = Server::start(&[]).await;
    for path in PATHS {
        let request = with(&post(path, JOB), FOREIGN_ORIGIN);
        let (head, body) = request.split_at(request.len() - JOB.len());
        let mut client = server.connect().await;
        client.send(head).await;
        assert_eq!(client.answer().await.problem(), "403 cross-origin");
        client.send(body).await;
        client.send(bare("GET", "/nothing")).await;
        assert_eq!(client.answer().await.status, 404, "{path}");
    }
}

#[tokio::test]
async fn a_refusal_is_counted_and_takes_nothing_from_the_rate_limit() {
    let server = Server::start(&[("RATE_LIMIT", "1/h")]).await;
    for _ in 0..3 {
        let foreign = with(&post("/async", JOB), FOREIGN_ORIGIN);
        assert_eq!(server.ask(foreign).await.status, 403);
        let rebound = with_host(&bare("GET", "/requests/x"), "host: evil.example\r\n");
        assert_eq!(server.ask(rebound).await.status, 421);
        let without = with_host(&post("/sync", JOB), "");
        assert_eq!(server.ask(without).await.status, 400);
    }
    assert_eq!(server.ask(post("/async", JOB)).await.status, 202);
    let metrics = server.ask(bare("GET", "/metrics")).await;
    for line in [
        r#"storm_api_answers_total{endpoint="async",status="403"} 3"#,
        r#"storm_api_answers_total{endpoint="requests",status="421"} 3"#,
        r#"storm_api_answers_total{endpoint="sync",status="400"} 3"#,
    ] {
        assert!(metrics.text().contains(line), "{line}: {}", metrics.text());
    }
}

#[tokio::test]
async fn a_preflight_allows_nothing() {
    let server = Server::start(&[]).await;
    let lines = format!(
        "{FOREIGN_ORIGIN}\r\naccess-control-request-method: POST\r\n\
         access-control-request-headers: content-type"
    );
    for path in PATHS {
        let answer = server.ask(with(&bare("OPTIONS", path), &lines)).await;
        assert!(matches!(answer.status, 404 | 405), "{path}");
        assert!(!allows_another_origin(&answer), "{answer:?}");
        let read = server.ask(with(&bare("GET", path), FOREIGN_ORIGIN)).await;
        assert!(!allows_another_origin(&read), "{read:?}");
    }
}

/// Whether the answer has a field of CORS, all of which begin with `access-control-`.
fn allows_another_origin(answer: &Answer) -> bool {
    format!("{answer:?}").contains("access-control")
}

#[tokio::test]
async fn a_callback_that_leads_to_the_api_itself_changes_nothing() {
    for value in ["1", "0", ""] {
        let server = Server::start(&[]).await;
        let marker = format!("{CALLBACK_MARKER}: {value}");
        assert_refused(&server, &marker, "403 callback-loop").await;
        let read = with(&bare("GET", "/healthz"), &marker);
        assert_ne!(server.ask(read).await.status, 403);
    }
    let (tokens, token) = tenant();
    let server = Server::start(&[("API_TOKENS", &tokens)]).await;
    let lines = format!("{token}{CALLBACK_MARKER}: 1");
    assert_refused(&server, &lines, "403 callback-loop").await;
}

#[tokio::test]
async fn a_redelivery_takes_no_body() {
    let server = Server::start(&[]).await;
    let id = failed(&server.app.store, HOOK).await.to_string();
    let before = rows(&server).await;
    let chunked = "transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n";
    for path in [
        format!("/requests/{id}/redeliver"),
        "/requests/redeliver?status=FAILED".to_owned(),
    ] {
        for (lines, problem) in [
            ("content-type: text/plain", "415 unsupported-media-type"),
            ("accept: */*", "415 unsupported-media-type"),
            ("content-type: application/json", "400 unexpected-body"),
        ] {
            let sized = format!("{lines}\r\ncontent-length: 2\r\n\r\n{{}}");
            for body in [sized, format!("{lines}\r\n{chunked}")] {
                let request = format!("POST {path} HTTP/1.1\r\nhost: localhost\r\n{body}");
                let answer = server.ask(&request).await;
                assert_eq!(answer.problem(), problem, "{request}");
                assert!(answer.text().contains("query"), "{}", answer.text());
            }
        }
    }
    assert_eq!(rows(&server).await, before);
    for lines in [
        "content-type: text/plain\r\ncontent-length: 0\r\n\r\n",
        "transfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    ] {
        let path = "/requests/redeliver?status=FAILED";
        let request = format!("POST {path} HTTP/1.1\r\nhost: localhost\r\n{lines}");
        assert_eq!(server.ask(request).await.status, 202, "{lines}");
    }
    assert_eq!(rows(&server).await, (1, 1));
}

#[tokio::test]
async fn an_offered_upgrade_is_ignored() {
    let server = Server::start(&[]).await;
    for upgrade in ["h2c", "websocket"] {
        let lines = format!("connection: upgrade\r\nupgrade: {upgrade}");
        let mut client = server.connect().await;
        client.send(with(&bare("GET", "/nothing"), &lines)).await;
        assert_eq!(client.answer().await.problem(), "404 not-found");
    }
    let tunnel = "CONNECT localhost:80 HTTP/1.1\r\nhost: localhost:80\r\n\r\n";
    assert_eq!(server.ask(tunnel).await.problem(), "404 not-found");
}

#[tokio::test]
async fn what_the_parser_refuses_is_answered_without_a_body_and_closes_the_connection() {
    let server = Server::start(&[]).await;
    let with = |line: &str| format!("GET / HTTP/1.1\r\nhost: localhost\r\n{line}\r\n\r\n");
    for (request, status) in [
        ("GET /\r\n\r\n".to_owned(), 400),
        ("GET  / HTTP/1.1\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/2.0\r\n\r\n".to_owned(), 400),
        ("G@T / HTTP/1.1\r\n\r\n".to_owned(), 400),
        ("GET /\u{1} HTTP/1.1\r\n\r\n".to_owned(), 400),
        (with("no colon"), 400),
        (with("space : 1"), 400),
        (with(" folded"), 400),
        (with("content-length: x"), 400),
        (with("content-length: 1\r\ncontent-length: 2"), 400),
        (with("content-length: 18446744073709551614"), 431),
        (with("content-length: 18446744073709551615"), 431),
        (with("content-length: 18446744073709551616"), 400),
        (with("transfer-encoding: gzip"), 400),
        (with(&"a: b\r\n".repeat(100)), 431),
        (with(&format!("a: {}", "b".repeat(16 << 10))), 431),
        (format!("GET /{} HTTP/1.1\r\n", "a".repeat(16 << 10)), 431),
    ] {
        let mut client = server.connect().await;
        client.send(&request).await;
        let answer = client.head().await;
        assert_eq!(answer.status, status, "{request}");
        assert_eq!(answer.header("content-length"), Some("0"), "{request}");
        assert_eq!(answer.header("connection"), Some("close"), "{answer:?}");
        assert!(client.is_closed().await);
    }
    // HTTP/2 without negotiation: no answer.
    let mut client = server.connect().await;
    client.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    assert!(client.is_closed().await);
}
