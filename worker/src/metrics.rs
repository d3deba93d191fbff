//! The worker's metrics, in the text format of Prometheus.

use std::sync::Arc;

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use storm_shared::{
    memory::{MemoryBudget, MemoryMetrics},
    models::{AttemptClass, FailureReason},
    services::{
        queue::{QueueMetrics, QueueStatus},
        ssrf::Rule,
        store::{Expired, Outcome, Pauses},
    },
};

use crate::delivery::Shortage;

/// How a claimed job was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClaimSource {
    /// By a notification.
    Notification,
    /// By a search of the table.
    Table,
}

/// Why a job was parked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParkReason {
    /// The circuit breaker of its destination is open.
    OriginDown,
    /// Its destination, or its tenant, holds as many slots as it may.
    OriginBusy,
    /// An operator has paused its origin.
    Paused,
    /// This worker lacked what its attempt needs.
    Shortage(Shortage),
}

/// The worker's metrics. Clones share them.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    claimed: Family<SourceLabel, Counter>,
    ended: Family<OutcomeLabel, Counter>,
    attempts: Family<AttemptLabel, Counter>,
    parked: Family<ReasonLabel, Counter>,
    open_breakers: Gauge,
    paused: Gauge,
    paused_origins: Gauge,
    refusals: Family<RuleLabel, Counter>,
    lost_claims: Counter,
    jobs: Gauge,
    expired: Counter,
    returned: Counter,
    queue: QueueMetrics,
    memory: MemoryMetrics,
    long_work: Counter,
    deleted: Counter,
}

