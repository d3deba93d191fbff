//! What a worker counts, in the text format of Prometheus.

use std::sync::Arc;

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use storm_shared::{
    models::{AttemptClass, FailureReason},
    services::{
        ssrf::Rule,
        store::{Expired, Outcome},
    },
};

use crate::workers::ClaimSource;

/// A worker's counters; clones share them.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    claimed: Family<SourceLabel, Counter>,
    ended: Family<OutcomeLabel, Counter>,
    attempts: Family<AttemptLabel, Counter>,
    parked: Family<ReasonLabel, Counter>,
    open_breakers: Gauge,
    refusals: Family<RuleLabel, Counter>,
    lost_claims: Counter,
    jobs: Gauge,
    expired: Counter,
    returned: Counter,
}

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

/// Why an attempt was put off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutOff {
    /// Its origin fails again and again.
    OriginDown,
    /// Its origin has as much of this worker as it may have.
    OriginBusy,
    /// Look-ups of other names have all the threads.
    LookUpsBusy,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AttemptLabel {
    class: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RuleLabel {
    rule: &'static str,
}

/// Counts one more in a gauge until it is dropped.
pub struct Counted(Gauge);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
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
            claimed: Family::default(),
            ended: Family::default(),
            attempts: Family::default(),
            parked: Family::default(),
            open_breakers: Gauge::default(),
            refusals: Family::default(),
            lost_claims: Counter::default(),
            jobs: Gauge::default(),
            expired: Counter::default(),
            returned: Counter::default(),
        };
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

    /// A job is held from now on.
    pub fn begin_job(&self) -> Counted {
        self.jobs.inc();
        Counted(self.jobs.clone())
    }

    /// Another worker was declared dead, and its jobs were taken from it.
    pub fn expired(&self, expired: &Expired) {
        self.expired.inc();
        self.returned.inc_by(expired.reclaimed as u64);
        self.ended_as(FailureReason::Poison.as_str(), expired.poisoned);
    }

    /// A callback attempt ended so.
    pub fn attempted(&self, class: AttemptClass) {
        let class = class.as_str();
        self.attempts.get_or_create(&AttemptLabel { class }).inc();
    }

    /// An attempt was put off.
    pub fn put_off(&self, why: PutOff) {
        let why = match why {
            PutOff::OriginDown => "origin_down",
            PutOff::OriginBusy => "origin_busy",
            PutOff::LookUpsBusy => "look_ups_busy",
        };
        self.parked.get_or_create(&ReasonLabel { why }).inc();
    }

    /// An origin is left alone from now on.
    pub fn breaker_opened(&self) {
        self.open_breakers.inc();
    }

    /// It answers again.
    pub fn breaker_closed(&self) {
        self.open_breakers.dec();
    }

    /// The guard refused a callback by that rule.
    pub fn refused(&self, rule: Rule) {
        let rule = rule.name();
        self.refusals.get_or_create(&RuleLabel { rule }).inc();
    }

    /// A job ended.
    pub fn ended(&self, outcome: &Outcome) {
        let outcome = match outcome {
            Outcome::Completed => "completed",
            Outcome::Failed(failure) => failure.reason.as_str(),
        };
        self.ended_as(outcome, 1);
    }

    fn ended_as(&self, outcome: &'static str, jobs: usize) {
        self.ended
            .get_or_create(&OutcomeLabel { outcome })
            .inc_by(jobs as u64);
    }

    /// A job was lost to another worker.
    pub fn lost_claim(&self) {
        self.lost_claims.inc();
    }

    /// The text for a scrape.
    pub fn render(&self) -> String {
        let mut text = String::new();
        // Writing to a String can't fail.
        encode(&mut text, &self.registry).unwrap_or_else(|_| unreachable!("a String takes it all"));
        text
    }

    fn registered(&self) -> Registry {
        let mut registry = Registry::with_prefix("storm_worker");
        registry.register(
            "claimed_jobs",
            "Jobs claimed, by where they were heard of",
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
            "Jobs put off for their receiver's sake, by why",
            self.parked.clone(),
        );
        registry.register(
            "open_breakers",
            "Origins that are left alone because they fail",
            self.open_breakers.clone(),
        );
        registry.register(
            "callback_refusals",
            "Callbacks that the guard refused, by rule",
            self.refusals.clone(),
        );
        registry.register(
            "lost_claims",
            "Jobs lost to another worker",
            self.lost_claims.clone(),
        );
        registry.register(
            "expired_workers",
            "Other workers that this one declared dead",
            self.expired.clone(),
        );
        registry.register(
            "returned_jobs",
            "Their jobs, which any worker can claim again",
            self.returned.clone(),
        );
        registry.register("jobs", "Jobs held now", self.jobs.clone());
        registry
    }
}

#[cfg(test)]
mod tests {
    use storm_shared::{
        models::AttemptClass,
        services::{ssrf::Rule, store::Outcome},
    };

    use super::Metrics;
    use crate::workers::ClaimSource;

    #[test]
    fn what_was_counted_is_rendered() {
        let metrics = Metrics::new();
        metrics.claimed(ClaimSource::Table, 3);
        metrics.attempted(AttemptClass::Timeout);
        metrics.refused(Rule::LinkLocal);
        metrics.ended(&Outcome::Completed);
        let job = metrics.begin_job();
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
