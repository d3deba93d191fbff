//! The names of the metrics, and what a scrape says of each.

use prometheus_client::registry::Registry;
use storm_shared::{
    models::{AttemptClass, FailureReason},
    services::{scrape, ssrf::Rule, store::Outcome},
    traces,
};

use super::{
    ClaimSource, Metrics, ParkReason,
    labels::{AttemptLabel, OutcomeLabel, ReasonLabel, RuleLabel, SourceLabel},
};
use crate::delivery::Shortage;

/// The reasons for which a worker fails a job.
const FAILURES: [FailureReason; 7] = [
    FailureReason::CallbackRefused,
    FailureReason::CallbackFailed,
    FailureReason::InternalError,
    FailureReason::Poison,
    FailureReason::InvalidRow,
    FailureReason::WorkFailed,
    FailureReason::WorkTimedOut,
];

impl Metrics {
    pub(super) fn registered(&self) -> Registry {
        self.start_at_zero();
        let mut registry = scrape::registry("worker");
        let own = registry.sub_registry_with_prefix("storm_worker");
        self.register_jobs(own);
        self.register_receivers(own);
        self.register_workers(own);
        self.connections.register(own);
        own.register_collector(Box::new(self.store.clone()));
        own.register_collector(Box::new(self.queue.clone()));
        own.register_collector(Box::new(self.memory.clone()));
        traces::register(own);
        registry
    }

    /// Makes all series. One that begins with its first increment hides that from `rate`.
    fn start_at_zero(&self) {
        for source in ClaimSource::ALL.map(ClaimSource::name) {
            drop(self.claimed.get_or_create(&SourceLabel { source }));
        }
        let completed = [Outcome::Completed.as_str()];
        for outcome in completed
            .into_iter()
            .chain(FAILURES.map(FailureReason::as_str))
        {
            drop(self.ended.get_or_create(&OutcomeLabel { outcome }));
        }
        for class in AttemptClass::ALL.map(AttemptClass::as_str) {
            drop(self.attempts.get_or_create(&AttemptLabel { class }));
        }
        let parked = [
            ParkReason::OriginDown,
            ParkReason::OriginBusy,
            ParkReason::Paused,
        ];
        for why in parked
            .into_iter()
            .chain(Shortage::ALL.map(ParkReason::Shortage))
        {
            let why = why.name();
            drop(self.parked.get_or_create(&ReasonLabel { why }));
        }
        for rule in Rule::ALL.map(Rule::name) {
            drop(self.refusals.get_or_create(&RuleLabel { rule }));
        }
    }

    fn register_jobs(&self, own: &mut Registry) {
        own.register(
            "claimed_jobs",
            "Jobs claimed, by how they were found",
            self.claimed.clone(),
        );
        own.register(
            "late_notifications",
            "Notifications of jobs that were claimed already",
            self.late_notifications.clone(),
        );
        own.register("ended_jobs", "Jobs ended, by outcome", self.ended.clone());
        own.register("jobs", "Jobs that run now", self.jobs.clone());
        own.register(
            "long_work",
            "Claims of jobs whose work takes longer than DRAIN_TIMEOUT",
            self.long_work.clone(),
        );
        own.register(
            "deleted_requests",
            "Finished requests deleted after RETENTION",
            self.deleted.clone(),
        );
        own.register(
            "queue_wait_seconds",
            "Time from the submission of a job to its first claim, by the wall clock",
            self.queue_wait.clone(),
        );
        own.register("run_seconds", "Time of the work of a job", self.run.clone());
        own.register(
            "time_to_callback_seconds",
            "Time from the submission of a job to the 2xx of its callback, by the wall clock",
            self.time_to_callback.clone(),
        );
    }

    fn register_receivers(&self, own: &mut Registry) {
        own.register(
            "callback_attempts",
            "Callback attempts, by class",
            self.attempts.clone(),
        );
        own.register(
            "work_attempts",
            "Attempts at the work of handlers, by handler and class",
            self.work_attempts.clone(),
        );
        own.register(
            "parked_jobs",
            "Jobs parked because of their receiver, a pause or a shortage of this worker, by reason",
            self.parked.clone(),
        );
        own.register(
            "open_handler_breakers",
            "Handlers whose circuit breaker is open or half-open",
            self.open_handler_breakers.clone(),
        );
        own.register(
            "open_breakers",
            "Tenants' origins whose circuit breaker is open or half-open",
            self.open_breakers.clone(),
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
        own.register(
            "callback_refusals",
            "Callbacks that the SSRF policy refused, by rule",
            self.refusals.clone(),
        );
    }

    fn register_workers(&self, own: &mut Registry) {
        own.register_collector(Box::new(self.slots.clone()));
        own.register_collector(Box::new(self.sockets.clone()));
        own.register_collector(Box::new(self.long_jobs.clone()));
        own.register(
            "lost_claims",
            "Claims lost to another worker, or because the client cancelled the job",
            self.lost_claims.clone(),
        );
        own.register(
            "lost_leases",
            "Times that this worker lost its own lease, and with it all of its jobs",
            self.lost_leases.clone(),
        );
        own.register(
            "expired_workers",
            "Leases of other workers that this one has expired",
            self.expired.clone(),
        );
        own.register(
            "returned_jobs",
            "Jobs reclaimed from expired workers",
            self.returned.clone(),
        );
    }
}