// All label values are `&'static str`: only the code can name one, so the number of time series is
// bounded.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SourceLabel {
    source: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    why: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AttemptLabel {
    class: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RuleLabel {
    rule: &'static str,
}

/// Keeps a gauge one higher until it is dropped.
pub struct GaugeGuard(Gauge);

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Metrics {
    /// Metrics at zero.
    #[expect(
        clippy::new_without_default,
        reason = "each call makes a separate set of metrics"
    )]
    pub fn new() -> Self {
        let mut metrics = Self {
            registry: Arc::default(),
            claimed: Family::default(),
            ended: Family::default(),
            attempts: Family::default(),
            parked: Family::default(),
            open_breakers: Gauge::default(),
            paused: Gauge::default(),
            paused_origins: Gauge::default(),
            refusals: Family::default(),
            lost_claims: Counter::default(),
            jobs: Gauge::default(),
            expired: Counter::default(),
            returned: Counter::default(),
            queue: QueueMetrics::default(),
            memory: MemoryMetrics::default(),
            long_work: Counter::default(),
            deleted: Counter::default(),
        };
        // Last: the registry takes clones of the metrics above.
        metrics.registry = Arc::new(metrics.registered());
        metrics
    }

    /// Jobs were claimed.
    pub fn claimed(&self, source: ClaimSource, jobs: usize) {
        let source = match source {
            ClaimSource::Notification => "notification",
            ClaimSource::Table => "table",
        };
        self.claimed
            .get_or_create(&SourceLabel { source })
            .inc_by(jobs as u64);
    }

    /// A job runs until the guard is dropped.
    pub fn job_started(&self) -> GaugeGuard {
        self.jobs.inc();
        GaugeGuard(self.jobs.clone())
    }

    /// The lease of another worker has expired, and its jobs were reclaimed.
    pub fn expired(&self, expired: &Expired) {
        self.expired.inc();
        self.returned.inc_by(expired.reclaimed as u64);
        // Failed by the write that expired the lease, so no worker settles these jobs.
        self.ended_as(FailureReason::Poison.as_str(), expired.poisoned);
    }

    /// Requests were deleted after their retention time.
    pub fn deleted(&self, requests: usize) {
        self.deleted.inc_by(requests as u64);
    }

    /// A callback attempt ended.
    pub fn attempted(&self, class: AttemptClass) {
        let class = class.as_str();
        self.attempts.get_or_create(&AttemptLabel { class }).inc();
    }

    /// A job was parked.
    pub fn parked(&self, why: ParkReason) {
        let why = match why {
            ParkReason::OriginDown => "origin_down",
            ParkReason::OriginBusy => "origin_busy",
            ParkReason::Paused => "paused",
            ParkReason::Shortage(shortage) => shortage.name(),
        };
        self.parked.get_or_create(&ReasonLabel { why }).inc();
    }

    /// A circuit breaker has opened.
    pub fn breaker_opened(&self) {
        self.open_breakers.inc();
    }

    /// A circuit breaker has closed, or was forgotten.
    pub fn breaker_closed(&self) {
        self.open_breakers.dec();
    }

    /// This is paused now.
    pub fn paused(&self, pauses: &Pauses) {
        self.paused.set(pauses.everything.into());
        let origins = i64::try_from(pauses.origins.len()).unwrap_or(i64::MAX);
        self.paused_origins.set(origins);
    }

    /// The SSRF policy refused a callback by this rule.
    pub fn refused(&self, rule: Rule) {
        let rule = rule.name();
        self.refusals.get_or_create(&RuleLabel { rule }).inc();
    }

    /// A job ended.
    pub fn ended(&self, outcome: &Outcome) {
        self.ended_as(outcome.as_str(), 1);
    }

    fn ended_as(&self, outcome: &'static str, jobs: usize) {
        self.ended
            .get_or_create(&OutcomeLabel { outcome })
            .inc_by(jobs as u64);
    }

    /// Work begins that takes longer than the drain.
    pub fn work_longer_than_drain(&self) {
        self.long_work.inc();
    }

    /// A claim was lost to another worker.
    pub fn lost_claim(&self) {
        self.lost_claims.inc();
    }

    /// Reports on Redis from now on.
    pub fn watch_queue(&self, status: &Arc<QueueStatus>) {
        self.queue.watch(status);
    }

    /// Reports on the memory budget from now on.
    pub fn watch_memory(&self, budget: &MemoryBudget) {
        self.memory.watch(budget);
    }

    /// The text that a scrape returns.
    pub fn render(&self) -> String {
        let mut text = String::new();
        #[expect(clippy::expect_used, reason = "writing to a String cannot fail")]
        encode(&mut text, &self.registry).expect("a String accepts every write");
        text
    }

    fn registered(&self) -> Registry {
        let mut registry = Registry::with_prefix("storm_worker");
        registry.register(
            "claimed_jobs",
            "Jobs claimed, by how they were found",
            self.claimed.clone(),
        );
        registry.register("ended_jobs", "Jobs ended, by outcome", self.ended.clone());
        registry.register(
            "callback_attempts",
            "Callback attempts, by class",
            self.attempts.clone(),
        );
        registry.register(
            "parked_jobs",
            "Jobs parked because of their receiver, a pause or a shortage of this worker, by reason",
            self.parked.clone(),
        );
        registry.register(
            "open_breakers",
            "Tenants' origins whose circuit breaker is open or half-open",
            self.open_breakers.clone(),
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
        registry.register(
            "callback_refusals",
            "Callbacks that the SSRF policy refused, by rule",
            self.refusals.clone(),
        );
        registry.register(
            "lost_claims",
            "Claims lost to another worker",
            self.lost_claims.clone(),
        );
        registry.register(
            "expired_workers",
            "Leases of other workers that this one has expired",
            self.expired.clone(),
        );
        registry.register(
            "returned_jobs",
            "Jobs reclaimed from expired workers",
            self.returned.clone(),
        );
        registry.register(
            "long_work",
            "Claims of jobs whose work takes longer than DRAIN_TIMEOUT",
            self.long_work.clone(),
        );
        registry.register(
            "deleted_requests",
            "Finished requests deleted after RETENTION",
            self.deleted.clone(),
        );
        registry.register("jobs", "Jobs that run now", self.jobs.clone());
        registry.register_collector(Box::new(self.queue.clone()));
        registry.register_collector(Box::new(self.memory.clone()));
        registry
    }
}

#[cfg(test)]
mod tests {
    use storm_shared::{
        models::AttemptClass,
        services::{ssrf::Rule, store::Outcome},
    };

    use super::{ClaimSource, Metrics};

    #[test]
    fn counted_values_are_rendered() {
        let metrics = Metrics::new();
        metrics.claimed(ClaimSource::Table, 3);
        metrics.attempted(AttemptClass::Timeout);
        metrics.refused(Rule::LinkLocal);
        metrics.ended(&Outcome::Completed);
        let job = metrics.job_started();
        let text = metrics.render();
        for line in [
            "storm_worker_claimed_jobs_total{source=\"table\"} 3",
            "storm_worker_callback_attempts_total{class=\"timeout\"} 1",
            "storm_worker_callback_refusals_total{rule=\"link_local\"} 1",
            "storm_worker_ended_jobs_total{outcome=\"completed\"} 1",
            "storm_worker_jobs 1",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
        drop(job);
        assert!(metrics.render().contains("storm_worker_jobs 0"));
    }
}
