//! The figures of a run.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{
    index::{Index, Job},
    repeats,
};
use crate::chaos::history::{Answer, Told};

/// What a run counted, good or bad.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Requests answered with `202`.
    pub accepted: u64,
    /// Requests answered otherwise, by status.
    pub refused: BTreeMap<u16, u64>,
    /// Requests without an answer.
    pub unanswered: u64,
    /// Rows at the end.
    pub rows: u64,
    /// Rows by status, the failed ones with their reason: `COMPLETED`, `FAILED callback_failed`, …
    pub ended: BTreeMap<String, u64>,
    /// Calls that receivers got.
    pub callbacks: u64,
    /// Those of them that were not their job's first, by the kind of the event that explains each;
    /// `unexplained` where none does.
    pub repeats: BTreeMap<String, u64>,
    /// What the store recorded, by kind.
    pub events: BTreeMap<String, u64>,
    /// What was broken on purpose, by kind.
    pub faults: BTreeMap<String, TimesDone>,
}

/// How often a fault was done, and how many jobs were in flight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TimesDone {
    /// How often.
    pub times: usize,
    /// The fewest jobs in flight at any of them.
    pub min: u64,
    /// The median; the lower one of two.
    pub median: u64,
    /// The most.
    pub max: u64,
}

impl Summary {
    pub(super) fn of(index: &Index<'_>) -> Self {
        let mut summary = Self {
            faults: faults(index),
            ..Self::default()
        };
        for told in &index.told {
            summary.add_answer(told);
        }
        for job in index.jobs() {
            summary.add_job(job);
        }
        summary
    }

    fn add_answer(&mut self, told: &Told) {
        match told.answer {
            Answer::Accepted(_) => self.accepted += 1,
            Answer::Refused(status) => *self.refused.entry(status).or_default() += 1,
            Answer::Nothing(_) => self.unanswered += 1,
        }
    }

    fn add_job(&mut self, job: &Job<'_>) {
        if let Some(row) = job.row {
            self.rows += 1;
            let status = row.held.status.to_string();
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

fn faults(index: &Index<'_>) -> BTreeMap<String, TimesDone> {
    let mut in_flight: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for fault in &index.faults {
        let kind = in_flight.entry(fault.kind.clone()).or_default();
        kind.push(fault.in_flight);
    }
    let done = in_flight.into_iter().map(|(kind, mut jobs)| {
        jobs.sort_unstable();
        let times = TimesDone {
            times: jobs.len(),
            min: jobs[0], // a kind is there because it was done
            median: jobs[(jobs.len() - 1) / 2],
            max: jobs[jobs.len() - 1],
        };
        (kind, times)
    });
    done.collect()
}
