//! One callback attempt, and what follows from it.

use std::time::Duration;

use futures_util::future::BoxFuture;
use hyper::StatusCode;
use jiff::Timestamp;
use storm_shared::{
    models::{AttemptClass, CallbackUrl, Failure, FailureReason},
    services::{
        report::Report,
        store::{AttemptRecord, Job, Outcome},
    },
};
use tokio::time::Instant;
use tracing::{debug, info};

use super::{
    callback_body::callback_body,
    callback_worker::CallbackWorker,
    origins::{Admission, Sign},
};
use crate::{
    delivery::{AttemptError, CallbackClient, Message, Turn},
    metrics::PutOff,
};

/// How long a job is put off for whose name no thread was free.
const UNTIL_THREADS_ARE_FREE: Duration = Duration::from_secs(1);

/// One attempt to call back; a test may stand in for the network.
pub trait Transport: Send + Sync {
    /// POSTs `message`; a 2xx is success, everything else an error that says whether to try again. `turn` is
    /// kept as long as the connection is busy.
    fn attempt<'a>(
        &'a self,
        turn: Turn,
        url: &'a CallbackUrl,
        message: &'a Message,
    ) -> BoxFuture<'a, Result<StatusCode, AttemptError>>;
}

impl Transport for CallbackClient {
    fn attempt<'a>(
        &'a self,
        turn: Turn,
        url: &'a CallbackUrl,
        message: &'a Message,
    ) -> BoxFuture<'a, Result<StatusCode, AttemptError>> {
        Box::pin(self.attempt_in(turn, url, message))
    }
}

/// What follows for a job that was to be delivered.
pub(super) enum Delivery {
    /// It is over, with that attempt if one was made.
    Over(Option<AttemptRecord>, Outcome),
    /// That attempt failed, and the next one is due then.
    Again(AttemptRecord, Timestamp),
    /// No attempt was made for its receiver's sake, and it is due then.
    Parked(Timestamp),
}

impl CallbackWorker {
    /// Calls back once, where there is somebody to call and it is the time for it.
    pub(super) async fn deliver(&self, job: &Job, report: &Report) -> Delivery {
        let Some(target) = &job.callback_target else {
            return Delivery::Over(None, Outcome::Completed); // the client polls
        };
        let url = match CallbackUrl::from_target(target) {
            Ok(url) => url,
            Err(error) => {
                let detail = format!("The callback's URL {error}.");
                let failure = Failure::new(FailureReason::InvalidRow, detail);
                return Delivery::Over(None, Outcome::Failed(failure));
            }
        };
        let (pass, turn) = match self.origins.admit(url.origin(), parked_for(job)).await {
            Admission::Go(pass, turn) => (pass, turn),
            Admission::PutOff(wait) => return Delivery::Parked(Timestamp::now() + wait),
        };
        let message = Message {
            id: job.claim.id,
            body: callback_body(job.claim.id, &job.spec, report),
            traceparent: job.traceparent,
        };
        self.lease.in_force_for(job.claim.owner).await;
        let (started_at, began) = (Timestamp::now(), Instant::now());
        let answer = self.client.attempt(turn, &url, &message).await;
        let duration = began.elapsed();
        pass.heard(Sign::of(&answer));
        if matches!(answer, Err(AttemptError::LookupsBusy)) && parked_for(job) < self.park_max {
            self.metrics.put_off(PutOff::LookUpsBusy);
            return Delivery::Parked(Timestamp::now() + UNTIL_THREADS_ARE_FREE);
        }
        let attempted = attempted(job.attempts + 1, (started_at, duration), &answer);
        self.metrics.attempted(attempted.class);
        if let Err(AttemptError::Refused(refusal)) = &answer {
            self.metrics.refused(refusal.rule);
        }
        match answer {
            Ok(_) => Delivery::Over(Some(attempted), Outcome::Completed),
            Err(error) => self.after_failure(job, attempted, &error),
        }
    }

    fn after_failure(&self, job: &Job, attempted: AttemptRecord, error: &AttemptError) -> Delivery {
        let (id, trace) = (job.claim.id, job.traceparent.trace_id());
        let in_series = attempted.number.saturating_sub(job.attempts_before);
        let Some(wait) = self.schedule.after(in_series, error) else {
            info!(%id, trace, attempts = in_series, %error, "the last callback attempt failed");
            return Delivery::Over(
                Some(attempted),
                Outcome::Failed(undelivered(in_series, error)),
            );
        };
        debug!(%id, trace, attempts = in_series, %error, ?wait, "a callback attempt failed");
        Delivery::Again(attempted, Timestamp::now() + wait)
    }
}

fn parked_for(job: &Job) -> Duration {
    let since = job.parked_since.unwrap_or(Timestamp::MAX);
    Duration::try_from(Timestamp::now().duration_since(since)).unwrap_or_default()
}

/// The record of an attempt.
fn attempted(
    number: u32,
    (started_at, duration): (Timestamp, Duration),
    answer: &Result<StatusCode, AttemptError>,
) -> AttemptRecord {
    let error = answer.as_ref().err();
    let status = match answer {
        Ok(status) => Some(*status),
        Err(error) => error.status(),
    };
    AttemptRecord {
        number,
        started_at,
        duration,
        class: error.map_or(AttemptClass::Success, AttemptError::class),
        status: status.map(|status| status.as_u16()),
        error: error.map(AttemptError::public_detail),
        internal_detail: error.map(ToString::to_string),
    }
}

/// What the caller may know: a refusal's class, but not which address a name led to.
fn undelivered(attempts: u32, last: &AttemptError) -> Failure {
    let told = last.public_detail();
    match last.class() {
        AttemptClass::Refused => {
            let detail = format!("The callback's address is {told}; nothing was sent.");
            Failure::new(FailureReason::CallbackRefused, detail)
        }
        AttemptClass::Gone => {
            let detail = "The receiver answered with status 410: it wants no more callbacks there.";
            Failure::new(FailureReason::CallbackFailed, detail)
        }
        _ => {
            let detail = format!("No attempt of {attempts} succeeded; the last: {told}.");
            Failure::new(FailureReason::CallbackFailed, detail)
        }
    }
}
