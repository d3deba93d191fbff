//! The job pipeline: claim, run, deliver, settle.

use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt;
use storm_shared::{
    config::Settings,
    memory::Reservation,
    models::{Failure, FailureReason, Traceparent},
    services::store::{
        self, AttemptRecord, Candidate, Claim, InvalidJob, Job, Outcome, Settlement, Store,
        StoreError, WorkResult, Worked,
    },
    traces::Moment,
};
use tokio::time::Instant;
use tracing::{debug, error, warn};

use super::{
    deliver::Deliverer,
    drain::Drain,
    in_hand::{Held, InHand, Stop},
    lease::Lease,
    next_due::NextDue,
    parts::Parts,
    repeat::{GivenUp, until_claimed, until_written},
    shares::{LongRoom, Share},
    slots::Slot,
    spans, waits,
    work::{Admitted, Ran, Work},
};
use crate::{
    delivery::Transport,
    metrics::{ClaimSource, Metrics},
};

/// The result of work that takes longer than this is committed before its first callback. For a
/// quicker report, that write costs more than making the report again after a crash.
const LONG: Duration = Duration::from_secs(1);

/// How far a claim came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Progress {
    /// The candidates named to the store: not those that another call claims, or that still run.
    pub(super) tried: usize,
    /// The candidates that are dealt with, from the first on. For the others there was no room.
    pub(super) passed: usize,
}

/// How a loop claims jobs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    /// The slots that each job takes.
    pub(super) slots_per_job: u32,
    /// Whether the jobs have been due for too long, and pass an open circuit breaker.
    pub(super) are_overdue: bool,
    pub(super) source: ClaimSource,
}

/// What a job takes of its worker until it is settled.
struct Hold {
    line: InLine,
    _slot: Slot,
    held: Held,
}

/// The part of it that changes on the way.
struct InLine {
    /// For its input and its result.
    memory: Reservation,
    /// What its result was reserved by while it came.
    result_memory: Option<Arc<Reservation>>,
    /// `None` if its row is invalid.
    share: Option<Share>,
    is_overdue: bool,
}

/// Processes the jobs that it claims, each in a task of its own.
pub(super) struct CallbackWorker {
    store: Store,
    lease: Arc<Lease>,
    work: Work,
    deliverer: Deliverer,
    next_due: NextDue,
    drain: Drain,
    drain_timeout: Duration,
    /// Shared with the heartbeat.
    in_hand: InHand,
    has_warned_of_long_work: AtomicBool,
    metrics: Metrics,
}

impl CallbackWorker {
    pub(super) fn new(parts: Parts, transport: Arc<dyn Transport>, settings: &Settings) -> Self {
        Self {
            deliverer: Deliverer::new(transport, &parts, &settings.callback),
            work: Work::new(
                parts.handlers.clone(),
                Arc::clone(&parts.lease),
                settings.callback.park_max,
                parts.metrics.clone(),
            ),
            store: parts.store,
            lease: parts.lease,
            next_due: parts.next_due,
            drain: parts.drain,
            drain_timeout: settings.worker.drain_timeout,
            in_hand: parts.in_hand,
            has_warned_of_long_work: AtomicBool::new(false),
            metrics: parts.metrics,
        }
    }

