//! The API's metrics. docs/OPERATIONS.md says what each means.

mod handlers;
mod live;

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use storm_shared::{
    memory::{MemoryBudget, MemoryMetrics},
    models::HandlerName,
    server::ConnectionMetrics,
    services::{
        queue::{QueueMetrics, QueueStatus},
        scrape::{self, PermitMetrics},
        ssrf::Rule,
        store::{HandlerLoad, Pauses, Store, StoreMetrics},
    },
    traces,
};
use warp::http::StatusCode;

pub use self::live::LiveFigures;
use self::{handlers::HandlerMetrics, live::Live};
use crate::sync_pool::SyncPool;

/// From a commit without fsync to the longest wait that a client bears.
const ACK_SECONDS: [f64; 11] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0,
];

/// An accepted submission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// It has stored a job.
    New,
    /// It repeats an earlier one, by its idempotency key.
    Replayed,
}

/// Who cancels a job or a redelivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Canceller {
    /// Its client, by `DELETE /requests/{id}`.
    Client,
    /// An operator, by `/admin/cancel`.
    Operator,
}

/// The API's metrics. Clones share them.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    answers: Family<AnswerLabels, Counter>,
    refused: Family<RefusalLabels, Counter>,
    refused_callbacks: Family<RuleLabel, Counter>,
    cancelled: Family<CancellerLabel, Counter>,
    handlers: HandlerMetrics,
    ack_seconds: Histogram,
    oldest_due_age: Gauge<f64, AtomicU64>,
    sync_threads: PermitMetrics,
    sync_requests: PermitMetrics,
    /// The connections of the API's listener.
    pub connections: ConnectionMetrics,
    store: StoreMetrics,
    backlog_jobs: Gauge,
    drain_rate: Gauge<f64, AtomicU64>,
    waiters: Gauge,
    waiters_limit: Gauge,
    refused_waits: Counter,
    paused: Gauge,
    paused_origins: Gauge,
    queue: QueueMetrics,
    memory: MemoryMetrics,
    live: Arc<Live>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AnswerLabels {
    endpoint: &'static str,
    status: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CancellerLabel {
    by: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusalLabels {
    endpoint: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RuleLabel {
    rule: &'static str,
}

impl Accepted {
    const ALL: [Self; 2] = [Self::New, Self::Replayed];

    const fn name(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Replayed => "replayed",
        }
    }
}

impl Canceller {
    const fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Operator => "operator",
        }
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
            answers: Family::default(),
            refused: Family::default(),
            refused_callbacks: Family::default(),
            cancelled: Family::default(),
            handlers: HandlerMetrics::default(),
            ack_seconds: Histogram::new(ACK_SECONDS),
            oldest_due_age: Gauge::default(),
            sync_threads: PermitMetrics::new(
                ("sync_threads_used", "Threads that run a report of /sync."),
                (
                    "sync_threads",
                    "Reports of /sync that may run: SYNC_THREADS.",
                ),
            ),
            sync_requests: PermitMetrics::new(
                ("sync_requests", "Requests of /sync that run or wait."),
                (
                    "sync_requests_limit",
                    "Requests of /sync that may run or wait: SYNC_THREADS and SYNC_QUEUE.",
                ),
            ),
            connections: ConnectionMetrics::default(),
            store: StoreMetrics::default(),
            backlog_jobs: Gauge::default(),
            drain_rate: Gauge::default(),
            waiters: Gauge::default(),
            waiters_limit: Gauge::default(),
            refused_waits: Counter::default(),
            paused: Gauge::default(),
            paused_origins: Gauge::default(),
            queue: QueueMetrics::default(),
            memory: MemoryMetrics::default(),
            live: Arc::default(),
        };
        // Last: the registry takes clones of the metrics above.
        metrics.registry = Arc::new(metrics.registered());
        metrics.know_handlers([HandlerName::REPORT].iter());
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

    /// Counts a request that was answered with the problem of this name.
    pub fn refused(&self, endpoint: &'static str, reason: &'static str) {
        self.refused
            .get_or_create(&RefusalLabels { endpoint, reason })
            .inc();
    }

    /// Notes the time from the head of a request to its `202`.
    pub fn acknowledged(&self, after: Duration) {
        self.ack_seconds.observe(after.as_secs_f64());
        self.live.acknowledged(after);
    }

    /// Counts a submission for `handler` that was accepted.
    pub fn accepted(&self, handler: &HandlerName, kind: Accepted) {
        self.handlers.accepted(handler, kind);
        if kind == Accepted::New {
            self.live.accepted();
        }
    }

    /// Counts a submission of a job that was refused for the load.
    pub fn job_refused(&self) {
        self.live.refused();
    }

    /// Notes the time from the head of a request to `/sync` to its report.
    pub fn sync_answered(&self, after: Duration) {
        self.live.sync_answered(after);
    }

    /// Counts a request to `/sync` that was refused for the load, or not finished in time: after
    /// this long.
    pub fn sync_refused(&self, late: Option<Duration>) {
        self.live.sync_refused(late);
    }

    /// The figures of the overview.
    pub fn live(&self) -> LiveFigures {
        self.live.figures()
    }

    /// Counts jobs and redeliveries that were cancelled.
    pub fn cancelled(&self, by: Canceller, count: usize) {
        self.cancelled
            .get_or_create(&CancellerLabel { by: by.name() })
            .inc_by(count as u64);
    }

    /// The settings name these handlers now. The series of others end.
    pub fn know_handlers<'a>(&self, now: impl Iterator<Item = &'a HandlerName>) {
        self.handlers.know(now);
    }

    /// Handlers beside the report have this load now.
    pub fn handlers_load(&self, load: &BTreeMap<HandlerName, HandlerLoad>) {
        self.handlers.load(load);
    }

    /// Counts a callback URL that this rule of the SSRF policy refused.
    pub fn refused_callback(&self, rule: &'static str) {
        self.refused_callbacks
            .get_or_create(&RuleLabel { rule })
            .inc();
    }

    /// Shows how long the oldest due job has been due.
    pub fn oldest_due_age(&self, age: Option<Duration>) {
        self.oldest_due_age
            .set(age.unwrap_or_default().as_secs_f64());
        self.live.oldest_due(age);
    }

    /// Reports on the store from now on.
    pub fn watch_store(&self, store: &Store) {
        self.store.watch(store);
    }

    /// Reports on the pool of `/sync` from now on.
    pub fn watch_pool(&self, pool: &SyncPool) {
        let (running, threads) = pool.running();
        self.sync_threads.watch(running, threads);
        let (slots, requests) = pool.slots();
        self.sync_requests.watch(slots, requests);
    }

    /// Reports how many jobs are unfinished, how many of them are due, and how many the workers end
    /// in a second.
    pub fn counted_backlog(&self, jobs: usize, due: usize, drain_rate: f64) {
        self.live.counted(jobs, due);
        self.backlog_jobs
            .set(i64::try_from(jobs).unwrap_or(i64::MAX));
        self.drain_rate.set(drain_rate);
    }

    /// So many requests wait for a result now.
    pub fn waiters(&self, count: usize) {
        self.waiters.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// So many may wait.
    pub fn waiters_limit(&self, limit: usize) {
        self.waiters_limit
            .set(i64::try_from(limit).unwrap_or(i64::MAX));
    }

    /// Counts a request that would wait for a result, and found no permit.
    pub fn refused_wait(&self) {
        self.refused_waits.inc();
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
        scrape::render(&self.registry)
    }

    fn registered(&self) -> Registry {
        let mut registry = scrape::registry("api");
        let own = registry.sub_registry_with_prefix("storm_api");
        own.register(
            "answers",
            "Requests answered, by endpoint and status",
            self.answers.clone(),
        );
        own.register(
            "refused",
            "Requests answered with a problem, by endpoint and problem type",
            self.refused.clone(),
        );
        own.register(
            "refused_callbacks",
            "Callback URLs refused at submission, by rule of the SSRF policy",
            self.refused_callbacks.clone(),
        );
        // A series that begins with its first increment hides that from `rate`.
        for by in [Canceller::Client, Canceller::Operator].map(Canceller::name) {
            drop(self.cancelled.get_or_create(&CancellerLabel { by }));
        }
        for rule in Rule::ALL.map(Rule::name) {
            drop(self.refused_callbacks.get_or_create(&RuleLabel { rule }));
        }
        self.handlers.register(own);
        own.register(
            "cancelled_jobs",
            "Jobs and redeliveries cancelled over HTTP, by who did it",
            self.cancelled.clone(),
        );
        own.register(
            "ack_seconds",
            "Time from the head of a request to /async to its 202",
            self.ack_seconds.clone(),
        );
        own.register(
            "backlog_jobs",
            "Unfinished async jobs of all clients, as of the last count; at most twice MAX_BACKLOG",
            self.backlog_jobs.clone(),
        );
        own.register(
            "drain_rate",
            "Jobs that all workers together end in a second, while they have work",
            self.drain_rate.clone(),
        );
        own.register(
            "waiters",
            "Requests that wait for a result: Prefer of /async, and ?wait of /requests/{id}",
            self.waiters.clone(),
        );
        own.register(
            "waiters_limit",
            "Requests that may wait for a result: half of HTTP_CONNECTIONS",
            self.waiters_limit.clone(),
        );
        own.register(
            "refused_waits",
            "Requests that would wait for a result and found no permit",
            self.refused_waits.clone(),
        );
        own.register(
            "paused",
            "1 while an operator has paused everything",
            self.paused.clone(),
        );
        own.register(
            "paused_origins",
            "Origins whose callbacks an operator has paused",
            self.paused_origins.clone(),
        );
        own.register_collector(Box::new(self.memory.clone()));
        traces::register(own);
        own.register(
            "oldest_due_age_seconds",
            "How long the oldest due job has been due, counted every few seconds",
            self.oldest_due_age.clone(),
        );
        own.register_collector(Box::new(self.sync_threads.clone()));
        own.register_collector(Box::new(self.sync_requests.clone()));
        self.connections.register(own);
        own.register_collector(Box::new(self.store.clone()));
        own.register_collector(Box::new(self.queue.clone()));
        registry
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use storm_shared::{memory::MemoryBudget, models::HandlerName};
    use warp::http::StatusCode;

    use super::{Accepted, Metrics};

    #[test]
    fn a_scrape_contains_every_counter_with_its_labels() {
        let metrics = Metrics::new();
        metrics.answered("async", StatusCode::ACCEPTED);
        metrics.answered("async", StatusCode::ACCEPTED);
        metrics.refused_callback("loopback");
        let budget = MemoryBudget::new(1000);
        metrics.watch_memory(&budget);
        let _held = budget.reserve_up_to(10);
        metrics.counted_backlog(7, 3, 2.5);
        metrics.refused("async", "overloaded");
        metrics.accepted(&HandlerName::REPORT, Accepted::New);
        metrics.acknowledged(Duration::from_millis(4));
        metrics.oldest_due_age(Some(Duration::from_millis(1500)));
        let text = metrics.render();
        for line in [
            "storm_api_answers_total{endpoint=\"async\",status=\"202\"} 2",
            "storm_api_refused_callbacks_total{rule=\"loopback\"} 1",
            "storm_api_memory_budget_bytes 1000",
            "storm_api_memory_reserved_bytes 10",
            "storm_api_backlog_jobs 7",
            "storm_api_drain_rate 2.5",
            "storm_api_refused_total{endpoint=\"async\",reason=\"overloaded\"} 1",
            "storm_api_accepted_jobs_total{handler=\"report\",kind=\"new\"} 1",
            "storm_api_accepted_jobs_total{handler=\"report\",kind=\"replayed\"} 0",
            "storm_api_ack_seconds_bucket{le=\"0.0025\"} 0",
            "storm_api_ack_seconds_bucket{le=\"0.005\"} 1",
            "storm_api_oldest_due_age_seconds 1.5",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }
}
