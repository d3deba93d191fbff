//! Authentication of the metrics.

use storm_shared::services::access::Token;

use crate::stack::Stack;

#[tokio::test]
async fn metrics_need_their_token_where_there_is_one_and_health_needs_none() {
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
