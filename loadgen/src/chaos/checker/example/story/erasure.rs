//! The steps of an erasure.

use storm_shared::models::Status;

use super::{STEP, Story};
use crate::chaos::history::{EraseAnswer, EraseAsked, Erased, Record, RowState};

/// When each request is erased, by the wall clock.
const ERASED_AT: &str = "2026-01-06T16:00:00.000Z";

impl Story {
    /// The contents are removed.
    pub(in super::super::super) fn erased(self) -> Self {
        self.erased_with(|_| {})
    }

    /// The same, with another `change` of the row.
    pub(in super::super::super) fn erased_with(self, change: impl FnOnce(&mut RowState)) -> Self {
        let reason = self.failure_reason.clone();
        let mut story = self.moved(|state| {
            state.result = None;
            change(state);
        });
        if let Some(Record::Transition(moved)) = story.records.last_mut() {
            moved.erases = true;
        }
        let erased = Record::Erased(Erased {
            id: story.id,
            erased_at: ERASED_AT.to_owned(),
            outcome_kept: true,
            left: Vec::new(),
        });
        // What is left is read once, at the end of the run.
        story.records.retain(|record| *record != erased);
        story.records.push(erased);
        story.row(reason.as_deref())
    }

    /// A request to erase it that was sent two steps ago, and its response.
    pub(in super::super::super) fn erase_asked(mut self, answer: EraseAnswer) -> Self {
        let asked = EraseAsked {
            asked_at: self.now - STEP * 2,
            at: self.now,
            id: self.id,
            answer,
        };
        self.push(Record::EraseAsked(asked));
        self
    }

    /// The same, answered with `200`.
    pub(in super::super::super) fn erase_answered(self) -> Self {
        self.erase_asked(EraseAnswer::Erased {
            erased_at: ERASED_AT.to_owned(),
        })
    }

    /// A poll that shows it as erased, and this of its contents.
    pub(in super::super::super) fn polled_erased(self, status: Status, shown: &[&str]) -> Self {
        let mut story = self.polled(Some(status));
        if let Some(Record::Polled(polled)) = story.records.last_mut() {
            polled.erased = true;
            polled.shown = shown.iter().copied().map(str::to_owned).collect();
        }
        story
    }
}
