//! One callback attempt, and what follows from it.

use futures_util::future::BoxFuture;
use hyper::StatusCode;
use jiff::Timestamp;
use storm_shared::{
    models::{CallbackUrl, Failure, FailureReason},
    services::{
        report::Report,
        store::{Job, Outcome},
    },
};
use tracing::{debug, info};

use super::{callback_body::callback_body, callback_worker::CallbackWorker};
use crate::delivery::{AttemptError, CallbackClient, Message};

/// One attempt to call back; a test may stand in for the network.
pub trait Attempt: Send + Sync {
    /// POSTs `message`; a 2xx is success, everything else an error that says whether to try again.
    fn attempt<'a>(
        &'a self,
        url: &'a CallbackUrl,
        message: &'a Message,
    ) -> BoxFuture<'a, Result<StatusCode, AttemptError>>;
}

impl Attempt for CallbackClient {
    fn attempt<'a>(
        &'a self,
        url: &'a CallbackUrl,
        message: &'a Message,
    ) -> BoxFuture<'a, Result<StatusCode, AttemptError>> {
        Box::pin(CallbackClient::attempt(self, url, message))
    }
}

/// What follows from an attempt, and how many the job has had by then.
pub(super) enum Delivery {
    /// The job is over.
    Over(u32, Outcome),
    /// It failed with that error, and the next one is due then.
    Again(u32, &'static str, Timestamp),
}

impl CallbackWorker {
    /// Calls back once, where there is somebody to call.
    pub(super) async fn deliver(&self, job: &Job, report: &Report) -> Delivery {
        let Some(target) = &job.callback_target else {
            return Delivery::Over(job.attempts, Outcome::Completed); // the client polls
        };
        let url = match CallbackUrl::from_target(target) {
            Ok(url) => url,
            Err(error) => {
                let detail = format!("The callback's URL {error}.");
                let failure = Failure::new(FailureReason::InvalidRow, detail);
                return Delivery::Over(job.attempts, Outcome::Failed(failure));
            }
        };
        let message = Message {
            id: job.claim.id,
            body: callback_body(job.claim.id, &job.spec, report),
            traceparent: None,
        };
        self.lease.in_force_for(job.claim.owner).await;
        let answer = self.client.attempt(&url, &message).await;
        let attempts = job.attempts + 1;
        self.metrics
            .attempted(answer.as_ref().err().map(AttemptError::name));
        let Err(error) = answer else {
            return Delivery::Over(attempts, Outcome::Completed);
        };
        let id = job.claim.id;
        let next = self.retry_delays.get(job.attempts as usize);
        let Some(&delay) = next.filter(|_| !error.is_final()) else {
            info!(%id, attempts, %error, "the last callback attempt failed");
            return Delivery::Over(attempts, Outcome::Failed(undelivered(attempts, &error)));
        };
        debug!(%id, attempts, %error, ?delay, "a callback attempt failed");
        Delivery::Again(attempts, error.name(), Timestamp::now() + delay)
    }
}

/// What the caller may know: a refusal's class, but not which address a name led to.
fn undelivered(attempts: u32, last: &AttemptError) -> Failure {
    match last {
        AttemptError::Refused(refusal) => {
            let class = refusal.class();
            let detail = format!("The callback's address is refused as {class}; nothing was sent.");
            Failure::new(FailureReason::CallbackRefused, detail)
        }
        error => {
            let detail = format!(
                "No attempt of {attempts} succeeded; the last: {}.",
                error.told()
            );
            Failure::new(FailureReason::CallbackFailed, detail)
        }
    }
}
