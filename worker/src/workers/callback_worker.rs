//! The line of one job: claim, run, deliver, finalise.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use backon::{ExponentialBuilder, Retryable};
use futures_util::FutureExt;
use storm_shared::{
    config::Settings,
    models::{Failure, FailureReason, RequestId},
    services::{
        report::{self, Report},
        store::{Claim, Job, Outcome, OwnerId, Store, StoreError},
    },
};
use tracing::{error, info, warn};

use super::{
    drain::Drain,
    retries::Attempt,
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
pub enum Source {
    /// The queue.
    Doorbell,
    /// The table itself.
    Table,
}

/// One worker: the places it has, and what its jobs need.
pub struct CallbackWorker {
    store: Store,
    pub(super) client: Arc<dyn Attempt>,
    owner: OwnerId,
    pub(super) slots: Slots,
    pub(super) retry_delays: Vec<Duration>,
    pub(super) metrics: Metrics,
    drain: Drain,
}

/// Why a job left this worker without having ended.
pub(super) enum Left {
    /// The worker ends.
    Told,
    /// Another one has it, or the store is closed.
    Lost(StoreError),
}

impl From<StoreError> for Left {
    fn from(error: StoreError) -> Self {
        Self::Lost(error)
    }
}

impl CallbackWorker {
    /// A worker that claims as `owner`.
    pub fn new(
        store: Store,
        client: Arc<dyn Attempt>,
        owner: OwnerId,
        settings: &Settings,
        metrics: Metrics,
        drain: Drain,
    ) -> Arc<Self> {
        Arc::new(Self {
            store,
            client,
            owner,
            slots: Slots::new(settings.worker.concurrency, settings.worker.waiting),
            retry_delays: settings.callback.retry_delays.clone(),
            metrics,
            drain,
        })
    }

    /// Claims jobs in one transaction for as many places as are free, until all of `ids` had their
    /// turn, and starts them.
    ///
    /// # Errors
    /// The store refused; the jobs that were not reached stay `PENDING`.
    pub async fn take_on(
        self: &Arc<Self>,
        mut ids: Vec<RequestId>,
        source: Source,
    ) -> Result<(), StoreError> {
        while !ids.is_empty() {
            let Some(Ok(mut places)) = self.unless_told(self.slots.take(ids.len())).await else {
                break;
            };
            let rest = ids.split_off(places.num_permits());
            let jobs = self
                .store
                .claim(self.owner, std::mem::replace(&mut ids, rest))
                .await?;
            self.metrics.claimed(source, jobs.len());
            for job in jobs {
                let slot = places
                    .split(1)
                    .unwrap_or_else(|| unreachable!("a place for each id"));
                self.drain.jobs.spawn(Arc::clone(self).work(job, slot));
            }
        }
        Ok(())
    }

    /// How many more jobs could run, once that is one at least; nothing when told to end.
    pub(super) async fn room(&self) -> Option<usize> {
        let _one = self.unless_told(self.slots.take(1)).await?.ok()?;
        Some(self.slots.free() + 1)
    }

    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    /// What `event` gives, or nothing when the worker is told to end first.
    pub(super) async fn unless_told<T>(&self, event: impl Future<Output = T>) -> Option<T> {
        self.drain.told.run_until_cancelled(event).await
    }

    pub(super) async fn pause(&self, time: Duration) {
        self.unless_told(tokio::time::sleep(time)).await;
    }

    /// Finishes or gives back every job.
    pub async fn drain(&self) {
        self.drain.finish().await;
        // What the deadline cut off, in one write; nobody works on it any more.
        let tries = ExponentialBuilder::default().with_max_times(GIVING_BACK_TRIES);
        let given = (|| self.store.give_back_all(self.owner)).retry(tries).await;
        match given {
            Ok(0) => {}
            Ok(jobs) => info!(jobs, "given back at the deadline"),
            Err(error) => error!(%error, "what still ran could not be given back"),
        }
    }

    /// Completes when every job has ended or been given back.
    pub fn drained(&self) -> impl Future<Output = ()> + Send + 'static {
        let drain = self.drain.clone();
        async move { drain.deadline.cancelled().await }
    }

    async fn work(self: Arc<Self>, job: Job, slot: Slot) {
        let _held = self.metrics.begin_job();
        let line = self.run_deliver_finalise(job, slot);
        // What is cut off at the deadline is given back with all others.
        self.drain.deadline.run_until_cancelled(line).await;
    }

    async fn run_deliver_finalise(&self, job: Job, slot: Slot) {
        let (claim, attempts) = (job.claim, job.attempts);
        // A panic is this job's own, wherever it comes from.
        let line = AssertUnwindSafe(self.run_and_deliver(job, slot))
            .catch_unwind()
            .await;
        let (report, attempts, outcome) = match line {
            Ok(Ok((report, attempts, outcome))) => (Some(report), attempts, outcome),
            Ok(Err(left)) => return self.leave(claim, left).await,
            Err(_panic) => {
                error!(id = %claim.id, "a job panicked");
                (None, attempts, Outcome::Failed(panicked()))
            }
        };
        let write = || {
            self.store
                .finalise(claim, report.as_ref(), attempts, outcome.clone())
        };
        match self.persist(claim, write).await {
            Ok(()) => self.metrics.ended(&outcome),
            Err(error) => self.leave(claim, error.into()).await,
        }
    }

    async fn run_and_deliver(&self, job: Job, slot: Slot) -> Result<(Report, u32, Outcome), Left> {
        let report = self.run(&job).await?;
        let (attempts, outcome) = self.deliver(&job, &report, slot).await?;
        Ok((report, attempts, outcome))
    }

    /// Makes the report, unless an earlier claim has stored it. One that took long is stored before
    /// anything else can go wrong.
    async fn run(&self, job: &Job) -> Result<Report, Left> {
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

    /// Takes leave of a job that has not ended here.
    async fn leave(&self, claim: Claim, left: Left) {
        let id = claim.id;
        match left {
            // At once, so that another worker has it soon; if that fails, with all others at the end.
            Left::Told => match self.store.give_back(claim).await {
                Ok(()) => {}
                Err(error) => warn!(%id, %error, "a job could not be given back at once"),
            },
            Left::Lost(StoreError::ClaimLost) => {
                self.metrics.lost_claim();
                warn!(%id, "a job was lost to another worker");
            }
            Left::Lost(error) => error!(%id, %error, "a job's end could not be stored"),
        }
    }

    /// Writes what must not be forgotten: a store that refuses is asked again until it takes it, the
    /// claim is lost, or the worker's time is over.
    pub(super) async fn persist<F>(
        &self,
        claim: Claim,
        write: impl Fn() -> F,
    ) -> Result<(), StoreError>
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
