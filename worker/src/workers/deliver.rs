//! Delivers one job: admission to its destination, one attempt, and what follows from it.

use std::{sync::Arc, time::Duration};

use hyper::StatusCode;
use jiff::Timestamp;
use storm_shared::{
    config::CallbackSettings,
    models::{AttemptClass, CallbackUrl, Destination, Failure, FailureReason, Stage},
    services::store::{AttemptRecord, Job, Outcome, Settlement, Store, Worked},
};
use tokio::time::Instant;
use tracing::{debug, info};

use super::{
    lease::Lease, origins::Origins, parts::Parts, resends::ClaimedResends, shortages::Shortages,
    spans,
};
use crate::{
    breaker::Signal,
    delivery::{AttemptError, Message, Transport},
    handlers::Handlers,
    metrics::Metrics,
    schedule::Schedule,
};

/// Makes callback attempts within the limits of their destinations.
pub(super) struct Deliverer {
    transport: Arc<dyn Transport>,
    store: Store,
    lease: Arc<Lease>,
    origins: Origins,
    handlers: Handlers,
    schedule: Schedule,
    shortages: Shortages,
    metrics: Metrics,
}

impl Deliverer {
    pub(super) fn new(
        transport: Arc<dyn Transport>,
        parts: &Parts,
        settings: &CallbackSettings,
    ) -> Self {
        Self {
            transport,
            store: parts.store.clone(),
            lease: Arc::clone(&parts.lease),
            origins: parts.origins.clone(),
            handlers: parts.handlers.clone(),
            schedule: Schedule::new(&settings.retry),
            shortages: Shortages::new(parts.metrics.clone()),
            metrics: parts.metrics.clone(),
        }
    }

    /// Tells the client what came of the work of `job`, by at most one attempt, and says how its
    /// claim ends. `work` is the attempt at the work to record with that; there is none if there is
    /// a callback.
    pub(super) async fn deliver(
        &self,
        job: &Job,
        worked: &Worked,
        work: Option<AttemptRecord>,
    ) -> Settlement {
        let settlement = match &job.callback {
            Some(url) => self.call_back(job, url, worked).await,
            None => finish(work, Outcome::Completed), // the client polls
        };
        match (settlement, worked) {
            // Why the work failed stays the reason, whether the client could be told or not.
            (Settlement::Finish { attempt, .. }, Err(failure)) => {
                finish(attempt, Outcome::Failed(failure.clone()))
            }
            (settlement, _) => settlement,
        }
    }

    async fn call_back(&self, job: &Job, url: &CallbackUrl, worked: &Worked) -> Settlement {
        let destination = Destination {
            tenant: job.created_by.clone(),
            origin: url.origin().clone(),
        };
        if let Some(wait) = self.origins.paused(&destination) {
            return Settlement::ParkPaused { wait };
        }
        let admission = self.origins.admit(destination.clone(), job.parked_for);
        let mut admitted = match admission.await {
            Ok(admitted) => admitted,
            Err(wait) => return Settlement::Park { wait },
        };
        let body = match self.handlers.callback_body(job, worked) {
            Ok(body) => body,
            Err(invalid) => return finish(None, Outcome::Failed(invalid)),
        };
        let mut message = Message {
            id: job.claim.id,
            body,
            traceparent: job.traceparent,
        };
        // Checked last: with an old heartbeat, another worker might expire the lease during the
        // attempt and deliver the job a second time.
        if !self.lease.in_force_for(job.claim.owner).await {
            return Settlement::GiveBack;
        }
        // The job may have waited for its permit, or for a heartbeat.
        if let Some(wait) = self.origins.paused(&destination) {
            return Settlement::ParkPaused { wait };
        }
        // The wall clock dates the attempt, and the monotonic clock measures it: a clock step must
        // not change its duration.
        let (started_at, began) = (Timestamp::now(), Instant::now());
        let number = job.attempts.saturating_add(1);
        let span = spans::attempt(job, url, number);
        message.traceparent = span.passed_on_from(job.traceparent);
        let permit = admitted.take_permit();
        let resends = ClaimedResends::new(&self.store, job.claim);
        let attempt = self.transport.attempt(permit, url, &message, &resends);
        let result = attempt.await;
        let duration = began.elapsed();
        spans::attempted(span, &result);
        admitted.record(Signal::of(&result));
        // However long it lasts: what this worker lacks is no fault of the receiver's.
        if let Err(AttemptError::Shortage(shortage)) = result {
            let wait = self.shortages.met(shortage, job.parked_for);
            return Settlement::Park { wait };
        }
        self.shortages.passed();
        let attempt = record(number, started_at, duration, &result);
        self.count(attempt.class, &result);
        match result {
            Ok(_) => finish(Some(attempt), Outcome::Completed),
            Err(error) => self.after_failure(job, attempt, &error),
        }
    }

    /// A retry if the schedule has one left, or else the end of the job.
    fn after_failure(&self, job: &Job, attempt: AttemptRecord, error: &AttemptError) -> Settlement {
        let (id, trace) = (job.claim.id, job.traceparent.trace_id());
        // A redelivery is a new series of attempts, with the whole schedule before it.
        let attempts = attempt.number.saturating_sub(job.attempts_before);
        let Some(wait) = self.schedule.after(attempts, error) else {
            info!(%id, trace, attempts, %error, "callback failed: no retry is left");
            let failure = undelivered(attempts, error);
            return finish(Some(attempt), Outcome::Failed(failure));
        };
        debug!(%id, trace, attempts, %error, ?wait, "callback attempt failed");
        Settlement::Retry { attempt, wait }
    }

    fn count(&self, class: AttemptClass, result: &Result<StatusCode, AttemptError>) {
        self.metrics.attempted(class);
        if let Err(AttemptError::Refused(violation)) = result {
            self.metrics.refused(violation.rule);
        }
    }
}

fn finish(attempt: Option<AttemptRecord>, outcome: Outcome) -> Settlement {
    Settlement::Finish { attempt, outcome }
}

fn record(
    number: u32,
    started_at: Timestamp,
    duration: Duration,
    result: &Result<StatusCode, AttemptError>,
) -> AttemptRecord {
    let error = result.as_ref().err();
    let status = match result {
        Ok(status) => Some(*status),
        Err(error) => error.status(),
    };
    AttemptRecord {
        number,
        stage: Stage::Callback,
        started_at,
        duration,
        class: error.map_or(AttemptClass::Success, AttemptError::class),
        status: status.map(|status| status.as_u16()),
        error: error.map(AttemptError::public_detail),
        internal_detail: error.map(ToString::to_string),
    }
}

/// The failure as its tenant sees it: with a refusal's class, but without the address that the name
/// resolved to.
fn undelivered(attempts: u32, last: &AttemptError) -> Failure {
    let error = last.public_detail();
    match last.class() {
        AttemptClass::Refused => {
            let detail = format!("The callback's address is {error}; nothing was sent.");
            Failure::new(FailureReason::CallbackRefused, detail)
        }
        AttemptClass::Gone => {
            let detail = "The receiver answered 410 Gone: it accepts no more callbacks.";
            Failure::new(FailureReason::CallbackFailed, detail)
        }
        _ => {
            let detail = format!("All {attempts} attempts failed; the last: {error}.");
            Failure::new(FailureReason::CallbackFailed, detail)
        }
    }
}
