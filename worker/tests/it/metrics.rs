//! Who may read `/metrics` and `/healthz`.

use storm_shared::services::access::Token;

use crate::stack::Stack;

#[tokio::test]
async fn with_a_metrics_token_metrics_require_it_and_health_does_not() {
    let (token, other) = (Token::generate().unwrap(), Token::generate().unwrap());
    let hash = token.hash().to_hex();
    let stack = Stack::without_redis(&[("METRICS_TOKEN", &hash)]).await;
    let scrape = async |presented: &str| {
        let line = format!("authorization: Bearer {presented}");
        stack.get_with_header("/metrics", &line).await
    };
    for refused in [
        stack.get("/metrics").await,
        scrape(other.as_str()).await,
        scrape(&hash).await,
    ] {
        assert!(refused.starts_with("HTTP/1.1 401 "), "{refused}");
        assert!(refused.contains("www-authenticate: Bearer"), "{refused}");
        assert!(!refused.contains("storm_worker"), "{refused}");
    }
    let metrics = scrape(token.as_str()).await;
    assert!(metrics.contains("storm_worker_jobs 0"), "{metrics}");
    let health = stack.get("/healthz").await;
    assert!(health.starts_with("HTTP/1.1 200 "), "{health}");
    stack.stop().await;
}

#[tokio::test]
async fn the_worker_answers_only_to_hosts_that_no_other_web_page_can_have() {
    let entry = format!("a:{}", Token::generate().unwrap().hash().to_hex());
    let open = Stack::without_redis(&[("API_HOSTS", "worker")]).await;
    let closed = Stack::without_redis(&[("METRICS_TOKEN", &entry)]).await;
    for path in ["/healthz", "/metrics", "/nothing"] {
        let get = |lines: &str| format!("GET {path} HTTP/1.1\r\n{lines}");
        let rebound = get("host: evil.example:9000\r\n");
        let answer = open.ask(&rebound).await;
        assert!(answer.starts_with("HTTP/1.1 421 "), "{answer}");
        assert!(answer.contains("application/problem+json") && answer.contains("API_HOSTS"));
        let answer = closed.ask(&rebound).await;
        assert!(!answer.starts_with("HTTP/1.1 421 "), "{answer}");
        for host in ["worker:9000", "localhost", "127.0.0.1:9000", "[::1]"] {
            let answer = open.ask(&get(&format!("host: {host}\r\n"))).await;
            assert!(
                !answer.starts_with("HTTP/1.1 4") || path == "/nothing",
                "{answer}"
            );
            assert!(!answer.starts_with("HTTP/1.1 421 "), "{answer}");
        }
        for lines in [
            "",
            "host: localhost\r\nhost: localhost\r\n",
            "host: a b\r\n",
        ] {
            let answer = closed.ask(&get(lines)).await;
            assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
            assert!(answer.contains("urn:storm:problem:bad-host"), "{answer}");
        }
    }
    open.stop().await;
    closed.stop().await;
}
