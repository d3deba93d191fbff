//! The worker's metrics. docs/OPERATIONS.md says what each means.

mod labels;
mod registration;

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use storm_shared::{
    durations::DurationRecorder,
    memory::{MemoryBudget, MemoryMetrics},
    models::{AttemptClass, FailureReason, HandlerName, WorkerReport},
    server::ConnectionMetrics,
    services::{
        queue::{QueueMetrics, QueueStatus},
        scrape::{self, PermitMetrics},
        ssrf::Rule,
        store::{Expired, Outcome, Pauses, Store, StoreMetrics},
    },
};
use tokio::sync::Semaphore;

use self::labels::{AttemptLabel, OutcomeLabel, ReasonLabel, RuleLabel, SourceLabel, WorkLabel};
pub use self::labels::{ClaimSource, ParkReason};
use crate::room::Room;

/// From a notification that is claimed at once to a backlog of an hour.
const QUEUE_WAIT_SECONDS: [f64; 11] = [
    0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 120.0, 600.0, 3600.0,
];

/// A report takes 10 ms to 1000 s.
const RUN_SECONDS: [f64; 10] = [0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 120.0, 600.0];

/// From a quick report to a job that waited for its receiver.
const TIME_TO_CALLBACK_SECONDS: [f64; 12] = [
    0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 1800.0, 21600.0,
];

/// The worker's metrics. Clones share them.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    claimed: Family<SourceLabel, Counter>,
    late_notifications: Counter,
    ended: Family<OutcomeLabel, Counter>,
    attempts: Family<AttemptLabel, Counter>,
    work_attempts: Family<WorkLabel, Counter>,
    parked: Family<ReasonLabel, Counter>,
    open_breakers: Gauge,
    open_handler_breakers: Gauge,
    handler_breakers: Arc<OnceLock<Box<dyn Fn() -> usize + Send + Sync>>>,
    paused: Gauge,
    paused_origins: Gauge,
    refusals: Family<RuleLabel, Counter>,
    lost_claims: Counter,
    lost_leases: Counter,
    jobs: Gauge,
    slots: PermitMetrics,
    sockets: PermitMetrics,
    long_jobs: PermitMetrics,
    queue_wait: Histogram,
    run: Histogram,
    time_to_callback: Histogram,
    expired: Counter,
    returned: Counter,
    /// The connections of the worker's listener.
    pub connections: ConnectionMetrics,
    store: StoreMetrics,
    queue: QueueMetrics,
    memory: MemoryMetrics,
    long_work: Counter,
    deleted: Counter,
    reported: Arc<Reported>,
}

