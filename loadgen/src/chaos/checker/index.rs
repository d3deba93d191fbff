//! The records by job, sorted out once: there are millions.

use std::collections::{BTreeMap, HashMap};

use storm_shared::models::{RequestId, Status};

use super::is_over;
use crate::chaos::history::{
    Answer, Event, Fault, Footprint, Looked, Moved, Received, Record, Row, Told,
};

/// Everything that is known of one job.
#[derive(Debug)]
pub(super) struct Job<'a> {
    pub(super) id: RequestId,
    /// The `202`s that name it.
    pub(super) promises: Vec<&'a Told>,
    /// The request that it was made for: the one with the name of its row's report.
    pub(super) request: Option<&'a Told>,
    pub(super) row: Option<&'a Row>,
    /// In the database's order.
    pub(super) moves: Vec<&'a Moved>,
    /// By time.
    pub(super) events: Vec<&'a Event>,
    /// By time.
    pub(super) callbacks: Vec<&'a Received>,
    pub(super) looks: Vec<&'a Looked>,
}

impl<'a> Job<'a> {
    fn new(id: RequestId) -> Self {
        Self {
            id,
            promises: Vec::new(),
            request: None,
            row: None,
            moves: Vec::new(),
            events: Vec::new(),
            callbacks: Vec::new(),
            looks: Vec::new(),
        }
    }

    /// The events that ended a claim and not the job. The last attempt of a job whose callback failed
    /// may be recorded as well: it excuses nothing, for no claim comes after it.
    pub(super) fn excuses(&self) -> impl Iterator<Item = &'a Event> {
        let failed = self.row.filter(|row| row.held.status == Status::Failed);
        let last_claim = failed.map(|row| row.held.claim);
        let events = self.events.iter().copied();
        events
            .filter(move |event| event.event != "attempt_failed" || Some(event.claim) != last_claim)
    }

    /// Whether this is no job but the record of a `/sync` request, written once when it was over.
    /// Nobody asked for it by `/async`.
    pub(super) fn is_sync(&self) -> bool {
        let written_over = self
            .moves
            .first()
            .is_some_and(|first| first.before.is_none() && is_over(first.after.status));
        written_over && self.request.is_none() && self.promises.is_empty()
    }
}

/// A history, by job and by kind.
#[derive(Debug, Default)]
pub(super) struct Index<'a> {
    /// In the order of the ids, which is that of acceptance.
    jobs: BTreeMap<RequestId, Job<'a>>,
    pub(super) told: Vec<&'a Told>,
    pub(super) faults: Vec<&'a Fault>,
    pub(super) footprints: Vec<&'a Footprint>,
}

impl<'a> Index<'a> {
    pub(super) fn of(records: &'a [Record]) -> Self {
        let mut index = Self::default();
        for record in records {
            index.add(record);
        }
        let by_name: HashMap<&str, &Told> = index
            .told
            .iter()
            .map(|told| (told.report_name.as_str(), *told))
            .collect();
        for job in index.jobs.values_mut() {
            job.request = job
                .row
                .and_then(|row| by_name.get(row.report_name.as_str()).copied());
            job.events.sort_by_key(|event| event.at);
            job.callbacks.sort_by_key(|callback| callback.at);
        }
        index
    }

    pub(super) fn jobs(&self) -> impl Iterator<Item = &Job<'a>> {
        self.jobs.values()
    }

    fn add(&mut self, record: &'a Record) {
        match record {
            Record::Limits(_) => {}
            Record::Told(told) => {
                self.told.push(told);
                if let Answer::Accepted(id) = told.answer {
                    self.job(id).promises.push(told);
                }
            }
            Record::Looked(looked) => self.job(looked.id).looks.push(looked),
            Record::Received(received) => self.job(received.id).callbacks.push(received),
            Record::Moved(moved) => self.job(moved.id).moves.push(moved),
            Record::Row(row) => self.job(row.id).row = Some(row),
            Record::Event(event) => self.job(event.id).events.push(event),
            Record::Fault(fault) => self.faults.push(fault),
            Record::Footprint(footprint) => self.footprints.push(footprint),
        }
    }

    fn job(&mut self, id: RequestId) -> &mut Job<'a> {
        self.jobs.entry(id).or_insert_with(|| Job::new(id))
    }
}
