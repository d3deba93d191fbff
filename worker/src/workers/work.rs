//! One attempt at the work of a job, by its handler, and what follows from it.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt;
use jiff::Timestamp;
use storm_shared::{
    memory::Reservation,
    models::{self, AttemptClass, Stage},
    services::store::{self, AttemptRecord, Outcome, Settlement, WorkResult, Worked},
};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::{lease::Lease, shortages::Shortages, spans};
use crate::{
    breaker::Signal,
    handler::{Context, Failure, Next, Output},
    handlers::{Handlers, Served},
    metrics::Metrics,
    schedule::Schedule,
};

/// Makes attempts at the work of jobs.
pub(super) struct Work {
    handlers: Handlers,
    lease: Arc<Lease>,
    shortages: Shortages,
    /// How long a job may be parked before it passes an open circuit breaker.
    park_max: Duration,
    metrics: Metrics,
}

/// How a job has come to its attempt.
#[derive(Clone, Copy, Debug)]
pub(super) struct Admitted {
    /// Whether it passes an open circuit breaker.
    pub(super) is_overdue: bool,
    /// Whether it has room at its handler. A suspected poison job is claimed without.
    pub(super) has_room: bool,
}

/// What came of an attempt.
pub(super) enum Ran {
    /// The work is over: the callback follows.
    Worked {
        worked: Worked,
        /// The record of the attempt, if there is one.
        attempt: Option<AttemptRecord>,
        /// What its bytes hold of the memory budget already.
        memory: Option<Arc<Reservation>>,
    },
    /// The claim ends.
    Settle(Settlement),
}

impl Work {
    pub(super) fn new(
        handlers: Handlers,
        lease: Arc<Lease>,
        park_max: Duration,
        metrics: Metrics,
    ) -> Self {
        Self {
            handlers,
            lease,
            park_max,
            shortages: Shortages::new(metrics.clone()),
            metrics,
        }
    }

    /// How long the work of `job` should take, if it is to be done and that is known.
    pub(super) fn expected(&self, job: &store::Job) -> Option<Duration> {
        let served = self.handlers.get(&job.handler)?;
        let is_to_be_done = job.worked.is_none();
        is_to_be_done.then(|| served.work.expected(job)).flatten()
    }

    /// Makes one attempt. A job without room at its handler waits for it.
    pub(super) async fn attempt(&self, job: &store::Job, admitted: Admitted) -> Ran {
        match self.handlers.get(&job.handler) {
            Some(served) if served.work.is_deterministic() => self.compute(&served, job).await,
            Some(served) => self.try_once(&served, job, admitted).await,
            // SIGHUP has removed the handler since the claim, or the notification was wrong.
            // Another worker may take it at once. This one does not look for it again.
            None => Ran::Settle(Settlement::GiveBack),
        }
    }

    /// Does work that can't fail, and needs no record.
    async fn compute(&self, served: &Served, job: &store::Job) -> Ran {
        let began = Instant::now();
        let span = spans::run(job, 1);
        let context = Context {
            attempt: 1,
            deadline: began + served.limits().timeout,
            traceparent: span.passed_on_from(job.traceparent),
            over: CancellationToken::new(),
        };
        let ran = served.work.run(job, &context).await;
        spans::ran(span, &ran);
        match ran {
            Ok(output) => {
                self.metrics.ran(began.elapsed());
                worked(output, None)
            }
            Err(failure) => Ran::Settle(Settlement::Finish {
                attempt: None,
                outcome: Outcome::Failed(models::Failure::new(failure.reason, failure.detail)),
            }),
        }
    }

