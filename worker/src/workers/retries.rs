//! The delivery of one report: attempt after attempt, with waits between that hold no place.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use hyper::StatusCode;
use jiff::Timestamp;
use storm_shared::{
    models::{CallbackUrl, Failure, FailureReason},
    services::{
        report::Report,
        store::{Claim, Job, Outcome},
    },
};
use tokio::time::Instant;
use tracing::{debug, info};

use super::{
    callback_body::callback_body,
    callback_worker::{CallbackWorker, Left},
    slots::Slot,
};
use crate::delivery::{AttemptError, CallbackClient};

/// One attempt to call back; a test may stand in for the network.
pub trait Attempt: Send + Sync {
    /// POSTs `body`; a 2xx is success, everything else an error that says whether to try again.
    fn attempt<'a>(
        &'a self,
        url: &'a CallbackUrl,
        body: Bytes,
    ) -> BoxFuture<'a, Result<StatusCode, AttemptError>>;
}

impl Attempt for CallbackClient {
    fn attempt<'a>(
        &'a self,
        url: &'a CallbackUrl,
        body: Bytes,
    ) -> BoxFuture<'a, Result<StatusCode, AttemptError>> {
        Box::pin(CallbackClient::attempt(self, url, body))
    }
}

impl CallbackWorker {
    /// Calls back until an attempt succeeds, is refused for good, or was the last. Returns how many
    /// attempts the job has had, and how it ended.
    pub(super) async fn deliver(
        &self,
        job: &Job,
        report: &Report,
        mut slot: Slot,
    ) -> Result<(u32, Outcome), Left> {
        let Some(url) = &job.callback_url else {
            return Ok((job.attempts, Outcome::Completed)); // the client polls
        };
        let url = match CallbackUrl::parse(url) {
            Ok(url) => url,
            Err(error) => {
                let detail = format!("The callback's URL {error}.");
                let failure = Failure::new(FailureReason::InvalidRow, detail);
                return Ok((job.attempts, Outcome::Failed(failure)));
            }
        };
        let body = callback_body(job.claim.id, &job.spec, report);
        let mut attempts = job.attempts;
        if let Some(due) = job.next_attempt_at {
            let wait = Duration::try_from(due.duration_since(Timestamp::now()));
            slot = self
                .wait_until(Instant::now() + wait.unwrap_or_default(), slot)
                .await?;
        }
        loop {
            let answer = self.client.attempt(&url, body.clone()).await;
            attempts += 1;
            self.metrics
                .attempted(answer.as_ref().err().map(AttemptError::name));
            let Err(error) = answer else {
                return Ok((attempts, Outcome::Completed));
            };
            let id = job.claim.id;
            let next = self.retry_delays.get(attempts as usize - 1);
            let Some(&delay) = next.filter(|_| !error.is_final()) else {
                info!(%id, attempts, %error, "the last callback attempt failed");
                return Ok((attempts, Outcome::Failed(undelivered(attempts, &error))));
            };
            debug!(%id, attempts, %error, ?delay, "a callback attempt failed");
            slot = self
                .await_retry(job.claim, report, attempts, delay, slot)
                .await?;
        }
    }

    /// Stores that the job waits, and waits without holding a place.
    async fn await_retry(
        &self,
        claim: Claim,
        report: &Report,
        attempts: u32,
        delay: Duration,
        slot: Slot,
    ) -> Result<Slot, Left> {
        let due = Instant::now() + delay;
        let due_at = Timestamp::now() + delay;
        self.persist(claim, || {
            self.store().await_retry(claim, report, attempts, due_at)
        })
        .await?;
        self.wait_until(due, slot).await
    }

    async fn wait_until(&self, due: Instant, slot: Slot) -> Result<Slot, Left> {
        let _waiting = self.metrics.begin_waiting();
        let pause = tokio::time::sleep_until(due);
        match self.unless_told(self.slots.step_aside(slot, pause)).await {
            Some(Ok(slot)) => Ok(slot),
            _ => Err(Left::Told),
        }
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
