//! Indexes the records by job in one pass: a long run has millions.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;
use storm_shared::models::{RequestId, Status};

use super::is_final;
use crate::chaos::history::{
    Fault, Footprint, HistoryEvent, Polled, Received, Record, Row, SubmitAnswer, Submitted,
    Transition,
};

/// All records of one job.
#[derive(Debug)]
pub(super) struct JobHistory<'a> {
    pub(super) id: RequestId,
    /// The `202` responses with its id.
    pub(super) acceptances: Vec<&'a Submitted>,
    /// The request with the report name of its row. Of several with one idempotency key, the one
    /// whose answer promises most.
    pub(super) request: Option<&'a Submitted>,
    pub(super) row: Option<&'a Row>,
    /// In commit order.
    pub(super) moves: Vec<&'a Transition>,
    /// By time.
    pub(super) events: Vec<&'a HistoryEvent>,
    /// By time.
    pub(super) callbacks: Vec<&'a Received>,
    pub(super) polls: Vec<&'a Polled>,
}

impl<'a> JobHistory<'a> {
    fn new(id: RequestId) -> Self {
        Self {
            id,
            acceptances: Vec::new(),
            request: None,
            row: None,
            moves: Vec::new(),
            events: Vec::new(),
            callbacks: Vec::new(),
            polls: Vec::new(),
        }
    }

    /// The events that ended a claim but not the job: each explains one duplicate delivery.
    pub(super) fn explaining_events(&self) -> impl Iterator<Item = &'a HistoryEvent> {
        // No claim follows the final attempt of a failed job, so its `attempt_failed` explains no
        // duplicate.
        let failed = self.row.filter(|row| row.state.status == Status::Failed);
        let last_claim = failed.map(|row| row.state.claim);
        let events = self.events.iter().copied();
        events
            .filter(move |event| event.event != "attempt_failed" || Some(event.claim) != last_claim)
    }

    /// The transition to its final status.
    pub(super) fn end(&self) -> Option<&'a Transition> {
        let mut moves = self.moves.iter().copied();
        moves.find(|moved| is_final(moved.after.status))
    }

    /// When it was first heard of, apart from its callbacks.
    pub(super) fn started(&self) -> Option<Timestamp> {
        let requested = self.request.map(|request| request.at);
        requested.or_else(|| self.moves.first().map(|moved| moved.at))
    }

    /// Whether the row is the record of a `/sync` request: inserted once, in a final status, and
    /// not requested through `/async`.
    pub(super) fn is_sync(&self) -> bool {
        let inserted_final = self
            .moves
            .first()
            .is_some_and(|first| first.before.is_none() && is_final(first.after.status));
        // An `/async` job that is inserted in a final status must not pass as a `/sync` record.
        inserted_final && self.request.is_none() && self.acceptances.is_empty()
    }
}

/// A history, indexed by job and by kind of record.
#[derive(Debug, Default)]
pub(super) struct Index<'a> {
    /// Ordered by id.
    jobs: BTreeMap<RequestId, JobHistory<'a>>,
    pub(super) submitted: Vec<&'a Submitted>,
    pub(super) faults: Vec<&'a Fault>,
    pub(super) footprints: Vec<&'a Footprint>,
}

impl<'a> Index<'a> {
    pub(super) fn of(records: &'a [Record]) -> Self {
        let mut index = Self::default();
        for record in records {
            index.add(record);
        }
        // A request without a `202` knows no id. The report name leads from its row back to it.
        let mut by_name: HashMap<&str, &Submitted> = HashMap::new();
        for submitted in &index.submitted {
            let known = by_name.entry(&submitted.report_name).or_insert(submitted);
            if promise(submitted) > promise(known) {
                *known = submitted;
            }
        }
        for job in index.jobs.values_mut() {
            job.request = job
                .row
                .and_then(|row| by_name.get(row.report_name.as_str()).copied());
            // `moves` are not sorted: they are stored in commit order. An event excuses what came
            // after it, so it counts from its earliest moment.
            job.events.sort_by_key(|event| event.earliest());
            job.callbacks.sort_by_key(|callback| callback.at);
        }
        index
    }

    pub(super) fn jobs(&self) -> impl Iterator<Item = &JobHistory<'a>> {
        self.jobs.values()
    }

    fn add(&mut self, record: &'a Record) {
        match record {
            // Every rule gets the limits as an argument.
            Record::Limits(_) => {}
            Record::Submitted(submitted) => {
                self.submitted.push(submitted);
                if let SubmitAnswer::Accepted(id) = submitted.answer {
                    self.job(id).acceptances.push(submitted);
                }
            }
            Record::Polled(polled) => self.job(polled.id).polls.push(polled),
            Record::Received(received) => self.job(received.id).callbacks.push(received),
            Record::Transition(moved) => self.job(moved.id).moves.push(moved),
            Record::Row(row) => self.job(row.id).row = Some(row),
            Record::Event(event) => self.job(event.id).events.push(event),
            Record::Fault(fault) => self.faults.push(fault),
            Record::Footprint(footprint) => self.footprints.push(footprint),
        }
    }

    fn job(&mut self, id: RequestId) -> &mut JobHistory<'a> {
        self.jobs.entry(id).or_insert_with(|| JobHistory::new(id))
    }
}

/// How much an answer promises: that there is a job, that there may be one, or that there is none.
fn promise(submitted: &Submitted) -> u8 {
    match submitted.answer {
        SubmitAnswer::Accepted(_) => 2,
        SubmitAnswer::OutcomeUnknown | SubmitAnswer::NoAnswer(_) => 1,
        SubmitAnswer::Refused(_) => 0,
    }
}
