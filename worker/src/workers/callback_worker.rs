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
    models::{Failure, FailureReason},
    services::{
        report::{self, Report},
        store::{
            self, Candidate, Claim, InvalidJob, Job, Outcome, Settlement, Store, StoreError, Work,
        },
    },
};
use tokio::time::Instant;
use tracing::{debug, error, warn};

use super::{
    deliver::Deliverer,
    drain::Drain,
    in_hand::{Held, InHand},
    lease::{Lease, Term},
    next_due::NextDue,
    parts::Parts,
    repeat::{GivenUp, until_claimed, until_written},
    shares::{LongRoom, Share, Shares},
    slots::Slot,
    waits,
};
use crate::{
    delivery::Transport,
    metrics::{ClaimSource, Metrics},
};

/// The result of a report that takes longer than this is committed before its first callback. For a
/// quicker one, that write costs more than making the report again after a crash.
const LONG: Duration = Duration::from_secs(1);

/// How far a claim came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Progress {
    /// The candidates named to the store: not those that another call claims, or that still run.
    pub(super) tried: usize,
    /// The candidates that are dealt with, from the first on. For the others there was no room.
    pub(super) passed: usize,
}

/// What a job takes of its worker until it is settled.
struct Hold {
    /// Its input and its stored result.
    memory: Reservation,
    share: Option<Share>,
    slot: Slot,
    held: Held,
}

/// Processes the jobs that it claims, each in a task of its own.
pub(super) struct CallbackWorker {
    store: Store,
    lease: Arc<Lease>,
    shares: Shares,
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
            store: parts.store,
            lease: parts.lease,
            shares: parts.shares,
            next_due: parts.next_due,
            drain: parts.drain,
            drain_timeout: settings.drain_timeout,
            in_hand: parts.in_hand,
            has_warned_of_long_work: AtomicBool::new(false),
            metrics: parts.metrics,
        }
    }

    /// Claims `candidates` in one transaction and starts those that it won. `slots` has
    /// `slots_per_job` for each of them. Long jobs take their place in `long`. Leaves out those
    /// that another call claims, or that still run: the next search finds them, if need be. Stops
    /// where `memory` is used up, which one job may exceed.
    ///
    /// # Errors
    /// The store failed, and nothing was claimed: the jobs stay `PENDING`.
    pub(super) async fn claim(
        self: &Arc<Self>,
        candidates: &[Candidate],
        mut slots: Slot,
        slots_per_job: u32,
        mut memory: Reservation,
        long: &mut LongRoom,
        source: ClaimSource,
    ) -> Result<Progress, StoreError> {
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
        let held = taken.keep(claimed.iter().map(claim_of));
        // Slots of candidates whose claim lost are freed with `slots`, on return.
        for (job, held) in claimed.into_iter().zip(held) {
            #[expect(
                clippy::expect_used,
                reason = "the caller took slots for each candidate"
            )]
            let slot = slots
                .split(slots_per_job as usize)
                .expect("slots for each candidate");
            // Before the next search, which goes by what is held.
            let share = job.as_ref().ok().map(|job| self.shares.hold(job, long));
            let taken = Hold {
                memory: memory.split(job.as_ref().map_or(0, |job| job.bytes)),
                share,
                slot,
                held,
            };
            let processing = Arc::clone(self).process(job, taken, term.clone());
            self.drain.spawn(processing);
        }
        Ok(progress)
    }

    /// Sees one claimed job through, unless its claim ends first.
    async fn process(
        self: Arc<Self>,
        claimed: Result<Job, InvalidJob>,
        mut taken: Hold,
        term: Term,
    ) {
        let _running = self.metrics.job_started();
        let claim = claim_of(&claimed);
        let line = async {
            match claimed {
                Ok(job) => self.run_deliver_settle(&job, &mut taken.share).await,
                Err(InvalidJob { failure, .. }) => {
                    self.settle(claim, false, None, failed(failure)).await
                }
            }
        };
        let id = claim.id;
        let settled = tokio::select! {
            // Polled in this order: a job whose lease is lost must not take another step, such as
            // its attempt.
            biased;
            // One write returns all unfinished jobs to the table: `Lease::deregister`.
            () = self.drain.over() => Ok(()),
            () = term.lost.cancelled() => Err(StoreError::LeaseLost),
            () = taken.held.cancelled() => {
                debug!(%id, "job stopped: it was cancelled");
                Ok(())
            }
            settled = line => settled,
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
        let Hold {
            memory,
            share,
            slot,
            held,
        } = taken;
        drop((memory, share, slot, held));
    }

    async fn run_deliver_settle(
        &self,
        job: &Job,
        share: &mut Option<Share>,
    ) -> Result<(), StoreError> {
        let is_long = store::is_long(&job.spec);
        let line = async {
            let report = self.run(job).await?;
            if let Some(share) = share {
                share.work_is_done();
            }
            let settlement = self.deliverer.deliver(job, &report).await;
            let time_to_callback = waits::until_callback(job, &settlement);
            self.settle(job.claim, is_long, Some(&report), settlement)
                .await?;
            if let Some(time) = time_to_callback {
                self.metrics.delivered(time);
            }
            Ok(())
        };
        // A panic fails its own job only.
        // Unwind-safe: the locks that jobs share are taken even if they are poisoned.
        let caught = AssertUnwindSafe(line).catch_unwind().await;
        let Ok(settled) = caught else {
            error!(id = %job.claim.id, "the job panicked");
            let settlement = failed(panicked());
            return self.settle(job.claim, is_long, None, settlement).await;
        };
        settled
    }

    /// The report: as an earlier claim stored it, or made now. The result of long work is committed
    /// before its first callback, so that no crash makes it run again.
    async fn run(&self, job: &Job) -> Result<Report, StoreError> {
        if let Some(report) = &job.report {
            return Ok(report.clone());
        }
        self.note_long_work(job);
        let began = Instant::now();
        let report = report::generate(&job.spec).await;
        self.metrics.ran(began.elapsed());
        if job.spec.ideal_duration() > LONG {
            let write = || self.store.store_result(job.claim, &report);
            let written = until_written(job.claim.id, write).await;
            written.map_err(|given_up| given_up.error)?;
        }
        Ok(report)
    }

    /// Tells the operator that no drain can finish this work: with a restart more often than the
    /// work takes, it would never end.
    fn note_long_work(&self, job: &Job) {
        let work = job.spec.ideal_duration();
        if work <= self.drain_timeout {
            return;
        }
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
        is_long: bool,
        report: Option<&Report>,
        settlement: Settlement,
    ) -> Result<(), StoreError> {
        let write = || self.store.settle(claim, report, settlement.clone());
        let written = until_written(claim.id, write).await;
        written.or_else(|given_up| unless_settled(&settlement, given_up))?;
        match settlement {
            Settlement::Finish { outcome, .. } => {
                self.metrics.ended(&outcome);
                if claim.work == Work::Job {
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
                self.next_due.lower_to(Instant::now() + wait);
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
