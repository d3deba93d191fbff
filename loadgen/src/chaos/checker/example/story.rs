//! One job's story, told step by step.

use jiff::{SignedDuration, Timestamp};
use storm_shared::{
    models::{Records, ReportName, ReportSpec, RequestId, Status},
    services::report::expected,
};

use super::{at, id};
use crate::chaos::history::{Answer, Event, Held, Looked, Moved, Received, Record, Row, Told};

/// How much later each step of a story is than the one before.
pub(in super::super) const STEP: SignedDuration = SignedDuration::from_millis(20);

/// One job's records, as they come about.
pub(in super::super) struct Story {
    pub(in super::super) records: Vec<Record>,
    pub(in super::super) now: Timestamp,
    pub(in super::super) held: Held,
    id: RequestId,
    spec: ReportSpec,
    called_back: bool,
}

impl Story {
    /// Of the job that is inserted so many milliseconds from the start.
    pub(in super::super) fn of(millis: u64) -> Self {
        Self::nothing_of(millis).inserted()
    }

    /// Of a request that makes no job.
    pub(in super::super) fn nothing_of(millis: u64) -> Self {
        Self {
            records: Vec::new(),
            now: at(millis),
            held: Held {
                status: Status::Pending,
                claim: 0,
                owner: None,
                attempts: 0,
                lost_claims: 0,
                result: None,
                parks: 0,
            },
            id: id(millis),
            spec: ReportSpec {
                report_name: ReportName::try_from(format!("chaos-7-{millis:06}")).unwrap(),
                records: Records::new(1 + millis % 7, Records::MAX_ASYNC).unwrap(),
            },
            called_back: true,
        }
    }

    pub(in super::super) fn without_callback_url(mut self) -> Self {
        self.called_back = false;
        self
    }

    pub(in super::super) fn told(mut self, answer: Answer) -> Self {
        let told = Told {
            at: self.now,
            report_name: self.spec.report_name.as_str().to_owned(),
            records: self.spec.records.count(),
            answer,
        };
        self.push(Record::Told(told));
        self
    }

    /// As the story begins; or again, which is wrong.
    pub(in super::super) fn inserted(mut self) -> Self {
        let moved = Moved {
            at: self.now,
            id: self.id,
            before: None,
            after: self.held.clone(),
        };
        self.push(Record::Moved(moved));
        self
    }

    pub(in super::super) fn accepted(self) -> Self {
        let id = self.id;
        self.told(Answer::Accepted(id))
    }

    pub(in super::super) fn unanswered(self) -> Self {
        self.told(Answer::Nothing("connection closed".to_owned()))
    }

    /// The next step comes so much later, or earlier.
    pub(in super::super) fn later(mut self, by: SignedDuration) -> Self {
        self.now += by;
        self
    }

    /// Any move at all.
    pub(in super::super) fn moved(mut self, change: impl FnOnce(&mut Held)) -> Self {
        let before = self.held.clone();
        change(&mut self.held);
        let moved = Moved {
            at: self.now,
            id: self.id,
            before: Some(before),
            after: self.held.clone(),
        };
        self.push(Record::Moved(moved));
        self
    }

    pub(in super::super) fn claimed_by(self, owner: &str) -> Self {
        self.moved(|held| {
            held.status = Status::Processing;
            held.claim += 1;
            held.owner = Some(owner.to_owned());
        })
    }

    /// The result is stored before its callback.
    pub(in super::super) fn stored(self) -> Self {
        let result = self.result();
        self.moved(|held| held.result = Some(result))
    }

    pub(in super::super) fn called(mut self, answered: Option<u16>) -> Self {
        let received = Received {
            at: self.now,
            id: self.id,
            body_sha256: format!("{:064x}", self.spec.records.count()),
            right: true,
            answered,
        };
        self.push(Record::Received(received));
        self
    }

    pub(in super::super) fn looked(mut self, status: Option<Status>) -> Self {
        let asked_at = self.now;
        self.now += STEP;
        let looked = Looked {
            asked_at,
            at: self.now,
            id: self.id,
            status,
        };
        self.push(Record::Looked(looked));
        self
    }

    pub(in super::super) fn event(mut self, event: &str) -> Self {
        let event = Event {
            at: self.now,
            id: self.id,
            event: event.to_owned(),
            claim: self.held.claim,
            detail: None,
        };
        self.records.push(Record::Event(event)); // of the same moment as its move
        self
    }

    pub(in super::super) fn attempt_failed(self) -> Self {
        let result = self.result();
        self.event("attempt_failed").moved(|held| {
            held.status = Status::Pending;
            held.owner = None;
            held.attempts += 1;
            held.result = Some(result); // a quick report is stored with its outcome
        })
    }

    /// Put off for its receiver's sake.
    pub(in super::super) fn parked(self) -> Self {
        let result = self.result();
        self.moved(|held| {
            held.status = Status::Pending;
            held.owner = None;
            held.parks += 1;
            held.lost_claims = 0;
            held.result.get_or_insert(result);
        })
    }

    /// Its wait was ended.
    pub(in super::super) fn unparked(self) -> Self {
        self.moved(|_| {})
    }

    pub(in super::super) fn given_back(self) -> Self {
        self.event("given_back").moved(|held| {
            held.status = Status::Pending;
            held.owner = None;
        })
    }

    pub(in super::super) fn lost(self) -> Self {
        self.event("claim_lost").moved(|held| {
            held.status = Status::Pending;
            held.owner = None;
            held.lost_claims += 1;
        })
    }

    pub(in super::super) fn completed(self) -> Self {
        let result = self.result();
        self.moved(|held| {
            held.status = Status::Completed;
            held.result = Some(result);
        })
        .row(None)
    }

    /// Another attempt, the last, has failed.
    pub(in super::super) fn callback_failed(self) -> Self {
        self.event("attempt_failed")
            .moved(|held| {
                held.status = Status::Failed;
                held.attempts += 1;
            })
            .row(Some("callback_failed"))
    }

    pub(in super::super) fn condemned(self) -> Self {
        self.event("claim_lost")
            .moved(|held| {
                held.status = Status::Failed;
                held.lost_claims += 1;
            })
            .row(Some("poison"))
    }

    /// The row at the end, which is as it was left by the last move, `STEP` ago.
    pub(in super::super) fn row(mut self, failure_reason: Option<&str>) -> Self {
        let over = matches!(self.held.status, Status::Completed | Status::Failed);
        let row = Row {
            id: self.id,
            report_name: self.spec.report_name.as_str().to_owned(),
            held: self.held.clone(),
            failure_reason: failure_reason.map(str::to_owned),
            failure_detail: None,
            called_back: self.called_back,
            completed_at: over.then(|| self.now - STEP),
        };
        self.records.push(Record::Row(row));
        self
    }

    /// The right result, as it is stored.
    pub(in super::super) fn result(&self) -> String {
        serde_json::to_string(&expected(&self.spec)).unwrap()
    }

    /// The record of a `/sync` request, which is inserted when it is over.
    pub(in super::super) fn inserted_over(mut self) -> Self {
        self.held.status = Status::Completed;
        self.held.result = Some(self.result());
        self.without_callback_url().inserted().row(None)
    }

    fn push(&mut self, record: Record) {
        self.records.push(record);
        self.now += STEP;
    }
}
