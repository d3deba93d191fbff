//! Indexes the records by job in one pass: a long run has millions.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
    rc::Rc,
};

use jiff::Timestamp;
use storm_shared::models::{RequestId, Status};

use super::{is_final, not_later, pauses::Pause, series::Series};
use crate::chaos::history::{
    CancelAsked, Deleted, EraseAsked, Erased, Fault, FilterApplied, FilterAsked, Footprint,
    HistoryEvent, PauseAsked, PauseChanged, Polled, Received, Record, RedeliveryAsked, Row,
    SubmitAnswer, Submitted, Transition, WorkAttempt, WorkEnd, WorkRequest, WorkStored,
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
    pub(super) deleted: Option<&'a Deleted>,
    pub(super) erased: Option<&'a Erased>,
    /// The changes of its own row.
    pub(super) own: Series<'a>,
    /// The changes of the row of each redelivery, in commit order.
    pub(super) redeliveries: Vec<Series<'a>>,
    /// The responses to requests for a redelivery, by time.
    pub(super) asked: Vec<&'a RedeliveryAsked>,
    /// The responses to requests to cancel it, by time.
    pub(super) cancels: Vec<&'a CancelAsked>,
    /// The responses to requests to erase it, by time.
    pub(super) erasures: Vec<&'a EraseAsked>,
    /// By time.
    pub(super) events: Vec<&'a HistoryEvent>,
    /// By time.
    pub(super) callbacks: Vec<&'a Received>,
    pub(super) polls: Vec<&'a Polled>,
    /// The requests for its work that the endpoint of its handler read, by time.
    pub(super) work_requests: Vec<&'a WorkRequest>,
    /// What the store has of its work, in commit order.
    pub(super) work_stored: Vec<&'a WorkStored>,
    /// The recorded attempts at its work.
    pub(super) work_attempts: Vec<&'a WorkAttempt>,
    /// The pauses of all origins.
    pub(super) pauses: Rc<[Pause]>,
    /// All changes of its rows, in commit order.
    pub(super) moves: Vec<&'a Transition>,
}

impl<'a> JobHistory<'a> {
    fn new(id: RequestId) -> Self {
        Self {
            id,
            acceptances: Vec::new(),
            request: None,
            row: None,
            deleted: None,
            erased: None,
            own: Series::of(&[]).0,
            redeliveries: Vec::new(),
            asked: Vec::new(),
            cancels: Vec::new(),
            erasures: Vec::new(),
            events: Vec::new(),
            callbacks: Vec::new(),
            polls: Vec::new(),
            work_requests: Vec::new(),
            work_stored: Vec::new(),
            work_attempts: Vec::new(),
            pauses: Rc::default(),
            moves: Vec::new(),
        }
    }