    /// Claims `candidates` in one transaction and starts those that it won. `slots` has as many for
    /// each of them as `terms` says. Long jobs take their place in `long`. Leaves out those that
    /// another call claims, or that still run: the next search finds them, if need be. Stops where
    /// `memory` is used up, which one job may exceed.
    ///
    /// # Errors
    /// The store failed, and nothing was claimed: the jobs stay `PENDING`.
    pub(super) async fn claim(
        self: &Arc<Self>,
        candidates: &[Candidate],
        mut slots: Slot,
        mut memory: Reservation,
        long: &mut LongRoom,
        terms: Terms,
    ) -> Result<Progress, StoreError> {
        let source = terms.source;
        let all = |tried| Progress {
            tried,
            passed: candidates.len(),
        };
        // With an old heartbeat, another worker could reclaim these jobs while their first attempt
        // runs.
        let Some(term) = self.drain.until_shutdown(self.lease.in_force()).await else {
            return Ok(all(0));
        };
        let taken = self.in_hand.take(candidates);
        let tried = taken.candidates().len();
        if tried == 0 {
            self.metrics.claimed(source, candidates.len(), 0);
            return Ok(all(0));
        }
        let began = Moment::now();
        let (owner, room) = (term.owner, memory.bytes());
        let named = || taken.candidates().to_vec();
        let claim = until_claimed(self.store.claim(owner, named(), room), || {
            self.store.claim_again(owner, named(), room)
        });
        let claimed = tokio::select! {
            biased;
            claimed = claim => claimed?,
            // What it may have claimed is released with the lease.
            () = self.drain.over() => return Ok(all(tried)),
        };
        let progress = match claimed.left.first() {
            None => all(tried),
            Some(left) => Progress {
                tried: tried - claimed.left.len(),
                // The first one of its kind: of repeated candidates, only that is named.
                passed: candidates
                    .iter()
                    .position(|it| it == left)
                    .unwrap_or(candidates.len()),
            },
        };
        let is_paused = claimed.is_paused;
        let claimed = claimed.jobs;
        // A notification that a pause has held back is not late.
        let named = if is_paused {
            claimed.len()
        } else {
            progress.passed
        };
        self.metrics.claimed(source, named, claimed.len());
        for wait in waits::for_first_claim(&claimed) {
            self.metrics.waited(wait);
        }
        let ended = || {
            let is_over = self.drain.is_over().then_some(Stop::Over);
            is_over.or(term.lost.is_cancelled().then_some(Stop::LeaseLost))
        };
        let held = taken.keep(claimed.iter().map(claim_of), ended);
        // Slots of candidates whose claim lost are freed with `slots`, on return.
        for (mut job, held) in claimed.into_iter().zip(held) {
            if let Ok(job) = &mut job {
                spans::claimed(job, began, source);
            }
            #[expect(
                clippy::expect_used,
                reason = "the caller took slots for each candidate"
            )]
            let slot = slots
                .split(terms.slots_per_job as usize)
                .expect("slots for each candidate");
            // Before the next search, which goes by what is held.
            let share = job.as_ref().ok().map(|job| long.hold(job));
            let line = InLine {
                memory: memory.split(job.as_ref().map_or(0, |job| job.bytes)),
                result_memory: None,
                share,
                is_overdue: terms.are_overdue,
            };
            let taken = Hold {
                line,
                _slot: slot,
                held,
            };
            let processing = Arc::clone(self).process(job, taken);
            // Boxed: the runtime moves a task's future several times, and this one has kilobytes.
            self.drain.spawn(Box::pin(processing));
        }
        Ok(progress)
    }

    /// Sees one claimed job through, unless its claim ends first.
    #[expect(
        clippy::manual_async_fn,
        reason = "an `async fn` has room for its arguments twice: for some hundred bytes of each job"
    )]
    fn process(
        self: Arc<Self>,
        mut claimed: Result<Job, InvalidJob>,
        mut taken: Hold,
    ) -> impl Future<Output = ()> + Send {
        async move {
            let _running = self.metrics.job_started();
            let id = claim_of(&claimed).id;
            let settled = tokio::select! {
                // Polled in this order: a job whose lease is lost must not take another step, such
                // as its attempt.
                biased;
                why = taken.held.stopped() => match why {
                    // One write returns all unfinished jobs to the table: `Lease::deregister`.
                    Stop::Over => Ok(()),
                    Stop::LeaseLost => Err(StoreError::LeaseLost),
                    Stop::Cancelled => {
                        debug!(%id, "job stopped: it was cancelled");
                        Ok(())
                    }
                },
                // In place, and the job by reference: what is moved takes its room twice, for each
                // job.
                settled = self.see_through(&mut claimed, &mut taken.line) => settled,
            };
            match settled {
                Ok(()) => {}
                // At debug level: the lease has logged its loss, once for all of its jobs.
                Err(StoreError::LeaseLost) => {
                    self.metrics.lost_claim();
                    debug!(%id, "job lost with the lease");
                }
                Err(StoreError::ClaimLost) => {
                    self.metrics.lost_claim();
                    warn!(%id, "job lost: another worker has it, or it was cancelled");
                }
                // Only a closed store ends a write otherwise. The row stays `PROCESSING` until the
                // lease expires.
                Err(error) => error!(%id, %error, "the job's outcome could not be stored"),
            }
            // Only now: a poison suspect keeps its slots, and so its isolation, until its row is
            // settled; and a repeated claim must not take a job that still runs for its own.
            drop(taken);
        }
    }

    async fn see_through(
        &self,
        claimed: &mut Result<Job, InvalidJob>,
        taken: &mut InLine,
    ) -> Result<(), StoreError> {
        let claim = claim_of(claimed);
        let is_long = claimed.as_ref().is_ok_and(|job| job.is_long);
        let trace = claimed.as_ref().ok().map(|job| job.traceparent);
        let failure = match claimed {
            // A panic fails its own job only.
            // Unwind-safe: the locks that jobs share are taken even if they are poisoned.
            Ok(job) => match AssertUnwindSafe(self.run_deliver_settle(job, taken))
                .catch_unwind()
                .await
            {
                Ok(settled) => return settled,
                Err(_panic) => {
                    error!(id = %claim.id, "the job panicked");
                    panicked()
                }
            },
            Err(invalid) => invalid.failure.clone(),
        };
        let settlement = failed(failure);
        self.settle(claim, trace, is_long, None, settlement, &self.next_due)
            .await
    }

    async fn run_deliver_settle(
        &self,
        job: &mut Job,
        taken: &mut InLine,
    ) -> Result<(), StoreError> {
        let (result, settlement, next_due) = match self.run(job, taken).await? {
            // A search for work of its handler finds it next.
            Err(settlement) => {
                let next_due = taken.share.as_ref().map(Share::next_due);
                (None, settlement, next_due.unwrap_or(&self.next_due))
            }
            Ok((worked, attempt)) => {
                if let Some(share) = &mut taken.share {
                    share.work_is_done();
                }
                let settlement = self.deliverer.deliver(job, &worked, attempt).await;
                (worked.ok(), settlement, &self.next_due)
            }
        };
        let time_to_callback = waits::until_callback(job, &settlement);
        let (claim, trace) = (job.claim, Some(job.traceparent));
        self.settle(claim, trace, job.is_long, result, settlement, next_due)
            .await?;
        if let Some(time) = time_to_callback {
            self.metrics.delivered(time);
        }
        Ok(())
    }

    /// The work: what came of it, as an earlier claim stored it or by an attempt now, and the
    /// attempt that is still to be recorded; or the end of the claim, if the work is not over.
    ///
    /// What came of it is committed before the first callback, so that no crash makes it run again.
    /// Only the result of quick deterministic work is left to the settlement, and so is that of a
    /// job without a callback.
    async fn run(
        &self,
        job: &mut Job,
        taken: &mut InLine,
    ) -> Result<Result<(Worked, Option<AttemptRecord>), Settlement>, StoreError> {
        if let Some(worked) = job.worked.take() {
            return Ok(Ok((worked, None)));
        }
        let expected = self.work.expected(job);
        self.note_long_work(job, expected);
        let share = taken.share.as_ref();
        let admitted = Admitted {
            is_overdue: taken.is_overdue,
            has_room: share.is_some_and(Share::has_room_of_handler),
        };
        let (worked, attempt, memory) = match self.work.attempt(job, admitted).await {
            Ran::Worked {
                worked,
                attempt,
                memory,
            } => (worked, attempt, memory),
            Ran::Settle(settlement) => return Ok(Err(settlement)),
        };
        // A result that is in memory already: that of code.
        let bytes = worked.as_ref().map_or(0, |result| result.as_str().len());
        let reserved = memory.as_ref().map_or(0, |memory| memory.bytes());
        taken.memory.grow(bytes.saturating_sub(reserved));
        taken.result_memory = memory;
        let is_left = match &attempt {
            Some(_) => job.callback.is_none(),
            None => expected.is_none_or(|expected| expected <= LONG),
        };
        if is_left {
            return Ok(Ok((worked, attempt)));
        }
        let number = attempt.as_ref().map(|attempt| attempt.number);
        let write = || {
            self.store
                .store_worked(job.claim, worked.clone(), attempt.clone())
        };
        let written = until_written(job.claim.id, write).await;
        written.map_err(|given_up| given_up.error)?;
        // The attempts at the callback are counted from here on.
        job.attempts = number.unwrap_or(job.attempts);
        job.attempts_before = number.unwrap_or(job.attempts_before);
        Ok(Ok((worked, None)))
    }

    /// Tells the operator that no drain can finish this work: with a restart more often than the
    /// work takes, it would never end.
    fn note_long_work(&self, job: &Job, expected: Option<Duration>) {
        let Some(work) = expected.filter(|work| *work > self.drain_timeout) else {
            return;
        };
        self.metrics.work_longer_than_drain();
        // Relaxed: the flag orders nothing else.
        if !self.has_warned_of_long_work.swap(true, Ordering::Relaxed) {
            warn!(
                id = %job.claim.id,
                ?work,
                drain_timeout = ?self.drain_timeout,
                "a job takes longer than DRAIN_TIMEOUT, so each restart starts it anew; raise \
                 DRAIN_TIMEOUT, or restart less often (this is said once; metrics count such jobs)"
            );
        }
    }

    /// Writes how the claim ended. Every write carries the claim number as fencing token. It is
    /// repeated as long as that can help: if it were given up, a delivered job would be delivered
    /// again. The drain deadline ends it too.
    async fn settle(
        &self,
        claim: Claim,
        trace: Option<Traceparent>,
        is_long: bool,
        result: Option<WorkResult>,
        settlement: Settlement,
        next_due: &NextDue,
    ) -> Result<(), StoreError> {
        let span = spans::settling(trace, claim.id, &settlement);
        let write = || self.store.settle(claim, result.clone(), settlement.clone());
        let written = until_written(claim.id, write).await;
        let written = written.or_else(|given_up| unless_settled(&settlement, given_up));
        spans::settled(span, &written);
        written?;
        match settlement {
            Settlement::Finish { outcome, .. } => {
                self.metrics.ended(&outcome);
                if claim.work == store::Work::Job {
                    self.lease.job_ended(is_long);
                }
                // The target is a name that a LOG filter can select: one line for each job.
                let (id, outcome) = (claim.id, outcome.as_str());
                debug!(target: "storm_worker::jobs", %id, outcome, "job ended");
            }
            // After the commit: a search before it would reset this time and not find the row.
            Settlement::Retry { wait, .. }
            | Settlement::Park { wait }
            | Settlement::ParkPaused { wait } => {
                next_due.lower_to(Instant::now() + wait);
            }
            Settlement::GiveBack => {}
        }
        Ok(())
    }
}

