//! The steps of a cancellation.

use storm_shared::models::Status;

use super::{STEP, Story};
use crate::chaos::history::{CancelAnswer, CancelAsked, Record, RowState};

impl Story {
    /// The job ends under a new claim number.
    pub(in super::super::super) fn cancelled(self) -> Self {
        self.cancelled_with(|_| {})
    }

    /// The same, with another `change` of the row.
    pub(in super::super::super) fn cancelled_with(
        self,
        change: impl FnOnce(&mut RowState),
    ) -> Self {
        self.moved(|state| {
            state.status = Status::Failed;
            state.claim += 1;
            state.owner = None;
            change(state);
        })
        .row(Some("cancelled"))
    }

    /// The redelivery ends under a new claim number, and its job keeps its reason.
    pub(in super::super::super) fn redelivery_cancelled(self) -> Self {
        self.redelivery_ended(Status::Failed, |state| {
            state.claim += 1;
            state.owner = None;
        })
    }

    /// A request to cancel that was sent two steps ago, and its response.
    pub(in super::super::super) fn cancel_asked(mut self, answer: CancelAnswer) -> Self {
        let asked = CancelAsked {
            asked_at: self.now - STEP * 2,
            at: self.now,
            id: self.id,
            answer,
        };
        self.push(Record::CancelAsked(asked));
        self
    }
}
