//! The API's metrics, in the `OpenMetrics` text format.

use std::sync::{Arc, atomic::AtomicU64};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use storm_shared::{
    memory::{MemoryBudget, MemoryMetrics},
    services::{
        queue::{QueueMetrics, QueueStatus},
        store::Pauses,
    },
};
use warp::http::StatusCode;

/// The API's counters. Clones share them.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    answers: Family<AnswerLabels, Counter>,
    refused_callbacks: Family<RuleLabel, Counter>,
    unauthorized: Counter,
    rate_limited: Counter,
    backlog_jobs: Gauge,
    drain_rate: Gauge<f64, AtomicU64>,
    paused: Gauge,
    paused_origins: Gauge,
    queue: QueueMetrics,
    memory: MemoryMetrics,
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
        reason = "each call makes a separate set of counters"
    )]
    pub fn new() -> Self {
        let mut metrics = Self {
            registry: Arc::default(),
            answers: Family::default(),
            refused_callbacks: Family::default(),
            unauthorized: Counter::default(),
            rate_limited: Counter::default(),
            backlog_jobs: Gauge::default(),
            drain_rate: Gauge::default(),
            paused: Gauge::default(),
            paused_origins: Gauge::default(),
            queue: QueueMetrics::default(),
            memory: MemoryMetrics::default(),
        };
        // Last: the registry takes clones of the counters above.
        metrics.registry = Arc::new(metrics.registered());
        metrics
    }

    /// Counts an answered request. `endpoint` must come from a fixed set: each new label value is a
    /// new time series.
    pub fn answered(&self, endpoint: &'static str, status: StatusCode) {
        let status = status.as_u16().into();
        self.answers
            .get_or_create(&AnswerLabels { endpoint, status })
            .inc();
    }

    /// Counts a callback URL that this rule of the SSRF policy refused.
    pub fn refused_callback(&self, rule: &'static str) {
        self.refused_callbacks
            .get_or_create(&RuleLabel { rule })
            .inc();
    }

    /// Counts a request without a valid token.
    pub fn unauthorized(&self) {
        self.unauthorized.inc();
    }

    /// Counts a request over its client's rate limit.
    pub fn rate_limited(&self) {
        self.rate_limited.inc();
    }

    /// Reports how many jobs are unfinished, and how many the workers end in a second.
    pub fn counted_backlog(&self, jobs: usize, drain_rate: f64) {
        self.backlog_jobs
            .set(i64::try_from(jobs).unwrap_or(i64::MAX));
        self.drain_rate.set(drain_rate);
    }

    /// This is paused now.
    pub fn paused(&self, pauses: &Pauses) {
        self.paused.set(pauses.everything.into());
        let origins = i64::try_from(pauses.origins.len()).unwrap_or(i64::MAX);
        self.paused_origins.set(origins);
    }

    /// Reports on Redis from now on.
    pub fn watch_queue(&self, status: &Arc<QueueStatus>) {
        self.queue.watch(status);
    }

    /// Reports on the memory budget from now on.
    pub fn watch_memory(&self, budget: &MemoryBudget) {
        self.memory.watch(budget);
    }

    /// The text of a scrape.
    pub fn render(&self) -> String {
        let mut text = String::new();
        #[expect(clippy::expect_used, reason = "writing to a String cannot fail")]
        encode(&mut text, &self.registry).expect("a String accepts every write");
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
            "Callback URLs refused at submission, by rule of the SSRF policy",
            self.refused_callbacks.clone(),
        );
        registry.register(
            "unauthorized",
            "Requests without a valid token for their path",
            self.unauthorized.clone(),
        );
        registry.register(
            "rate_limited",
            "Requests over their client's rate limit",
            self.rate_limited.clone(),
        );
        registry.register(
            "backlog_jobs",
            "Unfinished async jobs of all clients, as of the last count; at most twice MAX_BACKLOG",
            self.backlog_jobs.clone(),
        );
        registry.register(
            "drain_rate",
            "Jobs that all workers together end in a second, while they have work",
            self.drain_rate.clone(),
        );
        registry.register(
            "paused",
            "1 while an operator has paused everything",
            self.paused.clone(),
        );
        registry.register(
            "paused_origins",
            "Origins whose callbacks an operator has paused",
            self.paused_origins.clone(),
        );
        registry.register_collector(Box::new(self.queue.clone()));
        registry.register_collector(Box::new(self.memory.clone()));
        registry
    }
}

#[cfg(test)]
mod tests {
    use storm_shared::memory::MemoryBudget;
    use warp::http::StatusCode;

    use super::Metrics;

    #[test]
    fn a_scrape_contains_every_counter_with_its_labels() {
        let metrics = Metrics::new();
        metrics.answered("async", StatusCode::ACCEPTED);
        metrics.answered("async", StatusCode::ACCEPTED);
        metrics.refused_callback("loopback");
        metrics.unauthorized();
        metrics.rate_limited();
        let budget = MemoryBudget::new(1000);
        metrics.watch_memory(&budget);
        let _held = budget.reserve_up_to(10);
        metrics.counted_backlog(7, 2.5);
        let text = metrics.render();
        for line in [
            "storm_api_answers_total{endpoint=\"async\",status=\"202\"} 2",
            "storm_api_refused_callbacks_total{rule=\"loopback\"} 1",
            "storm_api_unauthorized_total 1",
            "storm_api_rate_limited_total 1",
            "storm_api_memory_budget_bytes 1000",
            "storm_api_memory_reserved_bytes 10",
            "storm_api_backlog_jobs 7",
            "storm_api_drain_rate 2.5",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }
}
