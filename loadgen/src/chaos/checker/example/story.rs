//! A builder for the records of one job, step by step.

mod cancel;
mod erasure;
mod filters;
mod redelivery;
mod work;

use jiff::{SignedDuration, Timestamp};
use storm_shared::{
    models::{Records, ReportName, ReportSpec, RequestId, Status},
    services::report::expected,
};

use super::{CLIENT, LONGEST_PARK, ORIGIN, RETRY_DELAY, at, id};
use crate::chaos::history::{
    Deleted, HistoryEvent, Polled, Received, Record, Row, RowKind, RowState, SubmitAnswer,
    Submitted, Transition,
};

/// The time between two steps of a story.
pub(in super::super) const STEP: SignedDuration = SignedDuration::from_millis(20);

/// The records of one job so far.
pub(in super::super) struct Story {
    pub(in super::super) records: Vec<Record>,
    pub(in super::super) now: Timestamp,
    /// The state of the row that changes now: the job's, or that of its redelivery.
    pub(in super::super) state: RowState,
    kind: RowKind,
    /// The state of the job during a redelivery, and its reason if it has failed.
    job: RowState,
    failure_reason: Option<String>,
    /// When the job is due.
    pub(in super::super) due: Option<Timestamp>,
    pub(in super::super) id: RequestId,
    spec: ReportSpec,
    called_back: bool,
    /// The handler, and whether its work has failed.
    handler: Option<String>,
    work_failed: bool,
    created: Timestamp,
}

/// When a job is due after a transition at `now`, as the contract has it.
fn due(before: &RowState, after: &RowState, now: Timestamp) -> Option<Timestamp> {
    if after.status != Status::Pending {
        return None;
    }
    Some(if after.attempts > before.attempts {
        now + RETRY_DELAY
    } else if after.parks > before.parks {
        now + LONGEST_PARK
    } else {
        now
    })
}

impl Story {
    /// The story of a job that is inserted `millis` milliseconds after the start.
    pub(in super::super) fn of(millis: u64) -> Self {
        Self::nothing_of(millis).inserted()
    }

    /// The story of a request without a job.
    pub(in super::super) fn nothing_of(millis: u64) -> Self {
        let state = RowState {
            status: Status::Pending,
            claim: 0,
            owner: None,
            attempts: 0,
            lost_claims: 0,
            result: None,
            parks: 0,
        };
        Self {
            records: Vec::new(),
            now: at(millis),
            job: state.clone(),
            state,
            kind: RowKind::Job,
            failure_reason: None,
            due: None,
            id: id(millis),
            spec: ReportSpec {
                report_name: ReportName::try_from(format!("chaos-7-{millis:06}")).unwrap(),
                records: Records::new(1 + millis % 7, Records::MAX_ASYNC).unwrap(),
            },
            called_back: true,
            handler: None,
            work_failed: false,
            created: at(millis),
        }
    }

    /// A job for the report of another one.
    pub(in super::super) fn for_report_of(mut self, millis: u64) -> Self {
        self.spec = Self::of(millis).spec;
        self
    }

    pub(in super::super) fn without_callback_url(mut self) -> Self {
        self.called_back = false;
        self
    }

    pub(in super::super) fn submitted(self, answer: SubmitAnswer) -> Self {
        self.submitted_with(false, answer)
    }

    /// Submitted with an idempotency key.
    pub(in super::super) fn keyed(self, answer: SubmitAnswer) -> Self {
        self.submitted_with(true, answer)
    }

    fn submitted_with(mut self, keyed: bool, answer: SubmitAnswer) -> Self {
        let submitted = Submitted {
            at: self.now,
            report_name: self.spec.report_name.as_str().to_owned(),
            records: self.spec.records.count(),
            keyed,
            handler: self.handler.clone(),
            client: Some(CLIENT.to_owned()),
            origin: self.called_back.then(|| ORIGIN.to_owned()),
            answer,
        };
        self.push(Record::Submitted(submitted));
        self
    }

    /// Inserts the row. A second insert is a violation.
    pub(in super::super) fn inserted(mut self) -> Self {
        self.due = (self.state.status == Status::Pending).then_some(self.now);
        self.record_move(None, None);
        self.now += STEP;
        self
    }

    /// Records a transition to the present state.
    fn record_move(&mut self, before: Option<RowState>, was_due: Option<Timestamp>) {
        let moved = Transition {
            kind: self.kind,
            at: self.now,
            not_before: None,
            id: self.id,
            before,
            after: self.state.clone(),
            was_due,
            due: self.due,
            erases: false,
            reason: None,
            by_filter: false,
        };
        self.records.push(Record::Transition(moved));
    }

    pub(in super::super) fn accepted(self) -> Self {
        let id = self.id;
        self.submitted(SubmitAnswer::Accepted(id))
    }

    pub(in super::super) fn unanswered(self) -> Self {
        self.submitted(SubmitAnswer::NoAnswer("connection closed".to_owned()))
    }

    /// Shifts the time of the next step.
    pub(in super::super) fn later(mut self, by: SignedDuration) -> Self {
        self.now += by;
        self
    }

    /// Any transition.
    pub(in super::super) fn moved(mut self, change: impl FnOnce(&mut RowState)) -> Self {
        let (before, was_due) = (self.state.clone(), self.due);
        change(&mut self.state);
        self.due = due(&before, &self.state, self.now);
        self.record_move(Some(before), was_due);
        self.now += STEP;
        self
    }

    /// Changes when the job is due, after the transition that was made last.
    pub(in super::super) fn due_at(mut self, due: Timestamp) -> Self {
        self.due = Some(due);
        if let Some(Record::Transition(moved)) = self.records.last_mut() {
            moved.due = self.due;
        }
        self
    }