fn claim_of(claimed: &Result<Job, InvalidJob>) -> Claim {
    match claimed {
        Ok(job) => job.claim,
        Err(invalid) => invalid.claim,
    }
}

/// The error of a settlement, unless an earlier try may be the cause.
///
/// A park and a release leave no record by which the store could recognise a repeat. So if the
/// outcome of an earlier try was unknown, the claim has ended either by it or with the lease, and
/// in both cases the job is no longer this worker's.
fn unless_settled(settlement: &Settlement, given_up: GivenUp) -> Result<(), StoreError> {
    match (settlement, given_up) {
        (
            Settlement::Park { .. } | Settlement::ParkPaused { .. } | Settlement::GiveBack,
            GivenUp {
                error: StoreError::ClaimLost,
                may_be_committed: true,
            },
        ) => Ok(()),
        (_, GivenUp { error, .. }) => Err(error),
    }
}

/// The end of a job without an attempt.
fn failed(failure: Failure) -> Settlement {
    Settlement::Finish {
        attempt: None,
        outcome: Outcome::Failed(failure),
    }
}

fn panicked() -> Failure {
    let detail = "The service failed, not the job. The worker's log has the details.";
    Failure::new(FailureReason::InternalError, detail)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use storm_shared::services::store::{Outcome, Settlement, StoreError};

    use super::{GivenUp, unless_settled};

    #[test]
    fn after_an_unknown_outcome_a_park_or_release_that_lost_its_claim_drops_the_job_quietly() {
        let wait = Duration::from_secs(1);
        let finish = Settlement::Finish {
            attempt: None,
            outcome: Outcome::Completed,
        };
        for (settlement, is_ambiguous) in [
            (Settlement::Park { wait }, true),
            (Settlement::ParkPaused { wait }, true),
            (Settlement::GiveBack, true),
            // The store recognises its repeat: this claim was lost.
            (finish, false),
        ] {
            for may_be_committed in [true, false] {
                let given_up = |error| GivenUp {
                    error,
                    may_be_committed,
                };
                let lost = unless_settled(&settlement, given_up(StoreError::ClaimLost));
                assert_eq!(lost.is_ok(), is_ambiguous && may_be_committed);
                let closed = unless_settled(&settlement, given_up(StoreError::Closed));
                assert!(matches!(closed, Err(StoreError::Closed)));
            }
        }
    }
}
