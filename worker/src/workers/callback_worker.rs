//! The line of one job: claim, run, deliver, finalise.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use backon::{ExponentialBuilder, Retryable};
use futures_util::FutureExt;
use jiff::Timestamp;
use storm_shared::{
    config::Settings,
    models::{Failure, FailureReason},
    services::{
        report::{self, Report},
        store::{AttemptRecord, Candidate, Claim, Job, Outcome, Store, StoreError},
    },
};
use tokio::sync::watch;
use tracing::{debug, error, info, warn};

use super::{
    deliver::{Delivery, Transport},
    drain::Drain,
    lease::{Lease, Term},
    origins::Origins,
    pulse::Pulse,
    schedule::Schedule,
    slots::{Slot, Slots},
};
use crate::metrics::Metrics;

/// A report that takes longer is stored before its first callback. For the others that write would
/// cost more, job for job, than making the report again after a crash.
const LONG: Duration = Duration::from_secs(1);

/// How often a database that refuses is asked to take back what still runs at the end: each try may
/// wait for its lock, and the process is to end.
const GIVING_BACK_TRIES: usize = 3;

/// Where a job was heard of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClaimSource {
    /// The queue.
    Notification,
    /// The table itself.
    Table,
}

/// One worker: the places it has, and what its jobs need.
pub struct CallbackWorker {
    pub(super) store: Store,
    pub(super) client: Arc<dyn Transport>,
    pub(super) lease: Arc<Lease>,
    pub(super) slots: Slots,
    pub(super) origins: Origins,
    pub(super) schedule: Schedule,
    /// How long a job is put off, in all, before it has its attempt.
    pub(super) park_max: Duration,
    /// The longest that a job is told to wait.
    pub(super) longest_wait: Duration,
    pub(super) metrics: Metrics,
    drain: Drain,
    /// The earliest time of a next attempt that this worker has set since the table was looked through.
    pub(super) next_due: watch::Sender<Timestamp>,
}

/// What a job's line came to.
enum Line {
    /// It is over.
    Ended(Option<Report>, Option<AttemptRecord>, Outcome),
    /// An attempt failed, and it waits for the next one.
    Waits(Report, AttemptRecord, Timestamp),
    /// It waits for its receiver's sake.
    Parked(Report, Timestamp),
}

impl CallbackWorker {
    /// A worker that holds its jobs by `lease`.
    pub fn new(
        store: Store,
        client: Arc<dyn Transport>,
        lease: Arc<Lease>,
        settings: &Settings,
        metrics: Metrics,
        drain: Drain,
    ) -> Arc<Self> {
        let slots = Slots::new(settings.worker.concurrency, settings.worker.max_claims);
        let callback = &settings.callback;
        Arc::new(Self {
            store,
            client,
            lease,
            origins: Origins::new(
                callback.per_origin,
                callback.park_max,
                slots.clone(),
                metrics.clone(),
            ),
            slots,
            schedule: Schedule::new(&callback.retry),
            park_max: callback.park_max,
            longest_wait: callback.longest_wait(),
            metrics,
            drain,
            next_due: watch::Sender::new(Timestamp::MAX),
        })
    }

    /// Claims jobs in one transaction for as many places as are free, until all `candidates` had their
    /// turn, and starts them. That `pulse` rightly waits for places is seen from it.
    ///
    /// # Errors
    /// The store refused; the jobs that were not reached stay `PENDING`.
    pub(super) async fn take_on(
        self: &Arc<Self>,
        candidates: Vec<Candidate>,
        source: ClaimSource,
        pulse: &Pulse,
    ) -> Result<(), StoreError> {
        let mut rest = candidates.as_slice();
        while !rest.is_empty() {
            let places = self.unless_told(self.slots.take(1, rest.len()));
            let Some(Ok(places)) = pulse.during(places).await else {
                break; // told to end
            };
            let (now, later) = rest.split_at(places.num_permits());
            self.claim(now, places, 1, source).await?;
            pulse.beat();
            rest = later;
        }
        Ok(())
    }

    /// Claims those of `alike` for which there are `places`, `size` for each, and starts them.
    pub(super) async fn claim(
        self: &Arc<Self>,
        alike: &[Candidate],
        mut places: Slot,
        size: u32,
        source: ClaimSource,
    ) -> Result<(), StoreError> {
        let Some(term) = self.unless_told(self.lease.in_force()).await else {
            return Ok(());
        };
        let jobs = self.store.claim(term.owner, alike.to_vec()).await?;
        self.metrics.claimed(source, jobs.len());
        for job in jobs {
            let slot = places
                .split(size as usize)
                .unwrap_or_else(|| unreachable!("places for each candidate"));
            let work = Arc::clone(self).work(job, slot, term.clone());
            self.drain.jobs.spawn(work);
        }
        Ok(())
    }

    /// How many more jobs could run, once that is one at least; nothing when told to end.
    pub(super) async fn room(&self) -> Option<usize> {
        let _one = self.unless_told(self.slots.take(1, 1)).await?.ok()?;
        Some(self.slots.free() + 1)
    }

    /// What `event` gives, or nothing when the worker is told to end first.
    pub(super) async fn unless_told<T>(&self, event: impl Future<Output = T>) -> Option<T> {
        self.drain.told.run_until_cancelled(event).await
    }

    /// Finishes what ends by the deadline, and cuts off the rest. Its lease has to be kept meanwhile.
    pub async fn finish(&self) {
        self.drain.finish().await;
    }

    /// Cuts off what runs, at once.
    pub fn cut_off(&self) {
        self.drain.deadline.cancel();
    }

