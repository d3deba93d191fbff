//! The steps of a redelivery.

use storm_shared::models::Status;

use super::{STEP, Story};
use crate::chaos::history::{Record, RedeliveryAnswer, RedeliveryAsked, RowKind, RowState};

impl Story {
    /// A redelivery is asked for, and begins.
    pub(in super::super::super) fn redelivering(self) -> Self {
        self.redelivery_inserted()
            .asked_again(RedeliveryAnswer::Accepted)
    }

    /// A redelivery begins. All later steps are those of its row, until its end.
    pub(in super::super::super) fn redelivery_inserted(mut self) -> Self {
        self.job = self.state.clone();
        self.kind = RowKind::Redelivery;
        self.state.status = Status::Pending;
        self.state.owner = None;
        self.state.lost_claims = 0;
        self.inserted()
    }

    /// A request for a redelivery that was sent two steps ago, and its response.
    pub(in super::super::super) fn asked_again(mut self, answer: RedeliveryAnswer) -> Self {
        let asked = RedeliveryAsked {
            asked_at: self.now - STEP * 2,
            at: self.now,
            id: self.id,
            answer,
        };
        self.push(Record::RedeliveryAsked(asked));
        self
    }

    /// The redelivery succeeds: a job that was `FAILED` is `COMPLETED`, unless its work failed.
    pub(in super::super::super) fn redelivered(mut self) -> Self {
        if !self.work_failed {
            self.failure_reason = None;
        }
        self.redelivery_ended(Status::Completed, |state| state.attempts += 1)
    }

    /// The final attempt of a redelivery fails, for `reason`.
    pub(in super::super::super) fn redelivery_failed(mut self, reason: &str) -> Self {
        if self.job.status == Status::Failed {
            self.failure_reason = Some(reason.to_owned());
        }
        self.event("attempt_failed")
            .redelivery_ended(Status::Failed, |state| state.attempts += 1)
    }

    /// One transaction counts, writes back to the job, and deletes the redelivery.
    pub(in super::super::super) fn redelivery_ended(
        self,
        status: Status,
        count: impl FnOnce(&mut RowState),
    ) -> Self {
        self.redelivery_ended_with(status, count, |_| {})
    }

    /// As `redelivery_ended`, with a `change` of what is written back.
    pub(in super::super::super) fn redelivery_ended_with(
        mut self,
        status: Status,
        count: impl FnOnce(&mut RowState),
        change: impl FnOnce(&mut RowState),
    ) -> Self {
        let claimed = self.state.clone();
        count(&mut self.state);
        self.record_move(Some(claimed), None);

        let (counted, before) = (self.state.clone(), self.job.clone());
        self.kind = RowKind::Job;
        self.state.status = before.status;
        self.record_move(Some(before), None);
        let redeems = (self.state.status, status) == (Status::Failed, Status::Completed);
        if redeems && !self.work_failed {
            let before = self.state.clone();
            self.state.status = status;
            self.record_move(Some(before), None);
        }
        let before = self.state.clone();
        change(&mut self.state);
        if self.state != before {
            self.record_move(Some(before), None);
        }

        let job = std::mem::replace(
            &mut self.state,
            RowState {
                status,
                ..counted.clone()
            },
        );
        self.kind = RowKind::Redelivery;
        self.record_move(Some(counted), None);
        (self.kind, self.state) = (RowKind::Job, job);
        self.now += STEP;
        let reason = self.failure_reason.clone();
        self.row(reason.as_deref())
    }
}