    /// The changes of each of its rows: of its own, then of those of its redeliveries.
    pub(super) fn series(&self) -> impl Iterator<Item = &Series<'a>> {
        std::iter::once(&self.own).chain(&self.redeliveries)
    }

    /// The events that ended a claim but not the job or the redelivery: each explains one duplicate
    /// delivery.
    pub(super) fn explaining_events(&self) -> impl Iterator<Item = &'a HistoryEvent> {
        // No claim follows the final attempt of what has failed, so its `attempt_failed` explains
        // no duplicate.
        let is_last = |event: &HistoryEvent| {
            let mut failed = self.series().filter_map(|it| it.end_as(Status::Failed));
            event.event == "attempt_failed" && failed.any(|end| end.after.claim == event.claim)
        };
        // An event before the end of the work explains no duplicate: there was no callback yet.
        let worked = self.work_stored.first().map(|stored| stored.not_before);
        let is_early = move |event: &HistoryEvent| worked.is_some_and(|worked| event.at < worked);
        let events = self.events.iter().copied();
        events.filter(move |event| !is_last(event) && !is_early(event))
    }

    /// How it was submitted, as far as that is known.
    pub(super) fn submitted(&self) -> Option<&'a Submitted> {
        self.request.or(self.acceptances.first().copied())
    }

    /// The handler that does its work; none for a report.
    pub(super) fn handler(&self) -> Option<&str> {
        let requested = self.submitted().and_then(|it| it.handler.as_deref());
        requested.or_else(|| self.row?.handler.as_deref())
    }

    /// The reason for which its work failed, if it did.
    pub(super) fn work_failure(&self) -> Option<&'a str> {
        match &self.work_stored.first()?.end {
            WorkEnd::Failure(reason) => Some(reason),
            WorkEnd::Result(_) => None,
        }
    }

    /// The change by which a redelivery turned it from `FAILED` to `COMPLETED`.
    pub(super) fn redeemed(&self) -> Option<&Transition> {
        let before = |moved: &&Transition| moved.before.as_ref().map(|before| before.status);
        let mut moves = self.own.moves.iter().map(AsRef::as_ref);
        moves.find(|moved| {
            before(moved) == Some(Status::Failed) && moved.after.status == Status::Completed
        })
    }

    /// The change that erased it. It may be the first of several.
    pub(super) fn erasure(&self) -> Option<&'a Transition> {
        self.moves.iter().copied().find(|moved| moved.erases)
    }

    /// Whether it may have been erased by this moment.
    pub(super) fn may_be_erased(&self, by: Timestamp) -> bool {
        let erasure = self.erasure();
        erasure.is_some_and(|erasure| not_later(erasure.earliest(), by))
    }

    /// Its stored result, also if it was erased.
    pub(super) fn result(&self) -> Option<&str> {
        let row = self.row.and_then(|row| row.state.result.as_deref());
        row.or_else(|| self.erasure()?.before.as_ref()?.result.as_deref())
    }

    /// Whether a `404` at this moment may be true: its row may have been deleted.
    pub(super) fn may_be_deleted(&self, by: Timestamp) -> bool {
        let deleted = self.deleted;
        deleted.is_some_and(|deleted| not_later(deleted.not_before, by))
    }

    /// When it was first heard of, apart from its callbacks.
    pub(super) fn started(&self) -> Option<Timestamp> {
        let requested = self.request.map(|request| request.at);
        requested.or_else(|| self.own.begun().map(|moved| moved.at))
    }

    /// Whether the row is the record of a `/sync` request: inserted once, in a final status, and
    /// not requested through `/async`.
    pub(super) fn is_sync(&self) -> bool {
        let inserted_final = self
            .own
            .begun()
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
    /// The requests of operators, by time.
    pub(super) pauses_asked: Vec<&'a PauseAsked>,
    /// In commit order.
    pub(super) pause_changes: Vec<&'a PauseChanged>,
    /// The actions of operators by filter, by time.
    pub(super) filters_asked: Vec<&'a FilterAsked>,
    /// Their records in the store's audit, in commit order.
    pub(super) filters_applied: Vec<&'a FilterApplied>,
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
        index.pauses_asked.sort_by_key(|asked| asked.at);
        index.pause_changes.sort_by_key(|change| change.at);
        index.filters_asked.sort_by_key(|asked| asked.at);
        let pauses = Pause::all(&index.pause_changes).into_iter();
        let pauses: Rc<[Pause]> = pauses.filter(|it| it.origin.is_some()).collect();
        for job in index.jobs.values_mut() {
            job.pauses = Rc::clone(&pauses);
            job.request = job
                .row
                .and_then(|row| by_name.get(row.report_name.as_str()).copied());
            // `moves` are not sorted: they are stored in commit order.
            (job.own, job.redeliveries) = Series::of(&job.moves);
            let attempts = job.work_attempts.iter().map(|attempt| attempt.number);
            job.own.work_attempts = attempts.max().unwrap_or(0);
            job.work_requests.sort_by_key(|asked| asked.at);
            job.asked.sort_by_key(|asked| asked.at);
            job.cancels.sort_by_key(|asked| asked.at);
            job.erasures.sort_by_key(|asked| asked.at);
            // An event excuses what came after it, so it counts from its earliest moment.
            job.events.sort_by_key(|event| event.earliest());
            job.callbacks.sort_by_key(|callback| callback.at);
        }
        index
    }

    pub(super) fn jobs(&self) -> impl Iterator<Item = &JobHistory<'a>> {
        self.jobs.values()
    }

    pub(super) fn find(&self, id: RequestId) -> Option<&JobHistory<'a>> {
        self.jobs.get(&id)
    }

    /// The jobs with a greater id than `after`, up to that of `to`; none: no bound.
    pub(super) fn jobs_within(
        &self,
        after: Option<RequestId>,
        to: Option<RequestId>,
    ) -> impl Iterator<Item = &JobHistory<'a>> {
        let after = after.map_or(Bound::Unbounded, Bound::Excluded);
        let to = to.map_or(Bound::Unbounded, Bound::Included);
        self.jobs.range((after, to)).map(|(_, job)| job)
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
            Record::RedeliveryAsked(asked) => self.job(asked.id).asked.push(asked),
            Record::CancelAsked(asked) => self.job(asked.id).cancels.push(asked),
            Record::EraseAsked(asked) => self.job(asked.id).erasures.push(asked),
            Record::Received(received) => self.job(received.id).callbacks.push(received),
            Record::WorkRequest(asked) => self.job(asked.id).work_requests.push(asked),
            Record::WorkStored(stored) => self.job(stored.id).work_stored.push(stored),
            Record::WorkAttempt(attempt) => self.job(attempt.id).work_attempts.push(attempt),
            Record::Transition(moved) => self.job(moved.id).moves.push(moved),
            Record::Row(row) => self.job(row.id).row = Some(row),
            Record::Erased(erased) => self.job(erased.id).erased = Some(erased),
            Record::Deleted(deleted) => self.job(deleted.id).deleted = Some(deleted),
            Record::PauseAsked(asked) => self.pauses_asked.push(asked),
            Record::PauseChanged(change) => self.pause_changes.push(change),
            Record::FilterAsked(asked) => self.filters_asked.push(asked),
            Record::FilterApplied(applied) => self.filters_applied.push(applied),
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
        SubmitAnswer::KeyReused | SubmitAnswer::OutcomeUnknown | SubmitAnswer::NoAnswer(_) => 1,
        SubmitAnswer::Refused(_) => 0,
    }
}
