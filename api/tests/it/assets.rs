//! The files of the pages in a browser.

use storm_shared::services::access::Token;

use crate::{
    auth::Tenants,
    client::{Answer, Client, bare, post},
    server::Server,
};

const PAGE: &str = "/";
const FILES: [&str; 6] = [
    "/ui/page.css",
    "/ui/page.mjs",
    "/ui/uplot.js",
    "/docs",
    "/docs/page.mjs",
    "/openapi.json",
];

fn asking(method: &str, path: &str, field: &str) -> String {
    bare(method, path).replacen("\r\n", &format!("\r\n{field}\r\n"), 1)
}

/// The fields that protect a page, whatever is asked.
fn assert_protected(answer: &Answer) {
    let policy = answer.header("content-security-policy").unwrap();
    for rule in [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "frame-ancestors 'none'",
        "form-action 'none'",
        "base-uri 'none'",
    ] {
        assert!(policy.contains(rule), "{policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(answer.header("referrer-policy"), Some("no-referrer"));
    assert_eq!(answer.header("cache-control"), Some("no-cache"));
    assert_eq!(answer.header("vary"), Some("accept-encoding"));
}

#[tokio::test]
async fn a_page_and_its_files_are_served_under_a_strict_policy() {
    let server = Server::start(&[]).await;
    let page = server.ask(bare("GET", PAGE)).await;
    assert_eq!(page.status, 200);
    assert_eq!(
        page.header("content-type"),
        Some("text/html; charset=utf-8")
    );
    assert!(page.text().starts_with("<!doctype html>"));
    assert_eq!(page.header("content-encoding"), None);
    assert_protected(&page);
    for path in FILES {
        assert_protected(&server.ask(bare("GET", path)).await);
    }
    for path in ["/ui", "/ui/", "/ui/page", "/ui/../ui/page.css", "//"] {
        let answer = server.ask(bare("GET", path)).await;
        assert_eq!(answer.problem(), "404 not-found", "{path}");
    }
}

#[tokio::test]
async fn a_file_that_the_client_has_is_304_in_each_coding() {
    let server = Server::start(&[]).await;
    let plain = server.ask(bare("GET", "/ui/uplot.js")).await;
    let plain = plain.header("etag").unwrap();
    let mut client = server.connect().await;
    client
        .send(asking("HEAD", "/ui/uplot.js", "accept-encoding: br, gzip"))
        .await;
    let gzip = client.head().await;
    assert_eq!(gzip.header("content-encoding"), Some("gzip"));
    let length: usize = gzip.header("content-length").unwrap().parse().unwrap();
    assert!((1000..40_000).contains(&length), "{length}");
    let gzip = gzip.header("etag").unwrap();
    assert_ne!(gzip, plain);
    for (known, accepted, status) in [
        (plain, "identity", 304),
        (gzip, "gzip", 304),
        (plain, "gzip", 200),
        (gzip, "identity", 200),
    ] {
        let field = format!("if-none-match: {known}\r\naccept-encoding: {accepted}");
        let mut client = server.connect().await;
        client.send(asking("HEAD", "/ui/uplot.js", &field)).await;
        let answer = client.head().await;
        assert_eq!(answer.status, status, "{field}");
        assert_protected(&answer);
    }
}

#[tokio::test]
async fn head_has_no_body_and_other_methods_are_405() {
    let server = Server::start(&[]).await;
    let mut client = server.connect().await;
    for path in [PAGE, "/ui/page.css"] {
        client.send(bare("HEAD", path)).await;
        let head = client.head().await;
        assert_eq!(head.status, 200);
        // On the same connection: a body would be read as the head of the next answer.
        client.send(bare("GET", path)).await;
        let whole = client.answer().await;
        assert_eq!(
            head.header("content-length"),
            whole.header("content-length")
        );
        for other in [bare("DELETE", path), post(path, "{}")] {
            let refused = server.ask(other).await;
            assert_eq!(refused.problem(), "405 method-not-allowed");
            assert_eq!(refused.header("allow"), Some("GET, HEAD"));
        }
    }
}

#[tokio::test]
async fn files_of_pages_need_no_token_and_cost_no_rate_limit() {
    let tenants = Tenants::start(&[("RATE_LIMIT", "1/h")]).await;
    for path in [PAGE].into_iter().chain(FILES) {
        let answer = tenants.server.ask(bare("GET", path)).await;
        assert_eq!(answer.status, 200, "{path}");
        assert_eq!(answer.header("ratelimit"), None);
        let with_token = tenants.ask_as(&tenants.one, &bare("GET", path)).await;
        assert_eq!(with_token.status, 200, "{path}");
    }
    let allowed = tenants
        .ask_as(&tenants.one, &bare("GET", "/requests"))
        .await;
    assert_eq!(allowed.status, 200);
    // Their neighbours need one.
    let unknown = Token::generate().unwrap();
    for path in ["/ui", "/ui/", "/ui/page.css/", "//"] {
        let answer = tenants.ask_as(&unknown, &bare("GET", path)).await;
        assert_eq!(answer.problem(), "401 unauthorized", "{path}");
    }
}

#[tokio::test]
async fn the_host_of_a_page_is_checked_without_tokens() {
    let server = Server::start(&[]).await;
    let foreign = bare("GET", PAGE).replace("host: localhost", "host: evil.example");
    let mut client = Client::connect(server.addr).await;
    client.send(foreign).await;
    assert_eq!(client.answer().await.problem(), "421 misdirected");
}
