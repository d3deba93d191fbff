//! The counts of a run.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{
    index::{Index, JobHistory},
    repeats,
};
use crate::chaos::history::{SubmitAnswer, Submitted};

/// The counts of a run, whether it passed or failed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Requests answered with `202`.
    pub accepted: u64,
    /// Requests answered with a `202` once more, by their idempotency key.
    pub replayed: u64,
    /// Requests with another response, by status.
    pub refused: BTreeMap<u16, u64>,
    /// Requests without a response.
    pub unanswered: u64,
    /// Requests answered that their outcome is unknown.
    pub outcome_unknown: u64,
    /// Rows at the end.
    pub rows: u64,
    /// Rows by status, with the reason of the failed ones: `COMPLETED`, `FAILED callback_failed`, …
    pub ended: BTreeMap<String, u64>,
    /// Deliveries that receivers read, duplicates included.
    pub callbacks: u64,
    /// Duplicate deliveries by the event that explains them, or `unexplained`.
    pub repeats: BTreeMap<String, u64>,
    /// The store's events, by kind.
    pub events: BTreeMap<String, u64>,
    /// Injected faults, by kind.
    pub faults: BTreeMap<String, FaultCount>,
}

/// How often a kind of fault was injected, and the jobs in flight at those moments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FaultCount {
    /// The number of injections.
    pub times: usize,
    /// The minimum of jobs in flight.
    pub min: u64,
    /// The median; the lower of two middle values.
    pub median: u64,
    /// The maximum.
    pub max: u64,
}

impl Summary {
    pub(super) fn of(index: &Index<'_>) -> Self {
        let mut summary = Self {
            faults: faults(index),
            ..Self::default()
        };
        for submitted in &index.submitted {
            summary.add_answer(submitted);
        }
        for job in index.jobs() {
            summary.add_job(job);
        }
        summary
    }

    fn add_answer(&mut self, submitted: &Submitted) {
        match submitted.answer {
            // Counted by its job.
            SubmitAnswer::Accepted(_) => {}
            SubmitAnswer::Refused(status) => *self.refused.entry(status).or_default() += 1,
            SubmitAnswer::OutcomeUnknown => self.outcome_unknown += 1,
            SubmitAnswer::NoAnswer(_) => self.unanswered += 1,
        }
    }

    fn add_job(&mut self, job: &JobHistory<'_>) {
        let promises = job.acceptances.len() as u64;
        self.accepted += promises.min(1);
        self.replayed += promises.saturating_sub(1);
        if let Some(row) = job.row {
            self.rows += 1;
            let status = row.state.status.to_string();
            let reason = row.failure_reason.as_ref();
            count(
                &mut self.ended,
                reason.map_or(status.clone(), |reason| format!("{status} {reason}")),
            );
        }
        self.callbacks += job.callbacks.len() as u64;
        for (_, event) in repeats::explained(job) {
            let kind = event.map_or("unexplained", |event| event.event.as_str());
            count(&mut self.repeats, kind.to_owned());
        }
        for event in &job.events {
            count(&mut self.events, event.event.clone());
        }
    }
}

fn count(counts: &mut BTreeMap<String, u64>, what: String) {
    *counts.entry(what).or_default() += 1;
}

fn faults(index: &Index<'_>) -> BTreeMap<String, FaultCount> {
    let mut in_flight: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for fault in &index.faults {
        let kind = in_flight.entry(fault.kind.clone()).or_default();
        kind.push(fault.in_flight);
    }
    let done = in_flight.into_iter().map(|(kind, mut jobs)| {
        jobs.sort_unstable();
        let times = FaultCount {
            times: jobs.len(),
            min: jobs[0], // not empty: an entry is created by its first fault
            median: jobs[(jobs.len() - 1) / 2],
            max: jobs[jobs.len() - 1],
        };
        (kind, times)
    });
    done.collect()
}
