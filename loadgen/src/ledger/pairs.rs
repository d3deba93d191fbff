//! The bookkeeping itself: plain data, changed by one event at a time.

use std::{collections::HashMap, sync::Arc, time::Duration};

use storm_shared::models::RequestId;
use tokio::time::Instant;

use super::{IdGivenTwice, JobEnd, JobSummary, callback::Callback};
use crate::{
    latency::Latencies,
    signatures::{SignatureCheck, SignatureCounts},
    workload::Workload,
};

/// How many callbacks are kept whose `202` is not here yet. More than can be in flight would be
/// a stranger's.
const MAX_EARLY: u64 = 20_000;

/// Every job of a run.
#[derive(Debug)]
pub(super) struct Pairs {
    workload: Arc<Workload>,
    started: Instant,
    jobs: HashMap<RequestId, Job>,
    counts: Counts,
    signatures: SignatureCounts,
    time_to_completion: Latencies,
    last_right: Instant,
}

/// One job, as far as it is known.
#[derive(Debug)]
enum Job {
    /// Accepted, and not heard of since.
    Waiting { number: usize, due: Instant },
    /// Called back before its `202` was read.
    Early {
        callback: Box<Callback>,
        at: Instant,
    },
    /// Heard of, rightly or wrongly.
    Settled { fingerprint: u64 },
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    accepted: u64,
    waiting: u64,
    early: u64,
    right: u64,
    wrong: u64,
    repeated: u64,
    failed: u64,
    dropped: u64,
}

impl Pairs {
    /// Empty; `signatures` has counted nothing yet.
    pub(super) fn new(workload: Arc<Workload>, signatures: SignatureCounts) -> Self {
        let started = Instant::now();
        Self {
            workload,
            started,
            jobs: HashMap::new(),
            counts: Counts::default(),
            signatures,
            time_to_completion: Latencies::default(),
            last_right: started,
        }
    }

    /// A `202` with this id answered the `number`-th request, which was due at `due`.
    pub(super) fn accepted(
        &mut self,
        id: RequestId,
        number: usize,
        due: Instant,
    ) -> Result<(), IdGivenTwice> {
        match self.jobs.insert(id, Job::Waiting { number, due }) {
            None => self.counts.waiting += 1,
            Some(Job::Early { callback, at }) => {
                self.counts.early -= 1;
                self.settle(number, due, &callback, at);
            }
            Some(known) => {
                self.jobs.insert(id, known);
                return Err(IdGivenTwice);
            }
        }
        self.counts.accepted += 1;
        Ok(())
    }

    /// A callback arrived at `at`.
    pub(super) fn called_back(&mut self, callback: Callback, at: Instant) {
        self.signatures.add(callback.signature);
        match self.jobs.get(&callback.id) {
            Some(&Job::Waiting { number, due }) => {
                self.counts.waiting -= 1;
                self.settle(number, due, &callback, at);
            }
            Some(Job::Early {
                callback: first, ..
            }) => {
                self.repeat(first.fingerprint == callback.fingerprint);
            }
            Some(Job::Settled { fingerprint }) => {
                self.repeat(*fingerprint == callback.fingerprint);
            }
            None if self.counts.early < MAX_EARLY => {
                self.counts.early += 1;
                self.jobs.insert(
                    callback.id,
                    Job::Early {
                        callback: Box::new(callback),
                        at,
                    },
                );
            }
            None => self.counts.dropped += 1,
        }
    }

    /// The API said at `at` that a job is over.
    pub(super) fn polled(&mut self, id: RequestId, end: &JobEnd, at: Instant) {
        let Some(&Job::Waiting { number, .. }) = self.jobs.get(&id) else {
            return;
        };
        self.counts.waiting -= 1;
        self.jobs.insert(id, Job::Settled { fingerprint: 0 }); // nobody calls back for this one
        match end {
            JobEnd::Completed { report, took } if self.workload.order(number).is_met_by(report) => {
                self.right(*took, at);
            }
            JobEnd::Completed { .. } => self.counts.wrong += 1,
            JobEnd::Failed => self.counts.failed += 1,
        }
    }

    /// The first callback of an accepted job.
    fn settle(&mut self, number: usize, due: Instant, callback: &Callback, at: Instant) {
        self.jobs.insert(
            callback.id,
            Job::Settled {
                fingerprint: callback.fingerprint,
            },
        );
        if let SignatureCheck::Invalid(_) = callback.signature {
            return; // it is counted, and whatever it says is not
        }
        if callback.meets(self.workload.order(number)) {
            self.right(at.saturating_duration_since(due), at);
        } else {
            self.counts.wrong += 1;
        }
    }

    fn right(&mut self, took: Duration, at: Instant) {
        self.counts.right += 1;
        self.time_to_completion.record(took);
        self.last_right = self.last_right.max(at);
    }

    /// At least once allows a repeat, but not one that says something else.
    fn repeat(&mut self, same: bool) {
        *(if same {
            &mut self.counts.repeated
        } else {
            &mut self.counts.wrong
        }) += 1;
    }

    pub(super) fn ideal(&self) -> Duration {
        self.workload.ideal()
    }

    pub(super) fn waiting(&self) -> u64 {
        self.counts.waiting
    }

    /// One of the jobs that are waited for.
    pub(super) fn any_waiting(&self) -> Option<RequestId> {
        let waiting = self
            .jobs
            .iter()
            .find(|(_, job)| matches!(job, Job::Waiting { .. }));
        waiting.map(|(id, _)| *id)
    }

    /// Everything counted so far.
    pub(super) fn summary(&self) -> JobSummary {
        let Counts {
            accepted,
            waiting,
            early,
            right,
            wrong,
            repeated,
            failed,
            dropped,
        } = self.counts;
        let ideal = self.ideal();
        let time_to_completion = self.time_to_completion.percentiles();
        let took = (self.last_right - self.started).as_secs_f64();
        JobSummary {
            accepted,
            right,
            lost: waiting,
            repeated,
            wrong,
            failed,
            unexpected: early + dropped,
            signatures: self.signatures,
            ideal,
            time_to_completion,
            lateness: time_to_completion.map(|percentiles| percentiles.beyond(ideal)),
            // Two million at most. Without any, `took` may be zero.
            completed_per_s: u32::try_from(right)
                .ok()
                .filter(|right| *right > 0)
                .map_or(0.0, |right| f64::from(right) / took),
        }
    }
}
