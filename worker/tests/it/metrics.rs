//! Authentication of `/metrics`.

use storm_shared::services::access::Token;

use crate::stack::Stack;

#[tokio::test]
async fn with_a_metrics_token_metrics_require_it_and_health_does_not() {
    let (token, other) = (Token::generate().unwrap(), Token::generate().unwrap());
    let hash = token.hash().to_hex();
    let stack = Stack::without_redis(&[("METRICS_TOKEN", &hash)]).await;
    let scrape = async |presented: &str| {
        let line = format!("authorization: Bearer {presented}");
        stack.get_with("/metrics", &line).await
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
