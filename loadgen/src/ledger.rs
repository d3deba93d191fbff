//! The ledger of a run's jobs. It pairs each `202` with its callback by request id, whichever
//! arrives first, and compares the callback with the order.

mod callback;
mod jobs;
mod pairs;
#[cfg(test)]
mod tests;

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use hyper::HeaderMap;
use storm_shared::models::RequestId;
use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};

pub use self::jobs::{Accepted, DuplicateId, JobEnd, JobSummary};
use self::{callback::Callback, pairs::Pairs};
use crate::{
    latency::Bucket, progress, series::Recording, signatures::Signatures, workload::Workload,
};

/// The jobs of a run. Clones share one ledger.
#[derive(Clone, Debug)]
pub struct Ledger {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    pairs: Mutex<Pairs>,
    signatures: Signatures,
    recording: Recording,
    /// Notified when no job is pending.
    settled: Notify,
}

/// The body is not a callback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotACallback;

impl Ledger {
    /// An empty ledger for the orders of `workload`. Its clock starts now.
    pub fn new(workload: Arc<Workload>, signatures: Signatures) -> Self {
        let recording = Recording::new(Instant::now());
        let pairs = Pairs::new(workload, signatures.new_counts(), recording.clone());
        Self {
            shared: Arc::new(Shared {
                pairs: Mutex::new(pairs),
                signatures,
                recording,
                settled: Notify::new(),
            }),
        }
    }

    /// Discards all jobs and the recording, and starts a new run with the orders of `workload`.
    pub fn start_over(&self, workload: Arc<Workload>) {
        let (counts, recording) = (self.shared.signatures.new_counts(), self.recording());
        let mut pairs = self.pairs();
        recording.start_over(Instant::now());
        *pairs = Pairs::new(workload, counts, recording.clone());
    }

    /// The time series of the run: of its completed jobs, and of the requests that led to them.
    pub fn recording(&self) -> &Recording {
        &self.shared.recording
    }

    /// The duration of each report without any queueing.
    pub fn ideal(&self) -> Duration {
        self.pairs().ideal()
    }

    /// Records a `202`: request `number`, which was due at `due`, became a job.
    ///
    /// # Errors
    /// An earlier `202` had the same id.
    pub fn accepted(&self, job: Accepted, number: usize, due: Instant) -> Result<(), DuplicateId> {
        // Without `update`: a `202` never ends a pending job, so `settled` need not be notified.
        self.pairs().accepted(job, number, due)
    }

    /// Records a callback that arrives now.
    ///
    /// # Errors
    /// The body is not a callback.
    pub fn called_back(&self, headers: &HeaderMap, body: &[u8]) -> Result<(), NotACallback> {
        // The clock is read before the signature check and the lock, which must not count as the
        // API's time.
        let at = Instant::now();
        let callback = Callback::parse(body).map_err(|_| NotACallback)?;
        let signature = self.shared.signatures.check(headers, body, callback.id);
        let callback = callback.with_signature(signature);
        self.update(|pairs| pairs.called_back(callback, at));
        Ok(())
    }

    /// Records the end of a job that is polled instead of called back.
    pub fn polled(&self, id: RequestId, end: &JobEnd) {
        self.update(|pairs| pairs.polled(id, end, Instant::now()));
    }

    /// The number of accepted jobs whose end is unknown.
    pub fn pending(&self) -> u64 {
        self.pairs().pending()
    }

    /// One accepted job whose end is unknown.
    pub fn any_pending(&self) -> Option<RequestId> {
        self.pairs().any_pending()
    }

    /// Completes when no job is pending.
    pub async fn settled(&self) {
        loop {
            // Registered before the check: otherwise a change between the two would be missed.
            let changed = self.shared.settled.notified();
            if self.pending() == 0 {
                return;
            }
            changed.await;
        }
    }

    /// Completes when no job is pending, or after `patience`. Shows the progress as that of `what`.
    /// Called once no request is in flight any more, so that the number of jobs is final.
    pub(crate) async fn settled_within(&self, what: &'static str, patience: Duration) {
        let accepted = self.summary().accepted;
        let done = || accepted - self.pending();
        // The result of the timeout is not needed: pending jobs count as lost.
        let _ = progress::during(what, accepted, done, timeout(patience, self.settled())).await;
    }

    /// The statistics so far. Pending jobs count as lost.
    pub fn summary(&self) -> JobSummary {
        self.pairs().summary()
    }

    /// The distribution of the times to completion of correct jobs.
    pub fn buckets(&self) -> Vec<Bucket> {
        self.pairs().buckets()
    }

    fn update(&self, update: impl FnOnce(&mut Pairs)) {
        let mut pairs = self.pairs();
        update(&mut pairs);
        if pairs.pending() == 0 {
            self.shared.settled.notify_waiters();
        }
    }

    #[expect(clippy::expect_used, reason = "nothing panics while it holds the lock")]
    fn pairs(&self) -> MutexGuard<'_, Pairs> {
        let pairs = self.shared.pairs.lock();
        pairs.expect("nothing panics while it holds the lock")
    }
}
