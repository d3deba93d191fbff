//! `GET /metrics`: the answer to a scrape, the token that it needs, and what both services expose.

mod permits;
mod process;

use hyper::{
    HeaderMap, Response, StatusCode,
    header::{CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE},
};
use prometheus_client::{
    encoding::text,
    metrics::{family::Family, gauge::Gauge},
    registry::Registry,
};

pub use self::permits::PermitMetrics;
use self::process::ProcessMetrics;
use super::access::{TokenHash, bearer};

/// The text format of Prometheus, which every scraper reads.
const PROMETHEUS_TEXT: HeaderValue =
    HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// A registry with the metrics of the process, and `storm_build_info`.
///
/// `service` is `api` or `worker`. Its own metrics belong in a sub-registry with its prefix.
pub fn registry(service: &'static str) -> Registry {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(ProcessMetrics::started_now()));
    let build = Family::<[(&str, &str); 2], Gauge>::default();
    // The projects have one version: `scripts/check-drift.sh`.
    let version = env!("CARGO_PKG_VERSION");
    build
        .get_or_create(&[("service", service), ("version", version)])
        .set(1);
    let help = "Always 1; the labels name the service and its version";
    registry.register("storm_build_info", help, build);
    registry
}

/// The metrics of `registry`, in the text format of Prometheus.
pub fn render(registry: &Registry) -> String {
    let mut openmetrics = String::new();
    #[expect(clippy::expect_used, reason = "writing to a String cannot fail")]
    text::encode(&mut openmetrics, registry).expect("a String accepts every write");
    to_prometheus_text(&openmetrics)
}

/// Translates what `prometheus-client` writes. `OpenMetrics` leaves the suffix `_total` out of the
/// name of a counter's family, and older scrapers would find neither its type nor its help.
fn to_prometheus_text(openmetrics: &str) -> String {
    let mut translated = String::with_capacity(openmetrics.len());
    let mut lines = openmetrics.lines().filter(|line| *line != "# EOF");
    while let Some(line) = lines.next() {
        let family = line.strip_prefix("# HELP ");
        if let Some((name, help)) = family.and_then(|family| family.split_once(' ')) {
            // Its type follows in the next line.
            let kind = lines.next().and_then(|line| line.rsplit(' ').next());
            let kind = kind.unwrap_or_default();
            let suffix = if kind == "counter" { "_total" } else { "" };
            for part in ["# HELP ", name, suffix, " ", help, "\n"] {
                translated += part;
            }
            for part in ["# TYPE ", name, suffix, " ", kind, "\n"] {
                translated += part;
            }
        } else {
            translated += line;
            translated += "\n";
        }
    }
    translated
}

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
    response.headers_mut().insert(CONTENT_TYPE, PROMETHEUS_TEXT);
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

    use prometheus_client::metrics::{counter::Counter, gauge::Gauge, histogram::Histogram};

    use super::{answer, registry, render};
    use crate::services::access::Token;

    #[test]
    fn a_counter_is_exposed_under_one_name_with_its_type_and_help() {
        let mut all = registry("api");
        let own = all.sub_registry_with_prefix("storm_api");
        own.register("answers", "Requests answered", Counter::<u64>::default());
        own.register("jobs", "Jobs that run now", Gauge::<i64>::default());
        own.register("ack_seconds", "Time to a 202", Histogram::new([0.5]));
        let text = render(&all);
        for block in [
            "# HELP storm_api_answers_total Requests answered.\n\
             # TYPE storm_api_answers_total counter\nstorm_api_answers_total 0\n",
            "# TYPE storm_api_jobs gauge\nstorm_api_jobs 0\n",
            "# TYPE storm_api_ack_seconds histogram\nstorm_api_ack_seconds_sum 0.0\n",
            "storm_api_ack_seconds_bucket{le=\"+Inf\"} 0\n",
            "storm_build_info{service=\"api\",version=\"",
        ] {
            assert!(text.contains(block), "{block} is missing in\n{text}");
        }
        assert!(!text.contains("# EOF"), "{text}");
    }

    #[test]
    fn metrics_are_sent_as_text_to_a_request_with_the_right_token_only() {
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
            assert!(kind.starts_with("text/plain; version=0.0.4"), "{kind}");
            assert_eq!(answered.body(), "storm_up 1\n");
        }
    }
}