    /// Gives back what was cut off, in one write; nobody works on it any more, nor renews the lease.
    pub async fn give_back(&self) {
        let tries = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(50))
            .with_max_times(GIVING_BACK_TRIES);
        let resigned = (|| self.lease.resign())
            .retry(tries)
            .when(|error| !matches!(error, StoreError::Closed));
        match resigned.await {
            Ok(0) => {}
            Ok(jobs) => info!(jobs, "given back at the deadline"),
            Err(error) => {
                error!(%error, "what still ran could not be given back; others take it after a lease");
            }
        }
    }

    /// Completes when every job has ended or been cut off.
    pub fn drained(&self) -> impl Future<Output = ()> + Send + 'static {
        let drain = self.drain.clone();
        async move { drain.deadline.cancelled().await }
    }

    /// Sees a job through, unless its worker has to end before, or is declared dead.
    async fn work(self: Arc<Self>, job: Job, slot: Slot, term: Term) {
        let _held = self.metrics.begin_job();
        let id = job.claim.id;
        tokio::select! {
            biased;
            // Given back with all others.
            () = self.drain.deadline.cancelled() => {}
            () = term.lost.cancelled() => {
                self.metrics.lost_claim();
                debug!(%id, "a job was lost with the lease");
            }
            () = self.see_through(job) => {}
        }
        drop(slot); // not before the row says how it ended: who runs alone does so to the end
    }

    async fn see_through(&self, job: Job) {
        let claim = job.claim;
        // A panic is this job's own, wherever it comes from.
        let line = AssertUnwindSafe(self.run_and_deliver(job))
            .catch_unwind()
            .await;
        let line = line.unwrap_or_else(|_panic| {
            error!(id = %claim.id, "a job panicked");
            Ok(Line::Ended(None, None, Outcome::Failed(panicked())))
        });
        let written = match line {
            Ok(Line::Ended(report, last, outcome)) => {
                self.finalise(claim, report.as_ref(), last, outcome).await
            }
            Ok(Line::Waits(report, failed, due)) => {
                let write = || {
                    self.store
                        .schedule_retry(claim, &report, failed.clone(), due)
                };
                self.let_go(claim, write, due).await
            }
            Ok(Line::Parked(report, due)) => {
                let write = || self.store.park(claim, &report, due);
                self.let_go(claim, write, due).await
            }
            Err(error) => Err(error),
        };
        let id = claim.id;
        match written {
            Ok(()) => {}
            Err(StoreError::ClaimLost) => {
                self.metrics.lost_claim();
                warn!(%id, "a job was lost to another worker");
            }
            Err(error) => error!(%id, %error, "a job's end could not be stored"),
        }
    }

    async fn run_and_deliver(&self, job: Job) -> Result<Line, StoreError> {
        let report = self.run(&job).await?;
        Ok(match self.deliver(&job, &report).await {
            Delivery::Over(last, outcome) => Line::Ended(Some(report), last, outcome),
            Delivery::Again(failed, due) => Line::Waits(report, failed, due),
            Delivery::Parked(due) => Line::Parked(report, due),
        })
    }

    /// Makes the report, unless an earlier claim has stored it. One that took long is stored before
    /// anything else can go wrong.
    async fn run(&self, job: &Job) -> Result<Report, StoreError> {
        if let Some(report) = &job.report {
            return Ok(report.clone());
        }
        let report = report::generate(&job.spec).await;
        if job.spec.ideal_duration() > LONG {
            self.persist(job.claim, || self.store.store_result(job.claim, &report))
                .await?;
        }
        Ok(report)
    }

    async fn finalise(
        &self,
        claim: Claim,
        report: Option<&Report>,
        last: Option<AttemptRecord>,
        outcome: Outcome,
    ) -> Result<(), StoreError> {
        let write = || {
            self.store
                .finalise(claim, report, last.clone(), outcome.clone())
        };
        self.persist(claim, write).await?;
        self.metrics.ended(&outcome);
        Ok(())
    }

    /// From here on the job waits in the table alone: it costs this worker nothing, and any other can
    /// go on with it.
    async fn let_go<F>(
        &self,
        claim: Claim,
        write: impl Fn() -> F,
        due: Timestamp,
    ) -> Result<(), StoreError>
    where
        F: Future<Output = Result<(), StoreError>>,
    {
        self.persist(claim, write).await?;
        self.falls_due(due);
        Ok(())
    }

    /// The table holds a job that is due then.
    pub(super) fn falls_due(&self, due: Timestamp) {
        self.next_due.send_if_modified(|next| {
            let earlier = due < *next;
            *next = due.min(*next);
            earlier
        });
    }

    /// Writes what must not be forgotten: a store that refuses is asked again until it takes it, the
    /// claim is lost, or the worker's time is over.
    async fn persist<F>(&self, claim: Claim, write: impl Fn() -> F) -> Result<(), StoreError>
    where
        F: Future<Output = Result<(), StoreError>>,
    {
        let pauses = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(50))
            .with_max_delay(Duration::from_secs(2))
            .with_jitter()
            .without_max_times();
        write
            .retry(pauses)
            .when(|error| !matches!(error, StoreError::ClaimLost | StoreError::Closed))
            .notify(|error, after| warn!(id = %claim.id, %error, ?after, "a write is tried again"))
            .await
    }
}

fn panicked() -> Failure {
    let detail = "A fault of the service, not of the job; the worker's log tells more.";
    Failure::new(FailureReason::InternalError, detail)
}
