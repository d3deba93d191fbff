//! The job pipeline: claim, run, deliver, settle.

use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use backon::{ExponentialBuilder, Retryable};
use futures_util::FutureExt;
use storm_shared::{
    config::Settings,
    models::{Failure, FailureReason},
    services::{
        report::{self, Report},
        store::{Candidate, Claim, InvalidJob, Job, Outcome, Settlement, Store, StoreError},
    },
};
use tokio::time::Instant;
use tracing::{debug, error, warn};

use super::{
    deliver::Deliverer,
    drain::Drain,
    lease::{Lease, Term},
    next_due::NextDue,
    parts::Parts,
    shares::{Held, LongRoom, Shares},
    slots::Slot,
};
use crate::{
    delivery::Transport,
    metrics::{ClaimSource, Metrics},
};

/// The result of a report that takes longer than this is committed before its first callback. For a
/// quicker one, that write costs more than making the report again after a crash.
const LONG: Duration = Duration::from_secs(1);

/// Processes the jobs that it claims, each in a task of its own.
pub(super) struct CallbackWorker {
    store: Store,
    lease: Arc<Lease>,
    shares: Shares,
    deliverer: Deliverer,
    next_due: NextDue,
    drain: Drain,
    drain_timeout: Duration,
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
            has_warned_of_long_work: AtomicBool::new(false),
            metrics: parts.metrics,
        }
    }

    /// Claims `candidates` in one transaction and starts those that it won. `slots` has
    /// `slots_per_job` for each of them. Long jobs take their place in `long`.
    ///
    /// # Errors
    /// The store failed, and nothing was claimed: the jobs stay `PENDING`.
    pub(super) async fn claim(
        self: &Arc<Self>,
        candidates: &[Candidate],
        mut slots: Slot,
        slots_per_job: u32,
        long: &mut LongRoom,
        source: ClaimSource,
    ) -> Result<(), StoreError> {
        // With an old heartbeat, another worker could reclaim these jobs while their first attempt
        // runs.
        let Some(term) = self.drain.until_shutdown(self.lease.in_force()).await else {
            return Ok(());
        };
        let claimed = self.store.claim(term.owner, candidates.to_vec()).await?;
        self.metrics.claimed(source, claimed.len());
        // Slots of candidates whose claim lost are freed with `slots`, on return.
        for job in claimed {
            #[expect(
                clippy::expect_used,
                reason = "the caller took slots for each candidate"
            )]
            let slot = slots
                .split(slots_per_job as usize)
                .expect("slots for each candidate");
            // Before the next search, which goes by what is held.
            let held = job.as_ref().ok().map(|job| self.shares.hold(job, long));
            let processing = Arc::clone(self).process(job, held, slot, term.clone());
            self.drain.spawn(processing);
        }
        Ok(())
    }

    /// Sees one claimed job through, unless its claim ends first.
    async fn process(
        self: Arc<Self>,
        claimed: Result<Job, InvalidJob>,
        mut held: Option<Held>,
        slot: Slot,
        term: Term,
    ) {
        let _running = self.metrics.job_started();
        let claim = match &claimed {
            Ok(job) => job.claim,
            Err(invalid) => invalid.claim,
        };
        let line = async {
            match claimed {
                Ok(job) => self.run_deliver_settle(&job, &mut held).await,
                Err(InvalidJob { failure, .. }) => self.settle(claim, None, failed(failure)).await,
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
                warn!(%id, "job lost to another worker");
            }
            // Only a closed store ends `persist` otherwise. The row stays `PROCESSING` until the
            // lease expires.
            Err(error) => error!(%id, %error, "the job's outcome could not be stored"),
        }
        // Only now: a poison suspect keeps its slots, and so its isolation, until its row is
        // settled.
        drop((held, slot));
    }

    async fn run_deliver_settle(
        &self,
        job: &Job,
        held: &mut Option<Held>,
    ) -> Result<(), StoreError> {
        let line = async {
            let report = self.run(job).await?;
            if let Some(held) = held {
                held.work_is_done();
            }
            let settlement = self.deliverer.deliver(job, &report).await;
            self.settle(job.claim, Some(&report), settlement).await
        };
        // A panic fails its own job only.
        // Unwind-safe: the locks that jobs share are taken even if they are poisoned.
        let caught = AssertUnwindSafe(line).catch_unwind().await;
        let Ok(settled) = caught else {
            error!(id = %job.claim.id, "the job panicked");
            return self.settle(job.claim, None, failed(panicked())).await;
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
        let report = report::generate(&job.spec).await;
        if job.spec.ideal_duration() > LONG {
            let write = || self.store.store_result(job.claim, &report);
            self.persist(job.claim, write).await?;
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

    /// Writes how the claim ended. Every write carries the claim number as fencing token.
    async fn settle(
        &self,
        claim: Claim,
        report: Option<&Report>,
        settlement: Settlement,
    ) -> Result<(), StoreError> {
        let write = || self.store.settle(claim, report, settlement.clone());
        self.persist(claim, write).await?;
        match settlement {
            Settlement::Finish { outcome, .. } => {
                self.metrics.ended(&outcome);
                // The target is a name that a LOG filter can select: one line for each job.
                let (id, outcome) = (claim.id, outcome.as_str());
                debug!(target: "storm_worker::jobs", %id, outcome, "job ended");
            }
            // After the commit: a search before it would reset this time and not find the row.
            Settlement::Retry { wait, .. } | Settlement::Park { wait } => {
                self.next_due.lower_to(Instant::now() + wait);
            }
            Settlement::GiveBack => {}
        }
        Ok(())
    }

    /// Repeats a write with exponential backoff until it succeeds or the claim is lost. If it
    /// were given up, a delivered job would be delivered again. The drain deadline ends it too.
    async fn persist<F>(&self, claim: Claim, write: impl Fn() -> F) -> Result<(), StoreError>
    where
        F: Future<Output = Result<(), StoreError>>,
    {
        let backoff = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(50))
            .with_max_delay(Duration::from_secs(2))
            .with_jitter()
            .without_max_times();
        write
            .retry(backoff)
            // A lost claim stays lost, and a closed store takes no more writes.
            .when(|error| !matches!(error, StoreError::ClaimLost | StoreError::Closed))
            .notify(|error, after| warn!(id = %claim.id, %error, ?after, "a write is retried"))
            .await
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
