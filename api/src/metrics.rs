//! What the API counts, in the text format of Prometheus.

use std::sync::Arc;

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use warp::http::StatusCode;

/// The API's counters; clones share them.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    answers: Family<AnswerLabels, Counter>,
    refused_callbacks: Family<RuleLabel, Counter>,
    unauthorized: Counter,
    rate_limited: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AnswerLabels {
    endpoint: &'static str,
    status: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RuleLabel {
    rule: &'static str,
}

impl Metrics {
    /// Counters at zero.
    #[expect(
        clippy::new_without_default,
        reason = "two are two sets of counters, not equal values"
    )]
    pub fn new() -> Self {
        let mut metrics = Self {
            registry: Arc::default(),
            answers: Family::default(),
            refused_callbacks: Family::default(),
            unauthorized: Counter::default(),
            rate_limited: Counter::default(),
        };
        metrics.registry = Arc::new(metrics.registered());
        metrics
    }

    /// A request was answered. There are few endpoints, and few statuses.
    pub fn answered(&self, endpoint: &'static str, status: StatusCode) {
        let status = status.as_u16().into();
        self.answers
            .get_or_create(&AnswerLabels { endpoint, status })
            .inc();
    }

    /// A callback's URL was refused by the guard's rule of that class.
    pub fn refused_callback(&self, rule: &'static str) {
        self.refused_callbacks
            .get_or_create(&RuleLabel { rule })
            .inc();
    }

    /// A request came without a token that is accepted.
    pub fn unauthorized(&self) {
        self.unauthorized.inc();
    }

    /// A client asked too often.
    pub fn rate_limited(&self) {
        self.rate_limited.inc();
    }

    /// The text for a scrape.
    pub fn render(&self) -> String {
        let mut text = String::new();
        // Writing to a String can't fail.
        encode(&mut text, &self.registry).unwrap_or_else(|_| unreachable!("a String takes it all"));
        text
    }

    fn registered(&self) -> Registry {
        let mut registry = Registry::with_prefix("storm_api");
        registry.register(
            "answers",
            "Requests answered, by endpoint and status",
            self.answers.clone(),
        );
        registry.register(
            "refused_callbacks",
            "Callback URLs refused at submission, by the guard's rule",
            self.refused_callbacks.clone(),
        );
        registry.register(
            "unauthorized",
            "Requests without a token that is accepted",
            self.unauthorized.clone(),
        );
        registry.register(
            "rate_limited",
            "Requests of clients that asked too often",
            self.rate_limited.clone(),
        );
        registry
    }
}

#[cfg(test)]
mod tests {
    use warp::http::StatusCode;

    use super::Metrics;

    #[test]
    fn what_was_counted_is_rendered() {
        let metrics = Metrics::new();
        metrics.answered("async", StatusCode::ACCEPTED);
        metrics.answered("async", StatusCode::ACCEPTED);
        metrics.refused_callback("loopback");
        metrics.unauthorized();
        metrics.rate_limited();
        let text = metrics.render();
        for line in [
            "storm_api_answers_total{endpoint=\"async\",status=\"202\"} 2",
            "storm_api_refused_callbacks_total{rule=\"loopback\"} 1",
            "storm_api_unauthorized_total 1",
            "storm_api_rate_limited_total 1",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }
}
