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
    /// turn, and starts them. Returns how many were claimed.
    ///
    /// # Errors
    /// The store refused; the jobs that were not reached stay `PENDING`.
    pub async fn take_on(
        self: &Arc<Self>,
        mut ids: Vec<RequestId>,
        source: Source,
    ) -> Result<usize, StoreError> {
        let mut taken = 0;
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
            taken += jobs.len();
            for job in jobs {
                let Some(slot) = places.split(1) else { break }; // one place for each claimed id
                self.drain.jobs.spawn(Arc::clone(self).work(job, slot));
            }
        }
        Ok(taken)
    }

    /// How many more jobs could run, once that is one at least; nothing when told to end.
    pub(super) async fn room(&self) -> Option<usize> {
        let _one = self.unless_told(self.slots.take(1)).await?.ok()?;
        Some(self.slots.free() + 1)
    }

    pub(super) fn free(&self) -> usize {
        self.slots.free()
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
    }

    /// Completes when every job has ended or been given back.
    pub fn drained(&self) -> impl Future<Output = ()> + Send + 'static {
        let drain = self.drain.clone();
        async move { drain.deadline.cancelled().await }
    }

    async fn work(self: Arc<Self>, job: Job, slot: Slot) {
        let claim = job.claim;
        let _running = self.metrics.begin_job();
        let left = tokio::select! {
            ended = self.run_deliver_finalise(job, slot) => ended,
            () = self.drain.deadline.cancelled() => Err(Left::Told),
        };
        match left {
            Ok(()) => {}
            Err(Left::Told) => self.give_back(claim).await,
            Err(Left::Lost(error)) => {
                self.metrics.lost_claim();
                warn!(id = %claim.id, %error, "a job was lost to another worker");
            }
        }
    }

    async fn run_deliver_finalise(&self, job: Job, slot: Slot) -> Result<(), Left> {
        let claim = job.claim;
        match self.run(&job).await? {
            Ok(report) => {
                let (attempts, outcome) = self.deliver(&job, &report, slot).await?;
                self.finalise(claim, Some(&report), attempts, outcome).await
            }
            Err(failure) => {
                self.finalise(claim, None, job.attempts, Outcome::Failed(failure))
                    .await
            }
        }
    }

    /// Makes the report, unless an earlier claim has stored it. One that took long is stored before
    /// anything else can go wrong.
    async fn run(&self, job: &Job) -> Result<Result<Report, Failure>, Left> {
        if let Some(report) = &job.report {
            return Ok(Ok(report.clone()));
        }
        // A panic is this job's own.
        let made = AssertUnwindSafe(report::generate(&job.spec))
            .catch_unwind()
            .await;
        let Ok(report) = made else {
            error!(id = %job.claim.id, "the report panicked");
            let detail = "The report could not be made; the worker's log says why.";
            return Ok(Err(Failure::new(FailureReason::ReportFailed, detail)));
        };
        if job.spec.ideal_duration() > LONG {
            self.persist(|| self.store.store_result(job.claim, &report))
                .await?;
        }
        Ok(Ok(report))
    }

    async fn finalise(
        &self,
        claim: Claim,
        report: Option<&Report>,
        attempts: u32,
        outcome: Outcome,
    ) -> Result<(), Left> {
        if let Outcome::Failed(failure) = &outcome {
            info!(id = %claim.id, reason = %failure.reason, detail = failure.detail, "a job failed");
        }
        let write = || {
            self.store
                .finalise(claim, report, attempts, outcome.clone())
        };
        self.persist(write).await?;
        self.metrics.ended(&outcome);
        Ok(())
    }

    async fn give_back(&self, claim: Claim) {
        match self.store.give_back(claim).await {
            // A claim that is lost here had just been finalised.
            Ok(()) | Err(StoreError::ClaimLost) => {}
            Err(error) => error!(id = %claim.id, %error, "a job could not be given back"),
        }
    }

    /// Writes what must not be forgotten: a store that refuses is asked again until it takes it, the
    /// claim is lost, or the worker's time is over.
    pub(super) async fn persist<F>(&self, write: impl Fn() -> F) -> Result<(), StoreError>
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
            .notify(|error, after| warn!(%error, ?after, "a write is tried again"))
            .await
    }
}
