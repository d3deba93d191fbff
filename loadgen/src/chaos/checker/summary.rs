//! The counts of a run.

use std::collections::BTreeMap;

use serde::Serialize;
use storm_shared::models::Status;

use super::{
    index::{Index, JobHistory},
    repeats,
    series::{Series, is_cancel},
};
use crate::chaos::history::{
    CancelAnswer, EraseAnswer, FilterAnswer, FilterAsked, RedeliveryAnswer, SubmitAnswer, Submitted,
};

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
    /// Rows at the end, and those that were deleted.
    pub rows: u64,
    /// Rows that were deleted.
    pub deleted: u64,
    /// Rows that were erased.
    pub erased: u64,
    /// Rows by status, with the reason of the failed ones: `COMPLETED`, `FAILED callback_failed`, …
    pub ended: BTreeMap<String, u64>,
    /// Deliveries that receivers read, duplicates included.
    pub callbacks: u64,
    /// Requests for the work of its jobs that the endpoint of the handler read.
    pub work_requests: u64,
    /// Requests for a redelivery, by their response.
    pub redeliveries_asked: BTreeMap<String, u64>,
    /// Redeliveries by the status of their job and by their outcome: `FAILED, delivered`, …
    pub redeliveries: BTreeMap<String, u64>,
    /// Requests to cancel a job or a redelivery, by their response.
    pub cancels_asked: BTreeMap<String, u64>,
    /// Requests to erase a request, by their response.
    pub erasures_asked: BTreeMap<String, u64>,
    /// Actions of operators by filter, by their response, and the requests that they changed.
    pub filters: BTreeMap<String, u64>,
    /// Pauses of everything, and of origins.
    pub pauses: u64,
    /// Duplicate deliveries by the event that explains them, `redelivery`, or `unexplained`.
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
            pauses: index.pause_changes.iter().filter(|it| it.paused).count() as u64,
            ..Self::default()
        };
        for submitted in &index.submitted {
            summary.add_answer(submitted);
        }
        for asked in &index.filters_asked {
            count(&mut summary.filters, filter_answer(asked));
        }
        for applied in &index.filters_applied {
            let changed = format!("{}, requests changed", applied.action.as_str());
            *summary.filters.entry(changed).or_default() += applied.changed;
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
            SubmitAnswer::KeyReused => *self.refused.entry(422).or_default() += 1,
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
        self.deleted += u64::from(job.deleted.is_some());
        self.erased += u64::from(job.erasure().is_some());
        self.callbacks += job.callbacks.len() as u64;
        self.work_requests += job.work_requests.len() as u64;
        for (_, cause) in repeats::explained(job) {
            let kind = cause.map_or("unexplained", |cause| cause.what);
            count(&mut self.repeats, kind.to_owned());
        }
        for asked in &job.asked {
            count(&mut self.redeliveries_asked, answer(&asked.answer));
        }
        for asked in &job.cancels {
            count(&mut self.cancels_asked, cancel_answer(&asked.answer));
        }
        for asked in &job.erasures {
            count(&mut self.erasures_asked, erase_answer(&asked.answer));
        }
        for series in &job.redeliveries {
            count(&mut self.redeliveries, redelivery(series));
        }
        for event in &job.events {
            count(&mut self.events, event.event.clone());
        }
    }
}

fn refusal(status: u16, problem: Option<&str>) -> String {
    problem.map_or(status.to_string(), |problem| format!("{status} {problem}"))
}

fn cancel_answer(answer: &CancelAnswer) -> String {
    match answer {
        CancelAnswer::Job => "200, a job".to_owned(),
        CancelAnswer::Redelivery => "200, a redelivery".to_owned(),
        CancelAnswer::Refused { status, problem } => refusal(*status, problem.as_deref()),
        CancelAnswer::OutcomeUnknown => "503 outcome-unknown".to_owned(),
        CancelAnswer::NoAnswer(_) => "no response".to_owned(),
    }
}

fn filter_answer(asked: &FilterAsked) -> String {
    let action = asked.action.as_str();
    match &asked.answer {
        FilterAnswer::Done(_) if asked.dry_run => format!("{action}, dry run, 200"),
        FilterAnswer::Done(_) => format!("{action}, 200"),
        FilterAnswer::Refused(status) => format!("{action}, {status}"),
        FilterAnswer::Unknown(_) => format!("{action}, unknown"),
    }
}

fn erase_answer(answer: &EraseAnswer) -> String {
    match answer {
        EraseAnswer::Erased { .. } => "200".to_owned(),
        EraseAnswer::Refused { status, problem } => refusal(*status, problem.as_deref()),
        EraseAnswer::OutcomeUnknown => "503 outcome-unknown".to_owned(),
        EraseAnswer::NoAnswer(_) => "no response".to_owned(),
    }
}

fn answer(answer: &RedeliveryAnswer) -> String {
    match answer {
        RedeliveryAnswer::Accepted => "202".to_owned(),
        RedeliveryAnswer::Refused { status, problem } => refusal(*status, problem.as_deref()),
        RedeliveryAnswer::OutcomeUnknown => "503 outcome-unknown".to_owned(),
        RedeliveryAnswer::NoAnswer(_) => "no response".to_owned(),
    }
}

fn redelivery(series: &Series<'_>) -> String {
    let job = series.job.map_or("unknown", |job| job.status.as_str());
    let outcome = match series.end() {
        Some(end) if end.after.status == Status::Completed => "delivered",
        Some(end) if is_cancel(end) => "cancelled",
        Some(_) => "not delivered",
        None => "not ended",
    };
    format!("{job}, {outcome}")
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
