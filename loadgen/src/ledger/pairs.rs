//! The pairing of `202` answers and callbacks: plain data, updated by one event at a time.

use std::{collections::HashMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use storm_shared::models::RequestId;
use tokio::time::Instant;

use super::{
    callback::{Callback, Verdict},
    jobs::{Accepted, DuplicateId, JobEnd, JobSummary},
};
use crate::{
    deviation::Deviations,
    latency::{Bucket, Latencies},
    series::Recording,
    signatures::{SignatureCheck, SignatureCounts},
    workload::Workload,
};

/// The limit of callbacks that are kept until their `202` arrives: the most requests that can be in
/// flight. Callbacks over the limit can't belong to this run.
const MAX_EARLY: u64 = 20_000;

/// Every job of a run.
#[derive(Debug)]
pub(super) struct Pairs {
    workload: Arc<Workload>,
    started: Instant,
    /// The same by the wall clock.
    started_at: Timestamp,
    jobs: HashMap<RequestId, JobState>,
    counts: Counts,
    signatures: SignatureCounts,
    time_to_completion: Latencies,
    deviations: Deviations,
    last_right: Instant,
    recording: Recording,
}

/// What is known about one job.
#[derive(Debug)]
enum JobState {
    /// Accepted; no callback yet.
    Pending(Request),
    /// The callback arrived before the `202`.
    Early {
        // Boxed to keep the entries small: early callbacks are few, and a run has up to two million
        // jobs.
        callback: Box<Callback>,
        at: Instant,
    },
    /// The first callback or polled result was counted.
    Settled { fingerprint: u64 },
}

/// An accepted request.
#[derive(Clone, Copy, Debug)]
struct Request {
    number: usize,
    due: Instant,
    expected_at: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    accepted: u64,
    pending: u64,
    early: u64,
    right: u64,
    wrong: u64,
    repeated: u64,
    failed: u64,
    dropped: u64,
}

impl Pairs {
    /// No jobs. The counts in `signatures` must be zero. Completed jobs are also told `recording`.
    pub(super) fn new(
        workload: Arc<Workload>,
        signatures: SignatureCounts,
        recording: Recording,
    ) -> Self {
        let started = Instant::now();
        Self {
            workload,
            started,
            started_at: Timestamp::now(),
            jobs: HashMap::new(),
            counts: Counts::default(),
            signatures,
            time_to_completion: Latencies::default(),
            deviations: Deviations::default(),
            last_right: started,
            recording,
        }
    }

    /// Records a `202` for request `number`, which was due at `due`.
    pub(super) fn accepted(
        &mut self,
        Accepted { id, expected_at }: Accepted,
        number: usize,
        due: Instant,
    ) -> Result<(), DuplicateId> {
        let request = Request {
            number,
            due,
            expected_at,
        };
        match self.jobs.insert(id, JobState::Pending(request)) {
            None => self.counts.pending += 1,
            Some(JobState::Early { callback, at }) => {
                self.counts.early -= 1;
                self.settle(request, &callback, at);
            }
            Some(known) => {
                // The first 202 stands.
                self.jobs.insert(id, known);
                return Err(DuplicateId);
            }
        }
        self.counts.accepted += 1;
        Ok(())
    }

    /// Records a callback that arrived at `at`.
    pub(super) fn called_back(&mut self, callback: Callback, at: Instant) {
        self.signatures.add(callback.signature);
        match self.jobs.get(&callback.id) {
            Some(&JobState::Pending(request)) => {
                self.counts.pending -= 1;
                self.settle(request, &callback, at);
            }
            // The 202 is still missing, so only the bytes can be compared.
            Some(JobState::Early {
                callback: first, ..
            }) => {
                self.repeat(first.fingerprint == callback.fingerprint);
            }
            Some(JobState::Settled { fingerprint }) => {
                self.repeat(*fingerprint == callback.fingerprint);
            }
            None if self.counts.early < MAX_EARLY => {
                self.counts.early += 1;
                self.jobs.insert(
                    callback.id,
                    JobState::Early {
                        callback: Box::new(callback),
                        at,
                    },
                );
            }
            None => self.counts.dropped += 1,
        }
    }

    /// Records the end of a job, which the API reported at `at`.
    pub(super) fn polled(&mut self, id: RequestId, end: &JobEnd, at: Instant) {
        let Some(&JobState::Pending(request)) = self.jobs.get(&id) else {
            return;
        };
        self.counts.pending -= 1;
        // A polled job has no callback URL, so nothing compares this fingerprint.
        self.jobs.insert(id, JobState::Settled { fingerprint: 0 });
        match end {
            JobEnd::Completed {
                result,
                took,
                completed_at,
            } if self.workload.order(request.number).is_result(result) => {
                self.right(*took, at, request.expected_at, *completed_at);
            }
            JobEnd::Completed { .. } => self.counts.wrong += 1,
            JobEnd::Failed => self.counts.failed += 1,
        }
    }

    /// Checks and counts the first callback of an accepted job.
    fn settle(&mut self, request: Request, callback: &Callback, at: Instant) {
        self.jobs.insert(
            callback.id,
            JobState::Settled {
                fingerprint: callback.fingerprint,
            },
        );
        if let SignatureCheck::Invalid(_) = callback.signature {
            return; // counted as a bad signature; an unauthenticated body proves nothing
        }
        match callback.judge(self.workload.order(request.number)) {
            Verdict::Right => {
                let took = at.saturating_duration_since(request.due);
                let arrived_at = self.started_at + (at - self.started);
                self.right(took, at, request.expected_at, arrived_at);
            }
            Verdict::Failed => self.counts.failed += 1,
            Verdict::Wrong => self.counts.wrong += 1,
        }
    }

    /// Counts a correct job that took this long, and whose end was seen at `at`.
    fn right(
        &mut self,
        took: Duration,
        at: Instant,
        expected_at: Option<Timestamp>,
        ended_at: Timestamp,
    ) {
        self.counts.right += 1;
        self.time_to_completion.record(took);
        self.recording.completed(at, took);
        if let Some(expected_at) = expected_at {
            self.deviations.record(expected_at, ended_at);
        }
        // `at` was read before the ledger was locked, so callbacks can be recorded out of order.
        self.last_right = self.last_right.max(at);
    }

    /// Counts a repeat. At-least-once delivery allows it only with the same bytes.
    fn repeat(&mut self, same_bytes: bool) {
        *(if same_bytes {
            &mut self.counts.repeated
        } else {
            &mut self.counts.wrong
        }) += 1;
    }

    pub(super) fn ideal(&self) -> Duration {
        self.workload.ideal()
    }

    pub(super) fn pending(&self) -> u64 {
        self.counts.pending
    }

    /// One pending job.
    pub(super) fn any_pending(&self) -> Option<RequestId> {
        let pending = self
            .jobs
            .iter()
            .find(|(_, job)| matches!(job, JobState::Pending(_)));
        pending.map(|(id, _)| *id)
    }

    /// The distribution of the times to completion.
    pub(super) fn buckets(&self) -> Vec<Bucket> {
        self.time_to_completion.buckets()
    }

    /// The statistics so far.
    pub(super) fn summary(&self) -> JobSummary {
        let Counts {
            accepted,
            pending,
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
            lost: pending,
            not_awaited: 0,
            repeated,
            wrong,
            failed,
            unexpected: early + dropped,
            signatures: self.signatures,
            ideal,
            time_to_completion,
            lateness: time_to_completion.map(|percentiles| percentiles.beyond(ideal)),
            // At most two million, so a u32 is enough. Without correct jobs, `took` may be zero.
            deviation: self.deviations.summary(),
            completed_per_s: u32::try_from(right)
                .ok()
                .filter(|right| *right > 0)
                .map_or(0.0, |right| f64::from(right) / took),
        }
    }
}