    pub(in super::super) fn claimed_by(self, owner: &str) -> Self {
        self.moved(|state| {
            state.status = Status::Processing;
            state.claim += 1;
            state.owner = Some(owner.to_owned());
        })
    }

    /// Stores the result before the callback.
    pub(in super::super) fn stored(self) -> Self {
        let result = self.result();
        self.moved(|state| state.result = Some(result))
    }

    pub(in super::super) fn called(mut self, answered: Option<u16>) -> Self {
        let received = Received {
            at: self.now,
            id: self.id,
            body_sha256: format!("{:064x}", self.spec.records.count()),
            right: true,
            answered,
            origin: Some(ORIGIN.to_owned()),
            work: self.work_end(),
        };
        self.push(Record::Received(received));
        self
    }

    pub(in super::super) fn polled(mut self, status: Option<Status>) -> Self {
        let asked_at = self.now;
        self.now += STEP;
        let polled = Polled {
            asked_at,
            at: self.now,
            id: self.id,
            status,
            erased: false,
            shown: Vec::new(),
        };
        self.push(Record::Polled(polled));
        self
    }

    pub(in super::super) fn event(mut self, event: &str) -> Self {
        let event = HistoryEvent {
            at: self.now,
            not_before: None,
            id: self.id,
            event: event.to_owned(),
            claim: self.state.claim,
            detail: None,
        };
        self.records.push(Record::Event(event)); // at the time of its transition
        self
    }

    pub(in super::super) fn attempt_failed(self) -> Self {
        let result = (!self.work_failed).then(|| self.result());
        self.event("attempt_failed").moved(|state| {
            state.status = Status::Pending;
            state.owner = None;
            state.attempts += 1;
            state.result = result; // a short report is stored together with the outcome
        })
    }

    /// Parked: the receiver's circuit is open.
    pub(in super::super) fn parked(self) -> Self {
        let result = self.result();
        self.moved(|state| {
            state.status = Status::Pending;
            state.owner = None;
            state.parks += 1;
            state.lost_claims = 0;
            state.result.get_or_insert(result);
        })
    }

    /// Unparked: the receiver has recovered.
    pub(in super::super) fn unparked(self) -> Self {
        self.moved(|_| {})
    }

    pub(in super::super) fn released(self) -> Self {
        self.event("given_back").moved(|state| {
            state.status = Status::Pending;
            state.owner = None;
        })
    }

    pub(in super::super) fn lost(self) -> Self {
        self.event("claim_lost").moved(|state| {
            state.status = Status::Pending;
            state.owner = None;
            state.lost_claims += 1;
        })
    }

    pub(in super::super) fn completed(self) -> Self {
        let result = self.result();
        self.moved(|state| {
            state.status = Status::Completed;
            state.result = Some(result);
        })
        .row(None)
    }

    /// The final attempt fails.
    pub(in super::super) fn callback_failed(self) -> Self {
        self.event("attempt_failed")
            .moved(|state| {
                state.status = Status::Failed;
                state.attempts += 1;
            })
            .row(Some("callback_failed"))
    }

    pub(in super::super) fn dead_lettered(self) -> Self {
        self.event("claim_lost")
            .moved(|state| {
                state.status = Status::Failed;
                state.lost_claims += 1;
            })
            .row(Some("poison"))
    }

    /// The final row, as left by the last transition, `STEP` ago.
    pub(in super::super) fn row(mut self, failure_reason: Option<&str>) -> Self {
        let over = matches!(self.state.status, Status::Completed | Status::Failed);
        let row = Row {
            id: self.id,
            report_name: self.spec.report_name.as_str().to_owned(),
            handler: self.handler.clone(),
            state: self.state.clone(),
            failure_reason: failure_reason.map(str::to_owned),
            failure_detail: None,
            called_back: self.called_back,
            completed_at: over.then(|| self.now - STEP),
            created_at: Some(self.created),
        };
        self.failure_reason = failure_reason.map(str::to_owned);
        // The row is read once, at the end of the run.
        self.records
            .retain(|record| !matches!(record, Record::Row(_)));
        self.records.push(Record::Row(row));
        self
    }

    /// The row is deleted, and has the time of its last end.
    pub(in super::super) fn deleted(self) -> Self {
        let ended = self.records.iter().rev().find_map(|record| match record {
            Record::Transition(moved)
                if matches!(moved.after.status, Status::Completed | Status::Failed) =>
            {
                Some(moved.at)
            }
            _ => None,
        });
        self.deleted_as(ended, false)
    }

    /// The same, with another time of its end, or during a redelivery.
    pub(in super::super) fn deleted_as(
        mut self,
        ended: Option<Timestamp>,
        redelivering: bool,
    ) -> Self {
        let deleted = Deleted {
            at: self.now,
            not_before: self.now,
            id: self.id,
            ended,
            redelivering,
        };
        self.push(Record::Deleted(deleted));
        self
    }

    /// The correct result, as it is stored.
    pub(in super::super) fn result(&self) -> String {
        if self.handler.is_some() {
            return Self::work_result().to_owned();
        }
        serde_json::to_string(&expected(&self.spec)).unwrap()
    }

    /// The record of a `/sync` request, which is inserted in its final status.
    pub(in super::super) fn inserted_final(mut self) -> Self {
        self.state.status = Status::Completed;
        self.state.result = Some(self.result());
        self.without_callback_url().inserted().row(None)
    }

    fn push(&mut self, record: Record) {
        self.records.push(record);
        self.now += STEP;
    }
}
