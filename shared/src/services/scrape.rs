//! `GET /metrics`: the answer to a scrape, and the token that it needs.

use hyper::{
    HeaderMap, Response, StatusCode,
    header::{CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE},
};

use super::access::{TokenHash, bearer};

/// The text format that `prometheus-client` writes, as its specification names it.
const OPENMETRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");

/// Answers a scrape with the metrics; with `401` if there is a `token` and `headers` lack it.
pub fn answer(
    headers: &HeaderMap,
    token: Option<&TokenHash>,
    render: impl FnOnce() -> String,
) -> Response<String> {
    // Rendered only after the check: a scrape without the token costs next to nothing.
    if token.is_none_or(|token| is_authenticated(token, headers)) {
        metrics(render())
    } else {
        unauthorized()
    }
}

/// Whether the request carries the token of `METRICS_TOKEN`, whose hash is `token`.
pub fn is_authenticated(token: &TokenHash, headers: &HeaderMap) -> bool {
    bearer(headers).is_some_and(|presented| token.is_of(presented))
}

/// `200` with the metrics in `text`.
pub fn metrics(text: String) -> Response<String> {
    let mut response = Response::new(text);
    response.headers_mut().insert(CONTENT_TYPE, OPENMETRICS);
    response
}

fn unauthorized() -> Response<String> {
    let detail = "send METRICS_TOKEN's token as `authorization: Bearer <token>`\n";
    let mut response = Response::new(detail.to_owned());
    *response.status_mut() = StatusCode::UNAUTHORIZED;
    let headers = response.headers_mut();
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    headers.insert(CONTENT_TYPE, plain);
    headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

#[cfg(test)]
mod tests {
    use hyper::{HeaderMap, header};

    use super::answer;
    use crate::services::access::Token;

    #[test]
    fn metrics_are_sent_as_openmetrics_to_a_request_with_the_right_token_only() {
        let (right, wrong) = (Token::generate().unwrap(), Token::generate().unwrap());
        let metrics = || "storm_up 1\n".to_owned();
        let scrape = |presented: Option<&Token>| {
            let bearer = |token: &Token| format!("Bearer {}", token.as_str()).parse().unwrap();
            let headers = presented.map(|token| (header::AUTHORIZATION, bearer(token)));
            answer(&headers.into_iter().collect(), Some(&right.hash()), metrics)
        };
        for refused in [scrape(None), scrape(Some(&wrong))] {
            assert_eq!(refused.status(), 401);
            assert_eq!(refused.headers()[header::WWW_AUTHENTICATE], "Bearer");
            assert!(!refused.body().contains("storm_up"));
        }
        for answered in [
            scrape(Some(&right)),
            answer(&HeaderMap::new(), None, metrics),
        ] {
            assert_eq!(answered.status(), 200);
            let kind = answered.headers()[header::CONTENT_TYPE].to_str().unwrap();
            assert!(kind.starts_with("application/openmetrics-text;"), "{kind}");
            assert_eq!(answered.body(), "storm_up 1\n");
        }
    }
}
