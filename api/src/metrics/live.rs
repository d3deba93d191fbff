//! What the overview shows of this process: figures that only grow, in finer steps than the
//! metrics.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use storm_shared::durations::{DurationCounts, DurationRecorder};

/// The figures as they grow.
#[derive(Default)]
pub(super) struct Live {
    accepted: AtomicU64,
    refused: AtomicU64,
    sync_answered: AtomicU64,
    sync_refused: AtomicU64,
    ack: DurationRecorder,
    sync: DurationRecorder,
    unfinished: AtomicUsize,
    due: AtomicUsize,
    oldest_due: Mutex<Option<Duration>>,
}

/// The figures at one moment, since the start.
#[derive(Clone, Debug, Default)]
pub struct LiveFigures {
    /// Jobs that were accepted: `202`, and no repeat of an earlier one.
    pub accepted: u64,
    /// Submissions of jobs that were refused for the load: `429` and `5xx`.
    pub refused: u64,
    /// Requests to `/sync` that were answered with a report.
    pub sync_answered: u64,
    /// Those that were refused, or not finished in time: `429` and `5xx`.
    pub sync_refused: u64,
    /// The times to a `202`.
    pub ack: DurationCounts,
    /// How long clients of `/sync` waited: for the report, or for the answer that it was not
    /// finished in time.
    pub sync: DurationCounts,
    /// Unfinished jobs, as of the last count.
    pub unfinished: usize,
    /// Those of them that wait for a worker and are due.
    pub due: usize,
    /// For how long the oldest of these has been due, as of the last search.
    pub oldest_due: Option<Duration>,
}

impl Live {
    pub(super) fn accepted(&self) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn acknowledged(&self, after: Duration) {
        self.ack.record(after);
    }

    pub(super) fn sync_answered(&self, after: Duration) {
        self.sync_answered.fetch_add(1, Ordering::Relaxed);
        self.sync.record(after);
    }

    /// `late`: the client has waited this long. One that is refused at once has not waited.
    pub(super) fn sync_refused(&self, late: Option<Duration>) {
        self.sync_refused.fetch_add(1, Ordering::Relaxed);
        if let Some(late) = late {
            self.sync.record(late);
        }
    }

    pub(super) fn oldest_due(&self, age: Option<Duration>) {
        *self.age() = age;
    }

    fn age(&self) -> MutexGuard<'_, Option<Duration>> {
        self.oldest_due
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn counted(&self, unfinished: usize, due: usize) {
        self.unfinished.store(unfinished, Ordering::Relaxed);
        self.due.store(due, Ordering::Relaxed);
    }

    pub(super) fn figures(&self) -> LiveFigures {
        LiveFigures {
            accepted: self.accepted.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
            sync_answered: self.sync_answered.load(Ordering::Relaxed),
            sync_refused: self.sync_refused.load(Ordering::Relaxed),
            ack: self.ack.counts(),
            sync: self.sync.counts(),
            unfinished: self.unfinished.load(Ordering::Relaxed),
            due: self.due.load(Ordering::Relaxed),
            oldest_due: *self.age(),
        }
    }
}
