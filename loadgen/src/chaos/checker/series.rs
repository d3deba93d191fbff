//! The changes of one row from its insert on: a job has its own row, and one for each redelivery.
//! The same rules hold for both.

use std::{borrow::Cow, mem, ptr};

use storm_shared::models::Status;

use super::is_final;
use crate::chaos::history::{RowKind, RowState, Transition};

/// The changes of one row.
#[derive(Debug)]
pub(super) struct Series<'a> {
    pub(super) kind: RowKind,
    /// In commit order.
    pub(super) moves: Vec<Cow<'a, Transition>>,
    /// The attempts at the work of a job, which come before those at its callback.
    pub(super) work_attempts: i64,
    /// The state of the job when its redelivery began.
    pub(super) job: Option<&'a RowState>,
    /// The changes of the job's row that came with the end of its redelivery.
    pub(super) written_back: Vec<&'a Transition>,
}

impl<'a> Series<'a> {
    fn new(kind: RowKind, job: Option<&'a RowState>) -> Self {
        Self {
            kind,
            moves: Vec::new(),
            work_attempts: 0,
            job,
            written_back: Vec::new(),
        }
    }

    /// The series of a job's own row, and those of its redeliveries, from its changes in commit
    /// order.
    pub(super) fn of(moves: &[&'a Transition]) -> (Self, Vec<Self>) {
        let mut own = Self::new(RowKind::Job, None);
        let mut redeliveries: Vec<Self> = Vec::new();
        // The changes of the job's row since the last change of a redelivery.
        let mut since = Vec::new();
        for moved in moves.iter().copied() {
            if moved.kind == RowKind::Job {
                own.moves.push(Cow::Borrowed(moved));
                since.push(moved);
                continue;
            }
            let since = mem::take(&mut since);
            // A change of a row whose insert is missing is left to the rule `moves`.
            if moved.before.is_none() || redeliveries.is_empty() {
                let job = own.moves.last().and_then(borrowed);
                let job = job.map(|moved| &moved.after);
                redeliveries.push(Self::new(RowKind::Redelivery, job));
            }
            let Some(series) = redeliveries.last_mut() else {
                continue;
            };
            if is_final(moved.after.status) {
                series.written_back = since;
                series.finish(moved);
            } else {
                series.moves.push(Cow::Borrowed(moved));
            }
        }
        (own, redeliveries)
    }

    /// Adds the deletion of a redelivery's row. The write that ends it counts the attempt, or the
    /// lost claim, or the claim number of a cancellation, right before it deletes the row: the two
    /// are one change.
    fn finish(&mut self, deleted: &'a Transition) {
        let counted = self.moves.last().filter(|last| {
            let ends = last.before.as_ref().is_some_and(|before| {
                let statuses = (before.status, last.after.status);
                statuses == (Status::Processing, Status::Processing)
                    || (before.status == last.after.status && is_taken_away(before, &last.after))
            });
            ends && deleted.before.as_ref() == Some(&last.after)
        });
        let end = match counted {
            Some(counted) => Cow::Owned(Transition {
                before: counted.before.clone(),
                was_due: counted.was_due,
                ..deleted.clone()
            }),
            None => Cow::Borrowed(deleted),
        };
        if matches!(end, Cow::Owned(_)) {
            self.moves.pop();
        }
        self.moves.push(end);
    }

    /// Its insert, or the first change that is known.
    pub(super) fn begun(&self) -> Option<&Transition> {
        self.moves.first().map(AsRef::as_ref)
    }

    /// The change to its final status.
    pub(super) fn end(&self) -> Option<&Transition> {
        let mut moves = self.moves.iter().map(AsRef::as_ref);
        moves.find(|moved| is_final(moved.after.status))
    }

    /// Its end, if that has this status.
    pub(super) fn end_as(&self, status: Status) -> Option<&Transition> {
        self.end().filter(|end| end.after.status == status)
    }

    /// The attempts at its callback until `state`: a redelivery counts on from its job's, and a job
    /// from those at the work.
    pub(super) fn attempts(&self, state: &RowState) -> i64 {
        let before = self.begun().map_or(0, |begun| begun.after.attempts);
        state.attempts - before - self.work_attempts
    }

    /// The last fencing token of earlier series, which is stale in this one.
    pub(super) fn claims_before(&self) -> Option<i64> {
        let begun = self.begun().filter(|_| self.kind == RowKind::Redelivery)?;
        Some(begun.after.claim)
    }

    /// Whether the row was held under this claim.
    pub(super) fn was_held_under(&self, claim: i64) -> bool {
        let mut states = self.moves.iter().map(|moved| &moved.after);
        states.any(|state| state.claim == claim && state.status == Status::Processing)
    }

    /// Whether the end of this redelivery made this change of the job's row.
    pub(super) fn has_written_back(&self, moved: &Transition) -> bool {
        self.written_back.iter().any(|it| ptr::eq(*it, moved))
    }

    /// A violation by this row, in words.
    pub(super) fn name(&self, what: &str) -> String {
        match self.kind {
            RowKind::Job => what.to_owned(),
            RowKind::Redelivery => format!("in a redelivery, {what}"),
        }
    }
}

/// A change as it was recorded.
fn borrowed<'a>(moved: &Cow<'a, Transition>) -> Option<&'a Transition> {
    match moved {
        Cow::Borrowed(moved) => Some(moved),
        Cow::Owned(_) => None,
    }
}

/// Whether the row has the next claim number, and no worker holds it.
fn is_taken_away(before: &RowState, after: &RowState) -> bool {
    after.claim == before.claim + 1 && after.owner.is_none()
}

/// Whether the job, or the redelivery, ended because it was cancelled.
pub(super) fn is_cancel(moved: &Transition) -> bool {
    let before = moved.before.as_ref();
    let before = before.filter(|before| !is_final(before.status));
    moved.after.status == Status::Failed
        && before.is_some_and(|before| is_taken_away(before, &moved.after))
}

/// Whether a worker claimed the row.
pub(super) fn is_claim(moved: &Transition) -> bool {
    let pending = moved.before.as_ref().map(|before| before.status) == Some(Status::Pending);
    pending && moved.after.status == Status::Processing
}