/// What the worker's report has beside the metrics, whose buckets are too wide for a plot.
#[derive(Default)]
struct Reported {
    completed: AtomicU64,
    failed: AtomicU64,
    time_to_callback: DurationRecorder,
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
            late_notifications: Counter::default(),
            ended: Family::default(),
            attempts: Family::default(),
            work_attempts: Family::default(),
            parked: Family::default(),
            open_breakers: Gauge::default(),
            open_handler_breakers: Gauge::default(),
            handler_breakers: Arc::default(),
            paused: Gauge::default(),
            paused_origins: Gauge::default(),
            refusals: Family::default(),
            lost_claims: Counter::default(),
            lost_leases: Counter::default(),
            jobs: Gauge::default(),
            slots: PermitMetrics::new(
                ("slots_used", "Slots that jobs hold."),
                ("slots", "Slots of the worker: WORKER_CONCURRENCY."),
            ),
            sockets: PermitMetrics::new(
                (
                    "sockets_used",
                    "Open sockets of callbacks and handlers, idle ones included.",
                ),
                (
                    "sockets",
                    "Sockets that callbacks and handlers may have open.",
                ),
            ),
            long_jobs: PermitMetrics::new(
                ("long_jobs", "Long jobs whose work runs."),
                ("long_jobs_limit", "Long jobs whose work may run."),
            ),
            queue_wait: Histogram::new(QUEUE_WAIT_SECONDS),
            run: Histogram::new(RUN_SECONDS),
            time_to_callback: Histogram::new(TIME_TO_CALLBACK_SECONDS),
            expired: Counter::default(),
            returned: Counter::default(),
            connections: ConnectionMetrics::default(),
            store: StoreMetrics::default(),
            queue: QueueMetrics::default(),
            memory: MemoryMetrics::default(),
            long_work: Counter::default(),
            deleted: Counter::default(),
            reported: Arc::default(),
        };
        // Last: the registry takes clones of the metrics above.
        metrics.registry = Arc::new(metrics.registered());
        metrics
    }

    /// `jobs` of `candidates` were claimed.
    pub fn claimed(&self, source: ClaimSource, candidates: usize, jobs: usize) {
        if source == ClaimSource::Notification {
            let late = candidates.saturating_sub(jobs);
            self.late_notifications.inc_by(late as u64);
        }
        let source = source.name();
        self.claimed
            .get_or_create(&SourceLabel { source })
            .inc_by(jobs as u64);
    }

    /// A job waited for its first claim.
    pub fn waited(&self, wait: Duration) {
        self.queue_wait.observe(wait.as_secs_f64());
    }

    /// The work of a job was done.
    pub fn ran(&self, time: Duration) {
        self.run.observe(time.as_secs_f64());
    }

    /// A callback was delivered this long after its job was submitted.
    pub fn delivered(&self, after: Duration) {
        self.time_to_callback.observe(after.as_secs_f64());
        self.reported.time_to_callback.record(after);
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
        let poisoned = expired.poisoned as u64;
        self.reported.failed.fetch_add(poisoned, Ordering::Relaxed);
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

    /// The worker serves these handlers. A series that begins with its first increment hides that
    /// from `rate`.
    pub fn serves(&self, handlers: &[HandlerName]) {
        for handler in handlers.iter().map(HandlerName::to_string) {
            for class in AttemptClass::ALL.map(AttemptClass::as_str) {
                let handler = handler.clone();
                let label = WorkLabel { handler, class };
                drop(self.work_attempts.get_or_create(&label));
            }
        }
    }

    /// An attempt at the work of `handler` has ended.
    pub fn worked(&self, handler: &HandlerName, class: AttemptClass) {
        let (handler, class) = (handler.to_string(), class.as_str());
        self.work_attempts
            .get_or_create(&WorkLabel { handler, class })
            .inc();
    }

    /// A job was parked.
    pub fn parked(&self, why: ParkReason) {
        let why = why.name();
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
        let reported = match outcome {
            Outcome::Completed => &self.reported.completed,
            Outcome::Failed(_) => &self.reported.failed,
        };
        reported.fetch_add(1, Ordering::Relaxed);
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

    /// The own lease was lost.
    pub fn lost_lease(&self) {
        self.lost_leases.inc();
    }

    /// Reports from now on on the worker's slots: the permits, and their number.
    pub fn watch_slots(&self, (permits, all): (&Arc<Semaphore>, usize)) {
        self.slots.watch(permits, all);
    }

    /// Reports from now on on the worker's sockets: the permits, and their number.
    pub(crate) fn watch_sockets(&self, (permits, all): (&Arc<Semaphore>, usize)) {
        self.sockets.watch(permits, all);
    }

    /// Reports from now on on the slots that long jobs may hold.
    pub(crate) fn watch_long_jobs(&self, long: &Room) {
        let room = long.clone();
        self.long_jobs
            .watch_changing(long.semaphore(), move || room.permits());
    }

    /// Reports on the store from now on.
    pub fn watch_store(&self, store: &Store) {
        self.store.watch(store);
    }

    /// Reports on Redis from now on.
    pub fn watch_queue(&self, status: &Arc<QueueStatus>) {
        self.queue.watch(status);
    }

    /// Counts the open circuit breakers of the worker's handlers by `count`, at each scrape.
    pub fn watch_handler_breakers(&self, count: impl Fn() -> usize + Send + Sync + 'static) {
        // A process has one set of handlers.
        let _ = self.handler_breakers.set(Box::new(count));
    }

    /// Reports on the memory budget from now on.
    pub fn watch_memory(&self, budget: &MemoryBudget) {
        self.memory.watch(budget);
    }

    /// The worker's figures so far, which has run for `uptime`. Its slots and receivers are not
    /// known here.
    pub(crate) fn report(&self, uptime: Duration) -> WorkerReport {
        let uptime_ms = uptime.as_millis().try_into().unwrap_or(u64::MAX);
        WorkerReport {
            completed: self.reported.completed.load(Ordering::Relaxed),
            failed: self.reported.failed.load(Ordering::Relaxed),
            time_to_callback: self.reported.time_to_callback.counts(),
            ..WorkerReport::new(uptime_ms)
        }
    }

    /// The text that a scrape returns.
    pub fn render(&self) -> String {
        let open = self.handler_breakers.get().map_or(0, |count| count());
        self.open_handler_breakers
            .set(i64::try_from(open).unwrap_or(i64::MAX));
        scrape::render(&self.registry)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use storm_shared::{
        models::AttemptClass,
        services::{ssrf::Rule, store::Outcome},
    };

    use super::{ClaimSource, Metrics};

    #[test]
    fn counted_values_are_rendered() {
        let metrics = Metrics::new();
        metrics.claimed(ClaimSource::Table, 4, 3);
        metrics.claimed(ClaimSource::Notification, 5, 3);
        metrics.waited(Duration::from_millis(20));
        metrics.ran(Duration::from_millis(100));
        metrics.delivered(Duration::from_secs(2));
        metrics.lost_lease();
        metrics.attempted(AttemptClass::Timeout);
        metrics.refused(Rule::LinkLocal);
        metrics.ended(&Outcome::Completed);
        let job = metrics.job_started();
        let text = metrics.render();
        for line in [
            "storm_worker_claimed_jobs_total{source=\"table\"} 3",
            "storm_worker_claimed_jobs_total{source=\"quarantine\"} 0",
            "storm_worker_late_notifications_total 2",
            "storm_worker_lost_leases_total 1",
            "storm_worker_queue_wait_seconds_bucket{le=\"0.01\"} 0",
            "storm_worker_queue_wait_seconds_bucket{le=\"0.05\"} 1",
            "storm_worker_run_seconds_sum 0.1",
            "storm_worker_time_to_callback_seconds_count 1",
            "storm_worker_callback_attempts_total{class=\"timeout\"} 1",
            "storm_worker_parked_jobs_total{why=\"no_port\"} 0",
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