    async fn try_once(&self, served: &Served, job: &store::Job, admitted: Admitted) -> Ran {
        // First: it can take as long as an attempt. The queue is fair, so no stream of new jobs
        // holds it up.
        let _room = if admitted.has_room {
            None
        } else {
            Some(served.room.take().await)
        };
        // As before a callback: with an old heartbeat, another worker might expire the lease during
        // the attempt and have the work done a second time.
        if !self.lease.in_force_for(job.claim.owner).await {
            return Ran::Settle(Settlement::GiveBack);
        }
        // A suspected poison job is found apart from the others, also soon after it was parked.
        let is_overdue = admitted.is_overdue || job.parked_for >= self.park_max;
        let passed = match served.gate.begin(is_overdue) {
            Ok(passed) => passed,
            Err(wait) => return Ran::Settle(Settlement::Park { wait }),
        };
        let limits = served.limits();
        // The wall clock dates the attempt, and the monotonic clock measures it.
        let (started_at, began) = (Timestamp::now(), Instant::now());
        let over = CancellationToken::new();
        let _over = over.clone().drop_guard();
        let number = job.attempts.saturating_add(1);
        let span = spans::run(job, number);
        let context = Context {
            attempt: number,
            deadline: began + limits.timeout,
            traceparent: span.passed_on_from(job.traceparent),
            over,
        };
        // A panic fails its own job only.
        // Unwind-safe: nothing of the future is used after it.
        let run = AssertUnwindSafe(served.work.run(job, &context)).catch_unwind();
        let ran = if served.work.keeps_its_deadline() {
            Ok(run.await)
        } else {
            timeout_at(context.deadline, run).await
        };
        let (result, signal) = match ran {
            Ok(Ok(result)) => {
                let signal = signal(&result);
                (result.and_then(|output| limits.check(output)), signal)
            }
            Ok(Err(_panic)) => {
                error!(id = %job.claim.id, handler = %served.name, "the handler panicked");
                let failure = Failure::last("the handler failed with an error of its own");
                // Final for this job. But a handler that panics on each of its jobs is broken, and
                // all that wait would fail one after the other.
                (Err(failure), Signal::Failure)
            }
            Err(_elapsed) => {
                let detail = format!("no result within {:?}", limits.timeout);
                (Err(Failure::timed_out(detail)), Signal::Failure)
            }
        };
        spans::ran(span, &result);
        if let Some(is_open) = passed.record(signal) {
            if is_open {
                warn!(handler = %served.name, "circuit breaker open: the handler fails");
            } else {
                info!(handler = %served.name, "circuit breaker closed");
            }
        }
        if let Err(Failure {
            next: Next::Shortage(shortage),
            ..
        }) = result
        {
            let wait = self.shortages.met(shortage, job.parked_for);
            return Ran::Settle(Settlement::Park { wait });
        }
        self.shortages.passed();
        let attempt = record(context.attempt, started_at, began.elapsed(), &result);
        self.metrics.worked(&served.name, attempt.class);
        match result {
            Ok(output) => {
                self.metrics.ran(began.elapsed());
                worked(output, Some(attempt))
            }
            Err(failure) => after_failure(&limits.schedule, job, attempt, &failure),
        }
    }
}

/// A retry if there is one left, or else the end of the work.
fn after_failure(
    schedule: &Schedule,
    job: &store::Job,
    attempt: AttemptRecord,
    failure: &Failure,
) -> Ran {
    let (id, trace, number) = (job.claim.id, job.traceparent.trace_id(), attempt.number);
    let detail = &failure.detail;
    let wait = match failure.next {
        Next::Retry { after } => schedule.wait(number, after),
        Next::End | Next::Shortage(_) => None,
    };
    if let Some(wait) = wait {
        debug!(%id, trace, attempt = number, error = detail, ?wait, "attempt at the work failed");
        return Ran::Settle(Settlement::Retry { attempt, wait });
    }
    info!(%id, trace, attempts = number, error = detail, "work failed: no retry is left");
    let detail = match failure.next {
        Next::Retry { .. } => format!("All {number} attempts failed; the last: {detail}."),
        Next::End | Next::Shortage(_) => format!("The work failed: {detail}."),
    };
    Ran::Worked {
        worked: Err(models::Failure::new(failure.reason, detail)),
        attempt: Some(attempt),
        memory: None,
    }
}

fn worked(output: Output, attempt: Option<AttemptRecord>) -> Ran {
    let (json, memory) = output.into_parts();
    Ran::Worked {
        worked: Ok(WorkResult::from_json(json)),
        attempt,
        memory,
    }
}

/// What an attempt says about its handler.
fn signal(result: &Result<Output, Failure>) -> Signal {
    match result {
        // It answers. A final failure concerns the one job.
        Ok(_)
        | Err(Failure {
            next: Next::End, ..
        }) => Signal::Success,
        Err(Failure {
            next: Next::Retry { .. },
            ..
        }) => Signal::Failure,
        Err(Failure {
            next: Next::Shortage(_),
            ..
        }) => Signal::Ignored,
    }
}

fn record(
    number: u32,
    started_at: Timestamp,
    duration: Duration,
    result: &Result<Output, Failure>,
) -> AttemptRecord {
    let failure = result.as_ref().err();
    let status = match result {
        Ok(output) => output.status(),
        Err(failure) => failure.status,
    };
    AttemptRecord {
        number,
        stage: Stage::Work,
        started_at,
        duration,
        class: failure.map_or(AttemptClass::Success, |failure| failure.class),
        status,
        error: failure.map(|failure| failure.detail.clone()),
        internal_detail: failure.map(|failure| {
            let internal = failure.internal_detail.as_ref();
            internal.unwrap_or(&failure.detail).clone()
        }),
    }
}
